"""What can be told from the small masks alone: which deeds surgeons do, by readers of their own.

Usage: python scripts/probe_masks.py DATA RELATIONS... --held-out DATA RELATIONS... [--collection 4DOR] [--steps 1000]
DATA holds prepared takes (`mmor scene-graph preprocess masks`), RELATIONS are relationships_*.json. Each row learns
from the first ones, from nothing, and is scored on each file of the others: F1 of each deed, by whichever surgeon.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from computing.machine import seeded
from operating_room.domain.domain import mmor
from operating_room.graphs.graph_files import load_samples
from operating_room.recordings.dataset import Dataset
from operating_room_simulator.story.steps import SURGEONS
from scene_graph_generation.config.settings import read_experiment
from scene_graph_generation.inputs.modalities import read_masks
from scene_graph_generation.model.encoders import MaskEncoder
from scene_graph_generation.training.dense import cells_of, contents_loss, contents_readout, draw_by_size
from scene_graph_generation.training.presence import rarity_of

CONFIG = read_experiment(Path(__file__).parents[1] / "configs" / "scene_graph" / "small.yaml").model
DEEDS = ("cutting", "drilling", "sawing", "hammering", "cementing", "suturing", "cleaning", "assisting")
BATCH = 32
RATE = 1e-3
MEASURED = 300  # timepoints whose masks tell how much of a mask each label has


@dataclass(frozen=True)
class Timepoints:
    """Those of a file that have all masks: `masks` and which surgeon does which deed."""

    masks: UInt8[Tensor, "timepoints masks 32 32"]
    deeds: Float[Tensor, "timepoints deeds surgeons"]


def read(data: Path, files: list[Path], collection: str) -> Timepoints:
    """The timepoints of a collection in these files; ends the program if there are none."""
    dataset, masks, deeds = Dataset(data), list[Tensor](), list[list[list[bool]]]()
    for sample in (sample for file in files for sample in load_samples(file)):
        take = mmor().find_take(sample.take_name)
        if take.dataset != collection:
            continue
        paths = dataset.take(take).timepoint(sample.frame_id).several("masks")
        if len(paths) == CONFIG.masks:
            masks.append(read_masks([path for _, path in sorted(paths.items())], CONFIG))
            done = {(triplet.subject, triplet.predicate) for triplet in sample.triplets}
            deeds.append([[(surgeon, deed) in done for surgeon in SURGEONS] for deed in DEEDS])
    if not masks:
        names = ", ".join(file.name for file in files)
        raise SystemExit(f"{names}: no timepoint of {collection} with {CONFIG.masks} small masks in {data}")
    return Timepoints(torch.stack(masks), torch.tensor(deeds).float())


class Counts(nn.Module):
    """Of each mask log(1 + cells) of each label, and nothing of where they are."""

    def forward(self, masks: UInt8[Tensor, "masks 32 32"]) -> Float[Tensor, "masks labels"]:
        return torch.log1p(cells_of([masks], CONFIG.labels).float())


def learn(encoder: nn.Module, width: int, contents: bool, train: Timepoints, steps: int) -> Callable[[Tensor], Tensor]:
    """Learn to tell deeds, and what is in each mask if so asked; what comes back tells them of masks."""
    told = nn.Sequential(nn.Linear(CONFIG.masks * width, 256), nn.GELU(), nn.Linear(256, len(DEEDS) * len(SURGEONS)))
    readout = contents_readout(list(train.masks[:: max(1, len(train.masks) // MEASURED)]), width, CONFIG.labels)
    weights = [*encoder.parameters(), *told.parameters(), *(readout.parameters() if contents else ())]
    optimizer = torch.optim.AdamW(weights, RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps, pct_start=0.05)
    rarity = rarity_of(train.deeds.mean(0).clamp(min=1e-4))

    def answer(masks: UInt8[Tensor, "timepoints masks 32 32"]) -> Float[Tensor, "timepoints deeds surgeons"]:
        vectors = encoder(masks.flatten(0, 1)).reshape(len(masks), -1)
        return told(vectors).unflatten(1, (len(DEEDS), len(SURGEONS)))

    for _ in range(steps):
        chosen = torch.randint(len(train.masks), (BATCH,))
        masks = train.masks[chosen]
        if torch.rand(()) < 0.5:
            masks = masks.flip(-1)
        loss = F.binary_cross_entropy_with_logits(answer(masks), train.deeds[chosen], pos_weight=rarity)
        if contents:
            assert isinstance(encoder, MaskEncoder)
            loss = loss + contents_loss(encoder, readout, list(masks)) / CONFIG.labels
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
    return answer


def f1(answer: Callable[[Tensor], Tensor], held_out: Timepoints) -> Float[Tensor, " deeds"]:
    """F1 of each deed, by whichever surgeon."""
    with torch.no_grad():
        said = torch.cat([answer(masks) for masks in held_out.masks.split(64)]).gt(0).any(-1)
    true = held_out.deeds.bool().any(-1)
    return 2 * (said & true).sum(0) / (said.sum(0) + true.sum(0)).clamp(min=1)


def main() -> None:
    """Print a table row for each reader and each held-out file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", nargs="+", type=Path)
    parser.add_argument("--held-out", nargs="+", type=Path, required=True)
    parser.add_argument("--collection", default="4DOR")
    parser.add_argument("--steps", type=int, default=1000)
    asked = parser.parse_args()
    train = read(asked.train[0], asked.train[1:], asked.collection)
    held_out = {file.stem: read(asked.held_out[0], [file], asked.collection) for file in asked.held_out[1:]}
    counted = ", ".join(f"{name} {len(of.masks)}" for name, of in held_out.items())
    print(f"{len(train.masks)} timepoints to learn from; held out: {counted}; {asked.steps} steps of {BATCH}")
    print(f"| what reads the masks | held out | mean F1 | {' | '.join(DEEDS)} |")
    print("|---" * (3 + len(DEEDS)) + "|")
    for name, by_size, contents in (
        ("cells of each label", False, False),
        ("encoder", False, False),
        ("encoder that tells what is in a mask", False, True),
        ("encoder drawn by size", True, False),
        ("both", True, True),
    ):
        with seeded(0):
            counts = name == "cells of each label"
            encoder: nn.Module = Counts() if counts else MaskEncoder(CONFIG)
            if by_size:
                assert isinstance(encoder, MaskEncoder)
                draw_by_size(encoder, list(train.masks[:: max(1, len(train.masks) // MEASURED)]))
            width = CONFIG.labels if counts else CONFIG.vision.width
            answer = learn(encoder, width, contents, train, asked.steps)
        for place, of in held_out.items():
            scores = f1(answer, of)
            each = " | ".join(f"{score:.2f}" for score in scores.tolist())
            print(f"| {name} | {place} | {scores.mean():.3f} | {each} |", flush=True)


if __name__ == "__main__":
    main()
