"""Reading and writing scene graphs as text and as records."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.graphs.scene_graph import Sample, Triplet, normalise, parse, target_text
from tests.operating_room.graphs import graphs

PIECES = st.sampled_from(
    ["<SG>", "</SG>", '"""', ";", ",", ".", "</s>", "<s>", " ", "nurse", "patient", "closeTo", "\n"]
)


@given(st.text() | st.lists(PIECES).map("".join))
def test_parse_never_raises_and_gives_stripped_fields(text: str) -> None:
    for triplet in parse(text):
        assert all(name == name.strip() and ";" not in name and "," not in name for name in triplet)


@given(graphs)
def test_target_text_parses_back_to_the_same_graph(graph: tuple[Triplet, ...]) -> None:
    expected = [Triplet(s, o, p.lower()) for s, o, p in graph]
    assert [normalise(triplet, mmor().language) for triplet in parse(target_text(graph))] == expected


def test_target_text_is_spoken_except_for_predicates() -> None:
    graph = [Triplet("head_surgeon", "c_arm", "closeTo"), Triplet("patient", "operating_table", "lyingOn")]
    assert target_text(graph) == "<SG> head surgeon,c arm,closeTo; patient,operating table,lyingOn </SG>"
    assert target_text([]) == "<SG> </SG>"


def test_unfinished_answer_loses_its_first_triplet() -> None:
    triplets = parse("<SG> nurse,patient,holding; nurse,saw,holding; nur")
    assert triplets == [Triplet("<SG> nurse", "patient", "holding"), Triplet("nurse", "saw", "holding")]
    assert normalise(triplets[0], mmor().language) is None


def test_reasoning_and_text_around_the_graph_are_ignored() -> None:
    answer = '"""I see <SG> a,b,c </SG>\nand more""" Here: <SG> nurse,saw,holding. </SG> drill,saw,holding'
    assert parse(answer) == [Triplet("nurse", "saw", "holding")]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (("head_surgent", "Operating Table", "Close to"), ("head_surgeon", "operating_table", "closeto")),
        (("anesthetist", "anaesthetist_station", "TOUCHING"), ("anaesthetist", "anesthesia_equipment", "touching")),
        (("Anesthetist", "tool", "holding"), None),  # role synonyms are compared before lower-casing
        (("nurse", "tool", "instrument"), ("nurse", "instrument", "instrument")),  # one vocabulary for all slots
        (("nurse", "patient", "none"), None),
    ],
)
def test_normalise(raw: tuple[str, str, str], expected: tuple[str, str, str] | None) -> None:
    assert normalise(Triplet(*raw), mmor().language) == expected


def test_record_round_trip() -> None:
    sample = Sample("001_PKA_MMOR", "000012", (Triplet("nurse", "saw", "holding"),))
    assert Sample.from_record(sample.to_record()) == sample
    assert sample.sample_id == "001_PKA_MMOR_000012"


def test_a_frame_id_that_is_no_position_is_named() -> None:
    for frame_id in ("x", "-1", "9" * 5000, "\N{SUPERSCRIPT TWO}"):
        with pytest.raises(UserError, match="must be a position in the take's index"):
            _ = Sample("001_PKA_MMOR", frame_id, ()).position
    assert Sample("001_PKA_MMOR", "000012", ()).position == 12


@pytest.mark.parametrize(
    "record",
    [
        None,
        [],
        {"take_name": "001_PKA_MMOR", "frame_id": "000001"},
        {"take_name": "001_PKA_MMOR", "frame_id": 1.5, "relationships": []},
        {"take_name": "001_PKA_MMOR", "frame_id": "000001", "relationships": ["abc"]},
        {"take_name": "001_PKA_MMOR", "frame_id": "000001", "relationships": [["nurse", "saw"]]},
        {"take_name": "001_PKA_MMOR", "frame_id": "000001", "relationships": [["nurse", "saw", None]]},
    ],
)
def test_bad_records_say_what_is_needed(record: object) -> None:
    with pytest.raises(UserError, match=r"needs take_name, frame_id and relationships"):
        Sample.from_record(record)
