"""The temporal memory: incremental equals from-scratch, and the quirks that must stay."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.graphs.memory import (
    DOWNSTREAM_STYLES,
    SCENE_GRAPH_STYLES,
    STYLES,
    Memory,
    changes_before,
    draw_style,
    memory_text,
    truncate,
    unswapped,
)
from operating_room.graphs.scene_graph import Triplet
from tests.operating_room.graphs import random_samples

NAMES = st.sampled_from(["nurse", "patient", "none", "<SG> nurse", "saw"])
WORDS = st.sampled_from(["holding", "touching", "closeTo", "closeto", "none", "not holding", ""])
FRAMES = st.lists(st.lists(st.builds(Triplet, NAMES, NAMES, WORDS), max_size=4), max_size=12)


def from_scratch(frames: Sequence[Iterable[Triplet]], style: str) -> str:
    """Section 5 word by word: log of all frames, then the strings."""
    log: list[Triplet] = []
    for frame in frames:
        state: dict[tuple[str, str], str] = {}
        for subject, object_, predicate in log:  # replay
            if predicate.startswith("not "):
                state.pop((subject, object_), None)
            else:
                state[subject, object_] = predicate
        now: dict[tuple[str, str], str] = {}
        for subject, object_, predicate in frame:
            if predicate not in ("closeto", "closeTo") and "none" not in (subject, object_):
                now[subject, object_] = predicate
        log += [Triplet(*pair, now[pair]) for pair in now if pair not in state]
        log += [Triplet(*pair, f"not {state[pair]}") for pair in state if pair not in now]
    long: list[Triplet] = []
    for triplet in log[:-5]:
        if not triplet.predicate.startswith("not ") and triplet not in long:
            long.append(triplet)
    told = {"short": "Short: " + _entries(log[-5:]), "long": "Long: " + _entries(long)}
    told["longshort"] = told["long"] + told["short"]
    return told[style][:-2]


def _entries(triplets: Iterable[Triplet]) -> str:
    return "".join(f"{subject},{object_},{predicate}; " for subject, object_, predicate in triplets)


@given(FRAMES, st.sampled_from(STYLES))
def test_incremental_equals_from_scratch_at_every_timepoint(frames: list[list[Triplet]], style: str) -> None:
    memory = Memory(mmor().language.forgotten_spellings)
    for time, frame in enumerate(frames):
        assert memory.text(style) == from_scratch(frames[:time], style)
        memory.add(frame, time)
    assert memory.text(style) == from_scratch(frames, style)
    for time in range(len(frames) + 1):
        assert memory_text(changes_before(memory.log, time), style) == from_scratch(frames[:time], style)


def test_no_history_is_only_the_headings() -> None:
    assert [Memory(mmor().language.forgotten_spellings).text(style) for style in STYLES] == [
        "Short",
        "Long",
        "Long: Short",
    ]


def test_changing_predicate_is_not_noticed_and_its_end_names_the_old_one() -> None:
    memory = Memory(mmor().language.forgotten_spellings)
    memory.add([Triplet("nurse", "saw", "holding")], 0)
    memory.add([Triplet("nurse", "saw", "touching")], 1)
    memory.add([], 2)
    assert memory.text("short") == "Short: nurse,saw,holding; nurse,saw,not holding"


def test_close_relations_are_forgotten_unless_kept() -> None:
    memory, keeper = (
        Memory(mmor().language.forgotten_spellings),
        Memory(()),
    )
    for one in (memory, keeper):
        one.add([Triplet("nurse", "saw", "closeTo")], 0)
    assert memory.text("short") == "Short"
    assert keeper.text("short") == "Short: nurse,saw,closeTo"


def test_published_downstream_memory_swaps_object_and_predicate() -> None:
    memory = Memory(mmor().language.forgotten_spellings)
    near = [Triplet("nurse", "instrument_table", "closeTo"), Triplet("nurse", "patient", "closeTo")]
    memory.add(unswapped(near), 0)
    memory.add([], 1)
    assert memory.text("short") == "Short: nurse,closeTo,patient; nurse,closeTo,not patient"


@given(FRAMES, st.integers(0, 2**32), st.sampled_from(STYLES))
def test_dropping_takes_entries_away_and_follows_the_seed(frames: list[list[Triplet]], seed: int, style: str) -> None:
    memory = Memory(mmor().language.forgotten_spellings)
    for time, frame in enumerate(frames):
        memory.add(frame, time)
    dropped = memory_text(memory.log, style, 0.5, Random(seed))
    assert dropped == memory_text(memory.log, style, 0.5, Random(seed))
    entries = iter(f"{memory.text(style)}; ".replace("Short: ", "Short; ").split("; "))
    assert all(entry in entries for entry in f"{dropped}; ".replace("Short: ", "Short; ").split("; ")[1:-1])
    assert memory_text(memory.log, style, 0.0, Random(seed)) == memory.text(style)


def test_dropping_needs_a_generator_and_style_must_exist() -> None:
    with pytest.raises(ValueError, match="generator"):
        memory_text([], "long", 0.5)
    with pytest.raises(UserError, match="short, long, longshort"):
        Memory(mmor().language.forgotten_spellings).text("all")


def test_truncation_keeps_the_newest_characters() -> None:
    assert truncate("a" * 5000) == "a" * 5000
    assert truncate("a" + "b" * 5000) == "..." + "b" * 5000


@pytest.mark.parametrize(
    ("styles", "shares"),
    [(SCENE_GRAPH_STYLES, (0.5, 0.166, 0.167, 0.167)), (DOWNSTREAM_STYLES, (0.1, 0.15, 0.15, 0.6))],
)
def test_styles_are_drawn_with_the_published_odds(
    styles: Sequence[tuple[float, str | None]], shares: tuple[float, ...]
) -> None:
    generator = Random(1)
    drawn = [draw_style(styles, generator) for _ in range(8000)]
    for style, share in zip((None, "short", "long", "longshort"), shares, strict=True):
        assert drawn.count(style) / len(drawn) == pytest.approx(share, abs=0.02)


def test_time_per_timepoint_does_not_grow() -> None:
    memory = Memory(mmor().language.forgotten_spellings)
    seconds = []
    samples = random_samples(3000, 3, ("001_PKA_MMOR",))
    for part in (samples[:1500], samples[1500:]):
        start = process_time()
        for time, sample in enumerate(part):
            memory.text()
            memory.add(sample.triplets, time)
        seconds.append(process_time() - start)
    assert len(memory.log) > 3000
    assert seconds[1] < 4 * seconds[0]


def test_where_a_pair_has_several_predicates_each_is_remembered_for_itself() -> None:
    """The last one of a pair took the place of the others, and one that came beside it was never told."""
    cut, hold = Triplet("surgeon", "patient", "cutting"), Triplet("surgeon", "patient", "holding")
    memory = Memory((), several=True)
    for time, frame in enumerate([[hold, cut], [cut], [cut, hold], []]):
        memory.add(frame, time)
    told = [(change.time, change.triplet.predicate) for change in memory.log]
    assert told == [
        (0, "holding"), (0, "cutting"), (1, "not holding"), (2, "holding"), (3, "not cutting"), (3, "not holding")
    ]  # fmt: skip
    assert memory.text() == memory_text(memory.log)
    assert Memory.of(mmor().language).state == {}
