"""Teach the visual path to see before the language model reads it.

The published model starts from a pretrained CLIP and from features of pretrained masks. A small model starts from
nothing, and the language loss alone, which falls by reading text, does not make it look within minutes. So its vision
tower is first taught what each patch shows (`dense.py`), then with its pooler who holds what; then pooler, mask
encoder, audio projection and projector (and a tower that was not taught its patches) are trained to tell which triplets
hold, from the very tokens that the language model will get, and the mask encoder at the same time what is in each mask
(`dense.py`). What tells them is thrown away afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor, nn
from torch.utils.data import DataLoader

from computing.cpu_attention import forward_pass
from computing.machine import free_memory, seeded
from computing.muon import Group, matrices_of, new_optimizer
from operating_room.domain.domain import find_domain
from operating_room.errors import UserError
from operating_room.files.atomic import append_json
from operating_room.graphs.scene_graph import Triplet, parse, split_sample_id
from operating_room.recordings.dataset import Dataset
from operating_room.work.progress import track
from scene_graph_generation.config.settings import PretrainConfig, TrainConfig
from scene_graph_generation.inputs.example import Example
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.samples.bad_samples import BadSamples
from scene_graph_generation.samples.looks import Batch, Looks, usable_looks
from scene_graph_generation.samples.patches import Grid, read_patched
from scene_graph_generation.samples.records import pictures_of
from scene_graph_generation.samples.survey import Survey
from scene_graph_generation.samples.training_data import TrainingSamples
from scene_graph_generation.training.dense import (
    CONTENTS_WEIGHT,
    HOLDING,
    contents_loss,
    contents_readout,
    draw_by_size,
    draw_group,
    hand_phase,
    patch_phase,
)
from scene_graph_generation.training.presence import PresenceHead, f1_of, frequent_triplets, rarity_of
from scene_graph_generation.training.resuming import SEEING, Halfway

# Share of batches with point clouds; masks and sound are always shown. Per sample masks and sound cost 4 CPU ms, views
# 8 more and a cloud 43 more.
WITH_CLOUD = 0.2
MOST_BYTES = 6 << 30  # of views that stay in memory while patches are learnt
_SCORED = 512  # samples of the takes kept out, for triplets
_MEASURED = 256  # samples whose masks tell how much of a mask each label has

Forward = Callable[[], AbstractContextManager[None]]  # what a forward pass happens in


def pretrain(
    model: MM2SG,
    samples: TrainingSamples,
    known: Survey,
    config: PretrainConfig,
    seed: int,
    log: Path | None = None,
    workers: int = 0,
    bf16: bool = False,
    bad: BadSamples | None = None,
    from_nothing: bool = False,
    halfway: Halfway | None = None,
) -> tuple[PresenceHead, bool]:
    """Train all that is trainable in front of the language model, in place, on the model's device.

    All that is drawn comes from `seed`, so that the same training gives the same weights. The head is returned for
    those who want to look, and whether the vision tower was taught its patches.

    Args:
        model: is trained.
        samples: what it learns from.
        known: of the samples, with answers.
        config: steps of each phase: what is in the patches, who holds what, which triplets hold.
        seed: of all draws.
        log: gets a JSON line for each score: phase, step, loss, and what held-out takes say, if any are kept out.
        workers: processes that read samples.
        bf16: products in bfloat16; what is trained stays float32.
        bad: what is done about bad samples; None: the first one is an error.
        from_nothing: the mask encoder knows nothing yet, and is drawn by how large things are (`draw_by_size`).
        halfway: where an earlier run stands, if it was ended; None: nothing is kept.

    Raises:
        UserError: no sample has a picture or masks, one is bad and not to be skipped, or the training diverges.
    """
    device = next(model.parameters()).device
    forward = partial(forward_pass, device, bf16)
    with seeded(seed, device):
        bad = bad or BadSamples(skip=False)
        rest = workers, forward, bad, from_nothing, halfway or Halfway()
        return _pretrain(model, samples, known, config, seed, ScoreLog(log), *rest)


class ScoreLog:
    """JSON lines about how well a phase goes; None keeps none."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def add(self, phase: str, step: int, loss: float, held_out: dict[str, float]) -> None:
        """Append a line.

        Raises:
            UserError: the loss is no number, or the file cannot be written.
        """
        if not math.isfinite(loss):
            raise UserError(
                f"pretraining diverged: loss {loss:.3g} at step {step} of {phase}; lower the learning_rate of "
                "`pretrain` and choose another folder"
            )
        if self._path is not None:
            scores = {name: value for name, value in held_out.items() if math.isfinite(value)}
            append_json(self._path, {"phase": phase, "step": step, "loss": loss, "held_out": scores})


