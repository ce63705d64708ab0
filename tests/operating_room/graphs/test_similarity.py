"""Similar samples by index equal those by comparing all pairs."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from operating_room.domain.domain import mmor
from operating_room.graphs.scene_graph import Sample, Triplet
from operating_room.graphs.similarity import MAX_DRAWN, SimilarSamples
from tests.operating_room.graphs import random_samples


def similar(one: Sample, other: Sample) -> bool:
    """Section 4.4 word by word."""
    if ("4DOR" in one.take_name) != ("4DOR" in other.take_name):
        return False
    for level in mmor().language.levels:
        ours, theirs = ([t for t in s.triplets if t.predicate in level] for s in (one, other))
        if {t.predicate for t in ours} != {t.predicate for t in theirs}:
            return False
        if ours:
            return all(any(t in theirs for t in ours if t.predicate == predicate) for _, _, predicate in ours)
    return not one.triplets and not other.triplets


@given(st.integers(0, 10_000), st.integers(2, 40))
def test_index_finds_what_comparing_all_pairs_finds(seed: int, count: int) -> None:
    samples = random_samples(count, seed)
    Random(seed).shuffle(samples)  # takes need not be contiguous
    finder = SimilarSamples(samples, mmor())
    for index, one in enumerate(samples):
        expected = [i for i, other in enumerate(samples) if i != index and similar(one, other)]
        assert finder.similar(index) == expected
        drawn = finder.draw(index, Random(seed))
        assert set(drawn) <= set(expected)
        assert len(drawn) == len(set(drawn)) <= MAX_DRAWN


def test_draw_shares_among_takes_and_follows_the_seed() -> None:
    graph = (Triplet("nurse", "saw", "holding"),)
    sizes = {"001_PKA_MMOR": 30, "003_TKA_MMOR": 4, "005_TKA_MMOR": 30}
    samples = [Sample(take, f"{frame:06d}", graph) for take, size in sizes.items() for frame in range(size)]
    finder = SimilarSamples(samples, mmor())
    drawn = finder.draw(0, Random(5))
    assert Counter(samples[index].take_name for index in drawn) == {
        "001_PKA_MMOR": 7,
        "003_TKA_MMOR": 4,  # all it has, of a quota of 7
        "005_TKA_MMOR": 6,
    }
    assert drawn == finder.draw(0, Random(5))
    assert 0 not in drawn


def test_takes_of_one_dataset_are_alike_whatever_their_names() -> None:
    graph = (Triplet("nurse", "saw", "holding"),)
    takes = ("my_4DOR_room_MMOR", "001_PKA_MMOR", "001_4DOR")
    assert SimilarSamples([Sample(take, "000001", graph) for take in takes], mmor()).similar(0) == [1]


def test_a_sample_like_no_other_has_no_similar_one() -> None:
    samples = [
        Sample("001_PKA_MMOR", "000000", (Triplet("nurse", "saw", "holding"),)),
        Sample("001_PKA_MMOR", "000001", (Triplet("mps", "saw", "holding"),)),  # another pair
        Sample("001_4DOR", "000000", (Triplet("nurse", "saw", "holding"),)),  # another dataset
        Sample("001_PKA_MMOR", "000002", ()),
    ]
    finder = SimilarSamples(samples, mmor())
    assert [finder.similar(index) for index in range(4)] == [[]] * 4
    assert finder.draw(0, Random(0)) == []
