"""Whole triplets, segments, onset delays and hallucinations: by hand, and what must hold for any graphs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operating_room.domain.domain import bundled, mmor
from operating_room.graphs.scene_graph import Sample, Triplet
from operating_room.scores.scoring import score
from operating_room.scores.triplets.delays import onset_delays
from operating_room.scores.triplets.details import DEFINITIONS, Details, measure
from operating_room.scores.triplets.segments import OVERLAPS, match, overlap
from operating_room.scores.triplets.timelines import Interval, Timeline, timelines
from tests.operating_room.graphs import graphs

TAKE = "001_PKA_MMOR"
DRILL = Triplet("head_surgeon", "patient", "drilling")
HOLD = Triplet("nurse", "drill", "holding")
LIE = Triplet("patient", "operating_table", "lyingOn")


def take(*graphs: Sequence[Triplet], step: int = 1, name: str = TAKE) -> list[Sample]:
    """Timepoints with these graphs."""
    return [Sample(name, f"{place * step:06d}", tuple(graph)) for place, graph in enumerate(graphs)]


def details(truth: list[Sample], said: Sequence[Sequence[Triplet]], domain: str = "mmor") -> Details:
    predictions = {sample.sample_id: list(graph) for sample, graph in zip(truth, said, strict=True)}
    return measure(truth, predictions, score(truth, predictions, bundled(domain)), bundled(domain))


def during(triplet: Triplet, length: int, *spans: tuple[int, int]) -> list[list[Triplet]]:
    """`length` graphs of which those in the spans (end left out) hold the triplet."""
    return [[triplet] if any(start <= place < end for start, end in spans) else [] for place in range(length)]


def test_segments_by_hand() -> None:
    truth = take(*during(DRILL, 20, (0, 10), (12, 16)))
    # IoU 4/10 with the first; a second piece of it is too much; 2/6 with the second, which it outlasts by two.
    found = details(truth, during(DRILL, 20, (2, 6), (7, 8), (14, 18))).segments["drilling"]
    assert (found.true, found.predicted, found.right) == (2, 3, (2, 2, 0))
    assert found.f1 == {"f1@10": 0.8, "f1@25": 0.8, "f1@50": 0}


def test_a_true_interval_is_found_once_and_a_longer_one_costs_as_much_as_a_short_one() -> None:
    assert match([Interval(0, 10)], [Interval(0, 5), Interval(5, 10)]).right == (1, 1, 1)
    assert match([Interval(0, 10), Interval(11, 12)], [Interval(0, 12)]).right == (1, 1, 1)
    assert overlap(Interval(0, 4), Interval(4, 8)) == 0
    assert overlap(Interval(0, 4), Interval(2, 6)) == pytest.approx(1 / 3)


class Counted(list[Interval]):
    """Intervals, and how often one of them was looked at."""

    looks = 0

    def __getitem__(self, place: Any) -> Any:
        type(self).looks += 1
        return super().__getitem__(place)

    def __iter__(self) -> Iterator[Interval]:
        for interval in super().__iter__():
            type(self).looks += 1
            yield interval


def test_a_triplet_that_flickers_for_hours_is_scored_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each predicted interval was compared with all true ones, and the other way round."""
    count, rng = 400, Random(0)
    spans = [sorted(rng.sample(range(10 * count), 2 * count)) for _ in range(2)]
    true, said = ([Interval(*pair) for pair in zip(of[::2], of[1::2])] for of in spans)
    best = [max((overlap(one, other), -place) for place, other in enumerate(true)) for one in said]
    expected = tuple(len({place for share, place in best if 100 * share >= least}) for least in OVERLAPS)
    assert match(Counted(true), Counted(said)).right == expected
    assert Counted.looks < 10 * count

    graphs_of = (during(DRILL, 10 * count, *of) for of in (true, said))
    samples, predicted = take(*next(graphs_of)), next(graphs_of)
    (timeline,) = timelines(samples, {s.sample_id: g for s, g in zip(samples, predicted, strict=True)}, mmor())
    before = []
    for interval, earliest in zip(true, [0, *(end for _, end in true)]):
        start = max(interval.start - 5, earliest)
        first = next((max(p.start, start) for p in said if p.start < interval.end and p.end > start), None)
        before += [] if first is None or not interval.start else [float(first - interval.start)]
    Counted.looks = 0
    counted = {DRILL._replace(predicate="drilling"): Counted(said)}
    monkeypatch.setattr(Timeline, "predicted_intervals", lambda self: counted)
    assert onset_delays([timeline])["drilling"].found == tuple(before)
    assert Counted.looks < 10 * count