def _pretrain(
    model: MM2SG,
    samples: TrainingSamples,
    known: Survey,
    config: PretrainConfig,
    seed: int,
    log: ScoreLog,
    workers: int,
    forward: Forward,
    bad: BadSamples,
    from_nothing: bool,
    halfway: Halfway,
) -> tuple[PresenceHead, bool]:
    device = next(model.parameters()).device
    different = [frozenset(parse(answer)) for answer in known.answers]
    visible = np.flatnonzero(known.shown).tolist()
    if not visible:
        raise UserError(
            "no training sample has pictures or masks to learn to see from; leave that out: --pretrain_steps 0"
        )
    places: dict[int, tuple[str, str]] = {}
    pictures: dict[tuple[str, str], set[Path]] = {}
    if config.held_out or config.patch_steps or config.hand_steps:
        for i in track(visible, "looking for pictures in the samples"):
            record = samples.records[i]
            places[i] = split_sample_id(str(record["id"]))
            pictures.setdefault(places[i], set()).update(samples.dataset.root / name for name in pictures_of(record))
    apart = takes_apart({take for take, _ in places.values()}, config.held_out)
    taught = [i for i in visible if i not in places or places[i][0] not in apart]
    kept = [i for i in visible if i in places and places[i][0] in apart]
    graphs = [different[known.answer_numbers[i]] for i in range(len(known.answer_numbers))]
    vocabulary = frequent_triplets(graphs)
    if (config.patch_steps or config.hand_steps) and halfway.phase != "triplets":
        by_place = {places[i]: graphs[i] for i in visible}
        halfway.taught = _look(
            model, samples, by_place, pictures, vocabulary, apart, config, seed, log, workers, forward, bad, halfway
        )
    knows_patches = halfway.taught
    held = torch.tensor([[triplet in graph for triplet in vocabulary] for graph in different]).float()
    truth = held[torch.from_numpy(known.answer_numbers)].to(device)
    rarity = rarity_of(truth.mean(0))
    head = PresenceHead(len(vocabulary), model.settings.language.width).to(device)
    if not config.steps:
        return head, knows_patches
    generator = Random(f"pretrain {seed}")
    views_share = config.views_share if {"masks", "audio"} & set(model.settings.modalities) else 1.0
    plan = [
        Batch(
            generator.sample(taught, min(config.batch_size, len(taught))),
            generator.random() < views_share,
            generator.random() < WITH_CLOUD,
        )
        for _ in range(config.steps)
    ]

    def score() -> dict[str, float]:
        chosen = Random("scored").sample(kept, min(_SCORED, len(kept)))
        said, asked = [], []
        for some in range(0, len(chosen), config.batch_size):
            looks, reasons = usable_looks(samples, chosen[some : some + config.batch_size])
            bad.usable([], reasons)
            if looks:
                said.append(head(model.visual_tokens([look.to(device) for look in looks.values()])) > 0)
                asked += looks
        return f1_of(torch.cat(said), truth[asked] > 0) if said else {}

    encoder, readout = model.pooler.mask_encoder, None
    if encoder is not None:
        looks, reasons = usable_looks(samples, generator.sample(taught, min(_MEASURED, len(taught))), False, False)
        bad.usable([], reasons)
        if masks := _masks_of(looks.values()):
            if from_nothing:
                draw_by_size(encoder, masks)
            readout = contents_readout(masks, model.settings.vision.width, model.settings.labels).to(device)
    heads = nn.ModuleList([head] if readout is None else [head, readout])
    model.train()
    # A tower that was taught its patches stays as it is: if it moves with the pooler behind it, that does not learn to
    # pass on what is small (docs/eyes.md, "Why views alone learn no deeds").
    with resting(model.vision if knows_patches else None):
        optimizer, schedule, weights = _optimizer(model, heads, config.learning_rate, config, config.steps)
        start = halfway.enter("triplets", config.steps, model, [heads, optimizer, schedule])
        seeds, order = torch.Generator() if start else None, range(start, config.steps)  # or it would draw once more
        looks = Looks(samples, plan, seed)
        batches = DataLoader(looks, batch_size=None, sampler=order, num_workers=workers, generator=seeds)
        for step, (chosen, found, reasons) in enumerate(track(batches, "learning to see", len(order)), start + 1):
            examples = [example.to(device) for example in bad.usable(found, reasons)]
            with forward():
                logits = head(model.visual_tokens(examples))
            loss = F.binary_cross_entropy_with_logits(logits.float(), truth[chosen], pos_weight=rarity, reduction="sum")
            loss = loss / len(chosen)
            if encoder is not None and readout is not None and (masks := _masks_of(examples)):
                with forward():
                    loss = loss + CONTENTS_WEIGHT * contents_loss(encoder, readout, masks)
            _step(loss, optimizer, schedule, weights)
            if told := _is_told(step, config.steps):
                log.add("triplets", step, loss.item(), _scored(model, heads, score, forward) if kept else {})
            halfway.keep(step, told)
    return head, knows_patches


