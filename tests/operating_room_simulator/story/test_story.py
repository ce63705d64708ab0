from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operating_room.domain.collection import Take
from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.graphs.scene_graph import Sample, Triplet
from operating_room.scores.downstream_rules import our_rules
from operating_room.scores.sterility import find_breaches
from operating_room_simulator.story.annotated import annotated_surgery
from operating_room_simulator.story.news import draw_news
from operating_room_simulator.story.senses import told
from operating_room_simulator.story.steps import (
    BREACHES,
    GUESTS,
    PLAYBOOKS,
    STEP_WEIGHTS,
    STEPS,
    Playbook,
    require_names,
)
from operating_room_simulator.story.story import MIN_SECONDS, Surgery, closed, script_surgery


def _handful() -> list[Surgery]:
    return [
        script_surgery(take, 3, 120)
        for take in (*mmor().collection("MMOR").published[:6], *mmor().collection("4DOR").published[:2])
    ]


def test_a_handful_of_takes_shows_every_entity_and_every_predicate() -> None:
    triplets = [t for surgery in _handful() for moment in surgery.moments for t in moment.triplets]
    assert {t.predicate for t in triplets} == set(mmor().language.predicates)
    assert {name for t in triplets for name in t[:2]} == set(mmor().language.entities)


def test_graphs_are_as_full_as_real_ones() -> None:
    """The published graphs have 8.9 (MM-OR) and 8.0 (4D-OR) triplets, mostly closeTo, lyingOn and holding."""
    for dataset, takes in (
        ("MM-OR", mmor().collection("MMOR").published[:6]),
        ("4D-OR", mmor().collection("4DOR").published[:6]),
    ):
        moments = [moment for take in takes for moment in script_surgery(take, 0, 250).moments]
        counts = Counter(t.predicate for moment in moments for t in moment.triplets)
        assert 7 < counts.total() / len(moments) < 12, dataset
        assert counts.most_common(1)[0][0] == "closeTo"
        assert {"lyingOn", "holding"} <= {name for name, _ in counts.most_common(3)}


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(mmor().takes), st.integers(0, 1000), st.integers(MIN_SECONDS, 250))
def test_a_scripted_surgery_is_consistent(take: Take, seed: int, seconds: int) -> None:
    surgery = script_surgery(take, seed, seconds)
    assert surgery == script_surgery(take, seed, seconds)
    assert [moment.second for moment in surgery.moments] == list(range(seconds))
    required = set(STEPS) - {"scanning"} if take.dataset == "MMOR" else set(PLAYBOOKS[take.dataset].actions)
    assert required <= {moment.step for moment in surgery.moments}
    for moment in surgery.moments:
        assert moment.triplets == closed(moment.triplets)
        names = {name for t in moment.triplets for name in t[:2]}
        assert names <= {*moment.people, *moment.things}
        assert set(moment.people) <= set(mmor().language.people)
        assert not set(moment.things) & set(mmor().language.people)
        assert moment.next_action is None or moment.next_action[0] in mmor().task("next_action").classes
        assert moment.robot_phase.lower() in (mmor().task("robot_phase").classes if take.dataset == "MMOR" else ("",))
    assert [m.breaches for m in surgery.moments] == find_breaches(
        (m.triplets for m in surgery.moments), our_rules().sterility_breach
    )


def test_surgeries_differ_by_seed_and_by_take() -> None:
    one, other = mmor().find_take("001_PKA"), mmor().find_take("002_PKA")
    assert script_surgery(one, 0, 60).moments != script_surgery(one, 1, 60).moments
    assert script_surgery(one, 0, 60).moments != script_surgery(other, 0, 60).moments
    orders = {tuple(step for step, _ in groupby(m.step for m in s.moments)) for s in _handful()}
    assert len(orders) > 4


def test_sterility_is_broken_now_and_then() -> None:
    moments = [
        moment for take in mmor().collection("MMOR").published[:12] for moment in script_surgery(take, 0, 200).moments
    ]
    share = sum(bool(moment.breaches) for moment in moments) / len(moments)
    assert 0.003 < share < 0.05


def test_sterility_is_broken_as_often_as_asked() -> None:
    takes = mmor().collection("MMOR").published[:12]
    never, often = ([script_surgery(take, 0, 60, breaches=count) for take in takes] for count in (0, 8))
    broken = [[moment.breaches for moment in surgery.moments] for surgery in often]
    assert not any(moment.breaches for surgery in never for moment in surgery.moments)
    assert all(sum(map(bool, take)) > 5 for take in broken)
    assert {triplet.subject for take in broken for some in take for triplet in some} == {who for who, _ in BREACHES}
    # All else is as in the usual surgery until somebody walks to the first breach.
    usual = script_surgery(takes[0], 0, 60)
    first = next(second for second, some in enumerate(broken[0]) if some)
    assert usual.moments[: first - 3] == often[0].moments[: first - 3]
    with pytest.raises(UserError, match="nobody breaks sterility in simulated takes of 4DOR"):
        script_surgery(mmor().collection("4DOR").published[0], 0, 60, breaches=1)