def test_a_gap_between_timepoints_ends_an_interval_and_thinned_ones_do_not() -> None:
    whole = take(*during(DRILL, 6, (0, 6)), step=3)
    assert details(whole, [[DRILL]] * 6).segments["drilling"].true == 1
    cut = [*whole[:3], *(Sample(TAKE, f"{100 + place:06d}", (DRILL,)) for place in (0, 3, 6))]
    assert details(cut, [[DRILL]] * 6).segments["drilling"].true == 2


def test_a_pause_of_the_recording_is_a_gap_too() -> None:
    """Positions of the index go on behind it: what began while nothing was recorded had a known onset."""
    truth = take(*during(DRILL, 12, (2, 9)))
    times = {sample.sample_id: place + 100.0 * (place > 5) for place, sample in enumerate(truth)}
    predictions = {sample.sample_id: sample.triplets for sample in truth}
    (told,) = timelines(truth, predictions, mmor(), times)
    assert told.true_intervals() == {next(iter(told.truth[3])): [(2, 6), (6, 9)]}
    found = onset_delays([told])["drilling"]
    assert (found.found, found.unknown) == ((0.0,), 1)
    jitter = {sample.sample_id: place + 0.1 * (place % 2) for place, sample in enumerate(truth)}
    (told,) = timelines(truth, predictions, mmor(), jitter)
    assert all(told.follows[1:])
    (told,) = timelines([truth[0], truth[7], truth[8]], predictions, mmor())
    assert told.follows == (False, False, True)  # of distances that are as frequent the shorter one is usual


@pytest.mark.parametrize(
    ("said", "delay"),
    [
        ([(10, 20)], 0),
        ([(13, 14)], 3),
        ([(8, 20)], -2),
        ([(0, 30)], -5),  # all along: as early as the window reaches
        ([(2, 4), (17, 18)], 7),  # what ended before the window is another event
        ([(2, 4)], None),
        ([(20, 30)], None),
        ([], None),
    ],
)
def test_onset_delays_by_hand(said: list[tuple[int, int]], delay: float | None) -> None:
    found = details(take(*during(DRILL, 30, (10, 20))), during(DRILL, 30, *said)).delays["drilling"]
    assert found.found == (() if delay is None else (delay,))
    assert (found.missed, found.unknown) == (int(delay is None), 0)


def test_onsets_that_nobody_saw_are_unknown_and_windows_do_not_reach_into_the_interval_before() -> None:
    truth = take(*during(DRILL, 20, (0, 3), (5, 9)))
    found = details(truth, during(DRILL, 20, (0, 9))).delays["drilling"]
    assert (found.found, found.missed, found.unknown) == ((-2,), 0, 1)


def test_delays_are_in_seconds_of_the_domain() -> None:
    name = "MISS_1_1"
    language = bundled("egoexor").language
    triplet = Triplet(language.entities[0], language.entities[1], language.predicates[0])
    truth = take(*during(triplet, 20, (5, 20)), step=15, name=name)
    found = details(truth, during(triplet, 20, (7, 20)), "egoexor").delays[triplet.predicate]
    assert found.found == pytest.approx((2.0,))


def test_hallucinations_by_hand() -> None:
    truth = take([HOLD], [])
    odd = Triplet("nurse", "a teapot", "holding")
    found = details(truth, [[HOLD, HOLD, Triplet("nurse", "saw", "holding"), odd], [LIE]]).hallucinations
    assert (found.triplets, found.invented, found.with_any, found.unreadable) == (3, 2, 2, 1)
    assert found.entities == {"operating_table": 1, "patient": 1, "saw": 1}
    assert found.share == pytest.approx(2 / 3)