def _masks_of(examples: Iterable[Example]) -> list[UInt8[Tensor, "_ 32 32"]]:
    return [example.masks for example in examples if example.masks is not None]


@contextmanager
def resting(module: nn.Module | None) -> Generator[None]:
    """Nothing of a module is trained within this."""
    weights = [] if module is None else [weight for weight in module.parameters() if weight.requires_grad]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


def _look(
    model: MM2SG,
    samples: TrainingSamples,
    graphs: dict[tuple[str, str], frozenset[Triplet]],
    pictures: dict[tuple[str, str], set[Path]],
    vocabulary: Sequence[Triplet],
    apart: frozenset[str],
    config: PretrainConfig,
    seed: int,
    log: ScoreLog,
    workers: int,
    forward: Forward,
    bad: BadSamples,
    halfway: Halfway,
) -> bool:
    """The phases before triplets: what patches of the views show, and who holds what; whether the first was done."""
    device, vision = next(model.parameters()).device, model.settings.vision
    grid = Grid(vision.image_size, vision.patch_size)
    # They are read into main memory first, twice for a moment; a GPU may have more than that.
    most = min(MOST_BYTES, free_memory(device) // 4, free_memory() // 4)
    masked = with_masks_of(samples.dataset, config.patch_domain)
    left_out: list[str] | None = [] if bad.skip else None
    shown = [place for place, some in pictures.items() if some]
    of_sides = [[place for place in shown if (place[0] in apart) == out] for out in (False, True)]
    found = [
        [group.to(device) for group in read_patched(masked, of, grid, most, max(workers, 1), left_out, pictures)]
        for of in of_sides
    ]
    bad.usable([], left_out or [])
    train, kept = found
    if not train:
        return False
    most_views, places = max(of.views.shape[1] for of in (*train, *kept)), model.settings.pooler.max_views
    if config.hand_steps and most_views > places and any(triplet.predicate == HOLDING for triplet in vocabulary):
        told = (
            f"{masked.root}: a timepoint has {most_views} views, and the model places for {places} (pooler.max_views)"
        )
        raise UserError(f"{told}; give it more, or leave hand_steps of `pretrain` out")
    generator = Random(f"look {seed}")
    hand_rate = config.hand_learning_rate or config.learning_rate
    phases = (
        (config.patch_steps, config.learning_rate, lambda: patch_phase(model, train, kept)),
        (config.hand_steps, hand_rate, lambda: hand_phase(model, train, kept, graphs, vocabulary)),
    )
    done = []
    for steps, rate, begin in phases:
        phase = begin() if steps else None
        if phase is None:
            continue
        done.append(phase.name)
        optimizer, schedule, weights = _optimizer(model, phase.head, rate, config, steps)
        model.train()
        start = halfway.enter(phase.name, steps, model, [phase.head, optimizer, schedule], generator)
        for step in track(range(start + 1, steps + 1), f"learning to see: {phase.name}"):
            of, chosen = draw_group(train, config.batch_size, generator)
            with forward():
                loss = phase.loss(of, torch.from_numpy(chosen).to(device, non_blocking=True), True)
            _step(loss, optimizer, schedule, weights)
            if told := _is_told(step, steps):
                log.add(phase.name, step, loss.item(), _scored(model, phase.head, phase.score, forward) if kept else {})
            halfway.keep(step, told)
    return "patches" in done


def with_masks_of(dataset: Dataset, domain: Path | None) -> Dataset:
    """The recordings with the masks of another domain file: simulated takes have small things in masks of their own.

    Raises:
        UserError: there is no such file in the data folder, or something in it is wrong.
    """
    if domain is None:
        return dataset
    path = dataset.root / domain
    if not path.exists():
        raise UserError(
            f"{path}: no such file, but `patch_domain` of `pretrain` names it; leave that setting out for recordings "
            "without masks of small things"
        )
    return Dataset(dataset.root, find_domain(path))


def takes_apart(takes: Iterable[str], share: float) -> frozenset[str]:
    """The takes that are kept out, to tell how well the model sees; the same ones every time."""
    known = sorted(takes)
    count = min(max(1, round(share * len(known))), len(known) - 1) if share else 0
    return frozenset(Random("kept out").sample(known, max(count, 0)))


def _optimizer(
    model: MM2SG, head: nn.Module, rate: float, config: PretrainConfig, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler, list[nn.Parameter]]:
    seeing = [weight for name, weight in model.named_parameters() if name.startswith(SEEING) and weight.requires_grad]
    weights = [*seeing, *head.parameters()]
    ratio = None if config.matrix_learning_rate is None else config.matrix_learning_rate / config.learning_rate
    optimizer = new_optimizer([Group(weights, rate, config.weight_decay)], matrices_of(model, head), ratio)
    rise = 0.05 if steps > 20 else 0.3  # of all steps; of 20 a twentieth would be a rise of no step, and 0 / 0
    rates = [group["lr"] for group in optimizer.param_groups]
    # AdamW's momentum goes down and up again against the rate; Muon's has no place in the schedule.
    return (
        optimizer,
        torch.optim.lr_scheduler.OneCycleLR(
            optimizer, rates, steps, pct_start=rise, cycle_momentum="betas" in optimizer.defaults
        ),
        weights,
    )


def _step(
    loss: Tensor,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    weights: list[nn.Parameter],
) -> None:
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(weights, 1.0)
    optimizer.step()
    schedule.step()


def _is_told(step: int, steps: int) -> bool:
    """Ten times in a phase and at its end: to ask for a loss makes the CPU wait for the GPU."""
    return step == steps or step % max(steps // 10, 1) == 0


def _scored(model: MM2SG, head: nn.Module, score: Callable[[], dict[str, float]], forward: Forward) -> dict[str, float]:
    model.eval()
    head.eval()
    with torch.no_grad(), forward():
        found = score()
    model.train()
    head.train()
    return found


def optimizer_after_pretraining(model: MM2SG, config: TrainConfig) -> torch.optim.Optimizer:
    """What has learnt to see goes on at `visual_learning_rate`; only matrices decay."""
    groups = []
    for sees, rate in ((True, config.visual_learning_rate or config.learning_rate), (False, config.learning_rate)):
        for decays in (True, False):
            members = [
                weight
                for name, weight in model.named_parameters()
                if weight.requires_grad and name.startswith(SEEING) == sees and (weight.ndim > 1) == decays
            ]
            groups.append(Group(members, rate, config.weight_decay if decays else 0.0))
    ratio = None if config.matrix_learning_rate is None else config.matrix_learning_rate / config.learning_rate
    return new_optimizer(groups, matrices_of(model), ratio)
