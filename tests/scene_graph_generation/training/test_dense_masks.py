"""Dense teaching of the mask encoder: what is in a mask, however small."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from scene_graph_generation.model.encoders import MaskEncoder
from scene_graph_generation.training.dense import contents_loss, contents_readout, draw_by_size
from tests.scene_graph_generation.tiny_training import EXPERIMENT

TABLE, DRILL = 2, 13
COUNT = 48
CONFIG = replace(
    EXPERIMENT.model,
    vision=replace(EXPERIMENT.model.vision, width=64),
    pooler=replace(EXPERIMENT.model.pooler, mask_channels=(16, 32, 48, 64, 64)),
)


def with_a_drill(draw: torch.Generator) -> tuple[UInt8[Tensor, "masks 32 32"], Bool[Tensor, " masks"]]:
    """Rooms of 32x32 cells with a table of any size, half of them with a drill of one cell; and which ones."""
    masks = torch.zeros(COUNT, 32, 32, dtype=torch.uint8)
    there = torch.rand(COUNT, generator=draw) < 0.5
    for mask, held in zip(masks, there):
        y, x, height, width = torch.randint(1, 16, (4,), generator=draw).tolist()
        mask[y : y + height, x : x + width] = TABLE
        if held:
            row, column = torch.randint(0, 32, (2,), generator=draw).tolist()
            mask[row, column] = DRILL
    return masks, there


@pytest.mark.parametrize("by_size", [True, False])
def test_a_drill_of_one_cell_is_found_anywhere_in_rooms_never_seen(by_size: bool) -> None:
    """Drawn as any model's, the same encoder cannot tell after the same steps: it is right half the time by chance."""
    some, _ = with_a_drill(torch.Generator().manual_seed(1))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder, readout = MaskEncoder(CONFIG), contents_readout([some], CONFIG.vision.width, CONFIG.labels)
    if by_size:
        draw_by_size(encoder, [some])
    optimizer = torch.optim.AdamW([*encoder.parameters(), *readout.parameters()], 3e-3)
    draw = torch.Generator().manual_seed(0)
    for _ in range(400):
        optimizer.zero_grad()
        contents_loss(encoder, readout, [with_a_drill(draw)[0]]).backward()
        optimizer.step()
    right = []
    with torch.no_grad():
        for _ in range(4):
            masks, there = with_a_drill(draw)
            right.append((readout(encoder(masks))[:, DRILL] > 0.35) == there)
    share = torch.cat(right).float().mean()
    assert share > 0.9 if by_size else share < 0.7


def test_labels_are_drawn_by_their_size_and_what_they_bring_comes_through() -> None:
    encoder = MaskEncoder(CONFIG)
    before = encoder.embedding.weight.detach().clone()
    masks = torch.zeros(2, 32, 32, dtype=torch.uint8)
    masks[0, :8], masks[1, 5, 5] = TABLE, DRILL
    draw_by_size(encoder, [masks[:1], masks[1:]])
    grown = (encoder.embedding.weight / before)[:, 0]
    assert grown[DRILL].item() == pytest.approx(6.0)  # 60 cells to one, by the root, and 6 at most
    assert grown[TABLE].item() == pytest.approx((60 / 256) ** 0.5)
    assert grown[TABLE + 1].item() == 1.0
    with torch.no_grad():
        encoder.embedding.weight.zero_()
        encoder.embedding.weight[DRILL] = 2.25
        alone = torch.zeros(1, 32, 32, dtype=torch.uint8)
        nothing = encoder(alone)
        alone[0, 16, 16] = DRILL
        assert (encoder(alone) - nothing)[0, 0] == pytest.approx(2.25 * (4 / 9) ** 5, rel=0.3)


def test_before_anything_is_learnt_the_mean_mask_is_told() -> None:
    some, _ = with_a_drill(torch.Generator().manual_seed(1))
    readout = contents_readout([some[:20], some[20:]], CONFIG.vision.width, CONFIG.labels)
    told = readout(torch.rand(1, CONFIG.vision.width))[0]
    for label in (0, TABLE, DRILL):
        assert told[label].item() == pytest.approx(torch.log1p((some == label).sum((1, 2)).float()).mean().item())


def test_a_cell_more_costs_the_more_the_fewer_there_are() -> None:
    readout = torch.nn.Linear(CONFIG.vision.width, CONFIG.labels)
    torch.nn.init.zeros_(readout.weight)
    torch.nn.init.zeros_(readout.bias)
    nothing, one, many = (torch.zeros(1, 32, 32, dtype=torch.uint8) for _ in range(3))
    one[0, 0, 0] = DRILL
    many[0, :16] = DRILL
    encoder = MaskEncoder(CONFIG)
    losses = [contents_loss(encoder, readout, [mask]).item() for mask in (nothing, one, many)]
    log = torch.log1p(torch.tensor([1024.0, 1.0, 1023.0, 512.0]))  # smooth l1 of 0 and log: half off above 1
    assert losses[0] == pytest.approx((log[0] - 0.5).item())
    assert losses[1] == pytest.approx((log[2] - 0.5 + log[1] ** 2 / 2).item())
    assert losses[2] == pytest.approx(2 * (log[3] - 0.5).item())
    both = contents_loss(encoder, readout, [one, many]).item()
    assert both == pytest.approx((losses[1] + losses[2]) / 2)


@pytest.mark.parametrize(("embedding", "channels"), [(8, (4, 16, 16, 16, 16)), (16, (8, 32, 64, 64, 64))])
def test_encoders_that_are_narrow_at_first_can_be_drawn_by_size(embedding: int, channels: tuple[int, ...]) -> None:
    """Where a convolution has fewer inputs than come through, it ended in an IndexError."""
    model = EXPERIMENT.model
    pooler = replace(model.pooler, mask_embedding=embedding, mask_channels=channels, heads=2)
    vision = replace(model.vision, width=channels[-1], heads=2)
    encoder = MaskEncoder(replace(model, pooler=pooler, vision=vision))
    draw_by_size(encoder, [torch.zeros(1, 32, 32, dtype=torch.uint8)])
    weight = encoder.convolutions[0].weight
    assert isinstance(weight, Tensor)
    through = weight[: channels[0] // 2, :, 1, 1]
    assert torch.equal(through.count_nonzero(dim=1), torch.ones(channels[0] // 2, dtype=torch.int64))