def test_robot_phases_come_in_their_order() -> None:
    phases = [
        moment.robot_phase.lower() for moment in script_surgery(mmor().collection("MMOR").published[0], 0, 300).moments
    ]
    assert [phase for phase, _ in groupby(phases)] == list(mmor().task("robot_phase").classes)


def test_a_surgery_too_short_for_its_steps_is_refused() -> None:
    with pytest.raises(UserError, match="too short"):
        script_surgery(mmor().collection("MMOR").published[0], 0, MIN_SECONDS - 1)


def test_closing_a_graph_adds_what_label_conversion_adds() -> None:
    graph = closed([Triplet("nurse", "patient", "closeTo"), Triplet("mps", "mps_station", "touching")])
    assert graph == (
        Triplet("mps", "mps_station", "touching"),
        Triplet("nurse", "operating_table", "closeTo"),
        Triplet("nurse", "patient", "closeTo"),
        Triplet("patient", "operating_table", "lyingOn"),
    )
    assert closed([]) == ()


def test_annotations_become_a_surgery_with_the_same_graphs() -> None:
    scripted = script_surgery(mmor().find_take("002_PKA"), 5, 80)
    samples = [Sample("002_PKA_MMOR", f"{m.second:06d}", m.triplets) for m in scripted.moments]
    surgery = annotated_surgery(scripted.take, [Sample("009_TKA_MMOR", "000000", ()), *samples], 1)
    assert [m.triplets for m in surgery.moments] == [m.triplets for m in scripted.moments]
    for moment in surgery.moments:
        done = {(t.object, t.predicate) for t in moment.triplets}
        assert ("patient", "sawing") not in done or moment.step == "sawing"
        assert {name for t in moment.triplets for name in t[:2]} <= {*moment.people, *moment.things}
    assert surgery.moments[0].step == "arrival"
    assert surgery.moments[0].robot_phase == "Turn on"
    with pytest.raises(UserError, match="no sample of take 004_PKA_MMOR"):
        annotated_surgery(mmor().find_take("004_PKA"), samples, 1)


def test_annotations_are_told_by_witnesses_where_there_is_news() -> None:
    scripted = script_surgery(mmor().find_take("002_PKA"), 5, 80)
    samples = [Sample("002_PKA_MMOR", f"{m.second:06d}", m.triplets) for m in scripted.moments]
    plain = annotated_surgery(scripted.take, samples, 3)
    surgery = annotated_surgery(scripted.take, samples, 3, news=True)
    assert surgery.moments == plain.moments
    assert surgery.news == draw_news(scripted.take, 3, 80)
    assert surgery.news is not None
    by_speech = [deed for deed, who in surgery.news.witnesses if who == "speech"]
    assert by_speech
    seen = told(surgery, "views")
    assert not {t.predicate for m in seen.moments for t in m.triplets} & set(by_speech)
    assert len(seen.moments) == 80


def test_a_stretch_of_annotations_shows_as_much_as_it_can() -> None:
    scripted = script_surgery(mmor().find_take("002_PKA"), 5, 80)
    samples = [Sample("002_PKA_MMOR", f"{m.second:06d}", m.triplets) for m in scripted.moments]
    surgery = annotated_surgery(scripted.take, samples, 1, seconds=30)
    assert [moment.second for moment in surgery.moments] == list(range(30))
    counts = [len({t.predicate for sample in part for t in sample.triplets}) for part in (samples[:30], samples[-30:])]
    assert len({t.predicate for m in surgery.moments for t in m.triplets}) >= max(counts)
    assert annotated_surgery(scripted.take, samples, 1, 500) == annotated_surgery(scripted.take, samples, 1)


@pytest.mark.parametrize("playbook", PLAYBOOKS.values(), ids=PLAYBOOKS.keys())
def test_the_tables_use_the_published_names(playbook: Playbook) -> None:
    rows = [*playbook.background.items(), *GUESTS.items()]
    rows += [row for people in playbook.steps.values() for row in people.items()]
    activities = [(person, text) for person, choices in rows for _, text in choices] + list(BREACHES)
    activities += [("head_surgeon", text.format(surgeon="assistant_surgeon")) for _, text in playbook.helping]
    for person, text in activities:
        assert person in mmor().language.people
        for part in filter(None, text.split("; ")):
            object_, predicate = part.split()
            assert object_ in mmor().language.entities
            assert predicate in mmor().language.predicates
    assert set(playbook.things) <= set(mmor().language.entities)
    assert set(STEP_WEIGHTS) == set(STEPS)


def test_names_are_compared_with_the_domain() -> None:
    require_names(mmor())
    other = replace(mmor().language, people=mmor().language.people[1:])
    with pytest.raises(UserError, match="the simulated surgery has 'anaesthetist', which this domain has not"):
        require_names(replace(mmor(), language=other))
