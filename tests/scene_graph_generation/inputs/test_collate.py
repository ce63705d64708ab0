"""Merging text and visual tokens."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scene_graph_generation.inputs.example import IGNORED, IMAGE, Example, merge

WIDTH = 3


def embed(ids: torch.Tensor) -> torch.Tensor:
    """Each id as a vector of itself."""
    return ids[:, None].float().expand(-1, WIDTH)


def make(before: list[int], after: list[int]) -> Example:
    ids = torch.tensor([*before, IMAGE, *after])
    labels = torch.where(ids > 50, ids, IGNORED)
    return Example(ids=ids, labels=labels, views=torch.zeros(1, 3, 2, 2))


texts = st.lists(st.integers(0, 99), max_size=6)


@given(st.lists(st.tuples(texts, texts, st.integers(1, 4)), min_size=1, max_size=4), st.sampled_from(["left", "right"]))
def test_each_sample_is_its_text_with_the_visual_tokens_inside(
    samples: list[tuple[list[int], list[int], int]], side: Literal["left", "right"]
) -> None:
    examples = [make(before, after) for before, after, _ in samples]
    visual = [torch.full((count, WIDTH), -7.0) for _, _, count in samples]
    merged = merge(examples, visual, embed, max_length=100, side=side)
    assert merged.learnt.tolist() == (merged.labels != IGNORED).nonzero().T.tolist()
    for row, (before, after, count) in enumerate(samples):
        mask = merged.attention_mask[row]
        expected = [*before, *[-7] * count, *after]
        assert merged.embeddings[row][mask][:, 0].tolist() == expected
        assert merged.position_ids[row][mask].tolist() == list(range(len(expected)))
        assert merged.labels[row][mask].tolist() == [value if value > 50 else IGNORED for value in expected]
        assert (merged.labels[row][~mask] == IGNORED).all()
        assert not merged.embeddings[row][~mask].any()
        padding = (~mask).nonzero().flatten().tolist()
        start = 0 if side == "left" else int(mask.sum())
        assert padding == list(range(start, start + len(padding)))


def test_what_is_too_long_loses_its_end() -> None:
    merged = merge([make([1, 2], [63, 64, 65])], [torch.full((2, WIDTH), -7.0)], embed, max_length=5)
    assert merged.embeddings[0, :, 0].tolist() == [1, 2, -7, -7, 63]
    assert merged.learnt.tolist() == [[0], [4]]


@pytest.mark.parametrize("ids", [[1, 2], [IMAGE, 1, IMAGE]])
def test_exactly_one_image_placeholder_is_needed(ids: list[int]) -> None:
    example = Example(ids=torch.tensor(ids), views=torch.zeros(1, 3, 2, 2))
    with pytest.raises(ValueError, match="exactly one image placeholder"):
        merge([example], [torch.zeros(1, WIDTH)], embed, max_length=9)


def test_a_sample_without_views_is_its_text() -> None:
    ids = torch.tensor([0, 5, 18610, 6])  # neither id 0 nor the one of "***" is anything special
    example = Example(ids=ids, views=torch.zeros(0, 3, 2, 2))
    merged = merge([example, make([1, 2], [3, 18610, 4, 0])], [torch.zeros(0, WIDTH), torch.ones(1, WIDTH)], embed, 9)
    assert merged.embeddings[0, :4, 0].tolist() == ids.tolist()
    assert merged.attention_mask.sum(1).tolist() == [4, 7]
    assert merged.embeddings[1, :, 0].tolist() == [1, 2, 1, 3, 18610, 4, 0]
    with pytest.raises(ValueError, match="without views none"):
        merge([make([1], [2])], [torch.zeros(0, WIDTH)], embed, max_length=9)


def test_an_example_moves_with_everything_it_has() -> None:
    example = Example(ids=torch.tensor([IMAGE]), views=torch.zeros(1, 3, 2, 2), others={"audio": torch.zeros(4)}).to(
        "meta"
    )
    assert example.views.is_meta
    assert example.audio is not None
    assert example.audio.is_meta
    assert example.masks is None


def test_a_moved_example_is_not_asked_where_its_image_is() -> None:
    example = make([1, 2], [3]).to("meta")  # its ids cannot be read any more, as a GPU's cannot without waiting for it
    assert example.image_places == [2]


@pytest.mark.parametrize("count", [0, 3])
def test_the_batch_has_the_number_format_of_the_embedding(count: int) -> None:
    def half(ids: torch.Tensor) -> torch.Tensor:
        return embed(ids).bfloat16()

    example = make([1, 2], [3]) if count else Example(ids=torch.tensor([1, 2]), views=torch.zeros(0, 3, 2, 2))
    merged = merge([example], [torch.zeros(count, WIDTH)], half, max_length=9)
    assert merged.embeddings.dtype == torch.bfloat16