def test_open_generation_and_given_pairs_by_hand() -> None:
    truth = take([HOLD, LIE])
    said = [HOLD, Triplet("mps", "drill", "holding"), Triplet("nurse", "drill", "touching")]
    found = details(truth, [said])
    holding = found.exact.to_json()["predicates"]["holding"]
    assert (holding["true"], holding["predicted"], holding["right"]) == (1, 2, 1)
    assert (holding["precision"], holding["recall"]) == (0.5, 1)
    assert found.exact.micro == {
        "precision": 1 / 3,
        "recall": 0.5,
        "f1-score": pytest.approx(0.4),
        "support": 2,
    }
    assert found.exact.macro["f1-score"] == pytest.approx((2 / 3 + 0) / 2)
    # Over all pairs `lyingOn` is missed; over those whose entities are named it is not asked for.
    assert found.given["f1-score"] < found.given_named["f1-score"] == 1


def test_everything_is_in_the_json_with_its_definition() -> None:
    told = json.loads(json.dumps(details(take(*during(DRILL, 40, (3, 6))), during(DRILL, 40, (4, 6))).to_json()))
    assert told.keys() <= DEFINITIONS.keys()
    assert told["segments"]["predicates"]["drilling"]["f1@50"] == 1
    assert told["delays"]["all"]["median"] == 1
    assert told["exact"]["predicates"]["drilling"]["intervals"].keys() == {"precision", "recall", "f1-score"}
    of_one_block = details(take(*during(DRILL, 9, (3, 6))), during(DRILL, 9, (4, 6))).to_json()
    assert of_one_block["exact"]["predicates"]["drilling"]["intervals"] == {}


takes = st.lists(graphs, min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(takes)
def test_a_perfect_prediction_is_perfect(truth: list[tuple[Triplet, ...]]) -> None:
    found = details(take(*truth), truth)
    assert found.hallucinations.invented == found.all_delays.missed == 0
    assert set(found.all_delays.found) <= {0}
    assert all(set(one.f1.values()) == {1} for one in found.segments.values())
    assert all(counts[0] == counts[1] == counts[2] for counts in found.exact.counts)


@settings(max_examples=60, deadline=None)
@given(takes, st.data())
def test_what_holds_for_any_prediction(truth: list[tuple[Triplet, ...]], data: st.DataObject) -> None:
    said = data.draw(st.lists(graphs, min_size=len(truth), max_size=len(truth)))
    found = details(take(*truth), said)
    for one in found.segments.values():
        f10, f25, f50 = one.f1.values()
        assert 0 <= f50 <= f25 <= f10 <= 1
        assert max(one.right) <= min(one.true, one.predicted)
    late = found.all_delays
    assert len(late.found) + late.missed + late.unknown == found.all_segments.true
    assert all(-5 <= delay < len(truth) for delay in late.found)
    counts = found.exact.counts
    assert (counts[:, 2] <= counts[:, :2].min(axis=1)).all()
    assert found.exact.micro["precision"] <= 1 - found.hallucinations.share + 1e-12
    for named in found.exact.intervals.values():
        assert all(0 <= low <= high <= 1 for low, high in named.values())


@settings(max_examples=30, deadline=None)
@given(takes, st.randoms(use_true_random=False))
def test_the_order_of_a_graph_and_a_repetition_change_nothing(truth: list[tuple[Triplet, ...]], random: Random) -> None:
    said = [[*graph, *graph[:1]] for graph in truth[::-1]]
    mixed = [random.sample(graph, len(graph)) for graph in said]
    samples, language = take(*truth), mmor()
    first, second = (
        timelines(samples, {s.sample_id: g for s, g in zip(samples, graphs)}, language) for graphs in (said, mixed)
    )
    assert first == second


def test_delays_are_in_the_seconds_of_the_take() -> None:
    samples = take(*[(), (), (DRILL,), (DRILL,), (DRILL,), ()])
    said = {s.sample_id: (DRILL,) if place in (3, 4) else () for place, s in enumerate(samples)}
    scores = score(samples, said, mmor())
    for times, delay in (({}, 1.0), ({s.sample_id: 0.5 * n for n, s in enumerate(samples)}, 0.5)):
        quartiles = measure(samples, said, scores, mmor(), times).all_delays.quartiles
        assert quartiles is not None
        assert quartiles[1] == delay
