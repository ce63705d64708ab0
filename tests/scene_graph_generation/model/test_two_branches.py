"""The pooler with two branches, as EgoExOR has it (facts of egoexor.md, section 9)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from operating_room.errors import UserError
from scene_graph_generation.config.settings import MM2SGConfig
from scene_graph_generation.inputs.example import Example
from scene_graph_generation.inputs.modalities import BRANCHES, MODALITIES, most_visual_tokens
from scene_graph_generation.model.decoding import generate
from scene_graph_generation.model.encoders import BodyEncoder
from scene_graph_generation.model.mm2sg import MM2SG
from tests.scene_graph_generation.model.test_model import TINY, make_examples, make_model

EGOEXOR = replace(
    TINY,
    masks=0,
    modalities=("views", "cloud", "audio", "gaze", "hands"),
    pooler=replace(TINY.pooler, branches="ego_exo", layers=3, heads=16, max_views=9, body_width=6),
)
TOKENS = EGOEXOR.vision.tokens


def sample(ego: int, exo: int, *names: str) -> Example:
    """A sample with so many views of each kind, and these modalities."""
    draw = torch.Generator().manual_seed(10 * ego + exo)
    values = {
        "gaze": torch.rand(ego, 3, generator=draw),
        "hands": torch.rand(ego, 16, generator=draw),
        "audio": torch.randn(12, generator=draw),
        "cloud": torch.rand(50, 6, generator=draw),
    }
    views = torch.randn(ego + exo, 3, 28, 28, generator=draw)
    return replace(make_examples()[0], views=views, others={name: values[name] for name in names}, ego=ego)


ALL = sample(4, 6, "gaze", "hands", "audio", "cloud")


@pytest.fixture(scope="module")
def model() -> MM2SG:
    return make_model(EGOEXOR)


def visual(model: MM2SG, example: Example) -> torch.Tensor:
    with torch.no_grad():
        return model.visual_tokens([example])[0]


@pytest.mark.parametrize(("ego", "exo", "parts"), [(4, 6, 2), (3, 0, 1), (0, 5, 1)])
def test_a_branch_gives_as_many_tokens_as_a_view_and_a_missing_one_none(
    model: MM2SG, ego: int, exo: int, parts: int
) -> None:
    """Section 9: 2 x 576 tokens, 576 where a branch is missing, whatever else is there."""
    assert len(visual(model, sample(ego, exo, "gaze", "hands", "audio", "cloud"))) == parts * TOKENS


@pytest.mark.parametrize(
    ("name", "branch"), [(name, b) for b in ("ego", "exo") for name in BRANCHES[b] if name != "masks"]
)
def test_gaze_and_hands_are_pooled_with_glasses_and_sound_and_cloud_with_the_room(
    model: MM2SG, name: str, branch: str
) -> None:
    """Section 9: what stands beside the views goes into its branch before pooling; ego tokens come first."""
    whole, without = visual(model, ALL), visual(model, ALL.without(name))
    differs = [bool((whole[part] - without[part]).abs().max() > 1e-6) for part in (slice(TOKENS), slice(TOKENS, None))]
    assert differs == ([True, False] if branch == "ego" else [False, True])


def test_most_visual_tokens(model: MM2SG) -> None:
    assert most_visual_tokens(EGOEXOR) == len(visual(model, ALL))
    assert most_visual_tokens(TINY) == TINY.vision.tokens + 1 + 1 + 3


def test_views_of_glasses_do_not_reach_the_other_branch_but_both_go_through_one_pooler(model: MM2SG) -> None:
    """Section 9: two calls of the same module."""
    other = replace(ALL, views=torch.cat([ALL.views[:4] + 1, ALL.views[4:]]))
    assert torch.equal(visual(model, ALL)[TOKENS:], visual(model, other)[TOKENS:])
    assert not torch.equal(visual(model, ALL)[:TOKENS], visual(model, other)[:TOKENS])
    swapped = replace(ALL.without("gaze", "hands", "audio", "cloud"), views=ALL.views[:2], ego=1)
    both = visual(model, swapped)
    back = visual(model, replace(swapped, views=swapped.views.flip(0)))
    torch.testing.assert_close(back, torch.cat([both[TOKENS:], both[:TOKENS]]))


def test_order_behind_the_views(model: MM2SG) -> None:
    """Section 9: gaze tokens, then hand tokens; audio, then point cloud; at the positions behind the views."""
    pooler = model.pooler
    assert pooler is not None
    with torch.no_grad():
        features = model.vision(ALL.views)
        tokens = {
            row.name: getattr(pooler, row.encoder).encode([ALL.others[row.name]])[0]
            for row in MODALITIES
            if row.name in ALL.others
        }
        expected = [
            pooler.views(part[None], torch.cat([tokens[name] for name in names])[None])[0]
            for part, names in ((features[:4], ("gaze", "hands")), (features[4:], ("audio", "cloud")))
        ]
        found = pooler([features], [ALL.others], [4])[0]
    assert [len(tokens[name]) for name in ("gaze", "hands", "audio", "cloud")] == [4, 4, 1, 1]
    torch.testing.assert_close(found, torch.cat(expected))


def test_a_batch_gives_what_its_samples_give_alone(model: MM2SG) -> None:
    """Section 9: published, what is behind padded views and pictures of mates that lack a branch shift; not here."""
    examples = [ALL, sample(2, 3, "gaze", "audio"), sample(0, 5, "cloud"), sample(3, 0, "hands")]
    together = generate(model, examples, end_ids=[2], max_new_tokens=8)
    assert together == [generate(model, [example], end_ids=[2], max_new_tokens=8)[0] for example in examples]


def test_published_sizes() -> None:
    """Section 9: gaze 3-512-1024, hands 16-512-1024, Linear-ReLU-Linear-ReLU."""
    config = MM2SGConfig()
    for numbers in (3, 16):
        shapes = [tuple(p.shape) for p in BodyEncoder((1.0,) * numbers, config).parameters()]
        assert shapes == [(512, numbers), (512,), (1024, 512), (1024,)]
    kinds = [type(layer) for layer in BodyEncoder((1.0,) * 3, config).mlp]
    assert kinds == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU]


def test_values_as_fed() -> None:
    """Section 9: gaze clamped to 0..1, its depth to max_depth; hands clamped, NaN is 0; (-1, -1) ends as (0, 0)."""
    gaze = BodyEncoder((1.0, 1.0, 1.0), EGOEXOR)
    given = torch.tensor([[-1 / 336, -1 / 336, 1.0], [0.5, 1.2, 7.0]])
    torch.testing.assert_close(gaze(given), gaze.mlp(torch.tensor([[0.0, 0.0, 1.0], [0.5, 1.0, 1.0]])))
    hands = BodyEncoder((1.0,) * 16, EGOEXOR)
    points = torch.full((1, 16), 0.25)
    points[0, 3], points[0, 5] = torch.nan, 1.5
    fed = torch.full((1, 16), 0.25)
    fed[0, 3], fed[0, 5] = 0.0, 1.0
    torch.testing.assert_close(hands(points), hands.mlp(fed))


def test_gaze_without_branches_stands_behind_the_views() -> None:
    """A row of the table is enough for a model of one branch, too."""
    one = make_model(replace(EGOEXOR, pooler=replace(EGOEXOR.pooler, branches="one", max_views=10)))
    assert len(visual(one, ALL)) == TOKENS + 1 + 1 + 4 + 4
    assert len(visual(one, ALL.without("gaze"))) == TOKENS + 1 + 1 + 4


def test_what_has_no_encoder_is_refused() -> None:
    blind = make_model(replace(EGOEXOR, modalities=("views", "audio", "cloud")))
    with pytest.raises(ValueError, match="no encoder for gaze"):
        visual(blind, ALL)


@pytest.mark.parametrize("change", [{"modalities": (*TINY.modalities, "gaze")}, {"pooler": EGOEXOR.pooler}])
def test_published_batching_is_of_mmor_alone(change: dict) -> None:
    with pytest.raises(UserError, match="batching: published is that of MM-OR's model"):
        replace(TINY, batching="published", **change)


def test_every_part_gets_a_gradient() -> None:
    model = MM2SG(EGOEXOR)
    model.visual_tokens([ALL])[0].square().sum().backward()
    assert model.pooler is not None
    for row in MODALITIES:
        if row.name in ALL.others:
            weights = list(getattr(model.pooler, row.encoder).parameters())
            assert any(weight.grad is not None and weight.grad.abs().max() > 0 for weight in weights), row.name
