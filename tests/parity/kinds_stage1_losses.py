"""The stage-1 kind `losses`: training steps of the three video models with all randomness fixed.

Computed in float64, since the choice of the most uncertain points is discrete (stage-1 specification, sections 2, 3).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from panoptic_segmentation.model import video_models
from panoptic_segmentation.model.losses import Clip, Losses
from panoptic_segmentation.model.matching import Draws, LossSettings, Match
from panoptic_segmentation.model.video_models import CTVIS, OfflineDVIS, OnlineDVIS
from panoptic_segmentation.weights.checkpoints import published_name
from tests.parity.case import EXACT, Result, compare
from tests.parity.kinds_stage1 import Case, filled_model

TERM = 1.5e-5  # absolute, section 3
MODULE_GRADIENT = 4e-5  # relative
ENTRY_GRADIENT = 1.2e-4  # relative


class ScriptedDraws(Draws):
    """Hands out the case's stored draws, and counts them."""

    def __init__(self, tensors: dict[str, Tensor], gates: str, points: str) -> None:
        super().__init__(torch.Generator())
        self.gates, self.weights, self.shuffles = tensors[gates], tensors["noise_weights"], tensors["noise_perms"]
        stored = [
            tensors[points + name].reshape(-1, 2) for name in ("points_matcher", "points_oversample", "points_random")
        ]
        self.stored_points = {len(p): p for p in stored}
        self.used = {"gate": 0, "w": 0, "perm": 0}

    def coins(self, count: int) -> list[bool]:
        start = self.used["gate"]
        self.used["gate"] += count
        return [float(gate) > 0.5 for gate in self.gates[start : start + count]]

    def uniform(self, *shape: int) -> Tensor:
        kind, stored = ("gate", self.gates) if shape == (1,) else ("w", self.weights)
        self.used[kind] += 1
        return stored[self.used[kind] - 1]

    def permutation(self, count: int) -> Tensor:
        self.used["perm"] += 1
        return self.shuffles[self.used["perm"] - 1]

    def points(self, masks: int, count: int) -> Tensor:
        return self.stored_points[count].expand(masks, -1, -1)


def losses(path: Path) -> Iterator[Result]:
    """Loss terms, assignments, gradient norms and used draws of every training step of the case."""
    case = Case(path)
    for name, expected in case.json["cases"].items():
        kind = {"ctvis": CTVIS, "online": OnlineDVIS, "offline": OfflineDVIS}[name.split("_")[1]]
        model = filled_model(path, kind, case.json["seed"], {}).double().train()
        draws = ScriptedDraws(
            case.tensors,
            "ct_gate_draws" if kind is CTVIS else "noise_gate_draws",
            "offline." if kind is OfflineDVIS else "",
        )
        frames, clip = _clip(case, expected, absent=name.endswith("absent"))
        terms, matches = _step(model, frames, clip, _settings(case, kind), draws, guided=name.endswith("guided"))
        total = torch.stack(list(terms.values())).sum()
        total.backward()
        slack = 4 * expected["max_abs_loss_difference_float32_vs_float64"]
        ours = {term: float(value.detach()) for term, value in terms.items()}
        yield compare(f"{name} terms", ours, expected["losses_weighted"], max(TERM, slack))
        yield compare(f"{name} total", float(total.detach()), expected["total"], max(TERM, slack))
        theirs = [pair for call in expected["matches"] for pair in call["per_image_query_and_gt"]]
        yield compare(f"{name} matches", matches, theirs, EXACT)
        yield from _gradients(name, model, expected)
        used = expected["draws_used"]
        their_gates = used["ct"] if kind is CTVIS else used["gate"]
        yield compare(f"{name} draws", draws.used, {"gate": their_gates, "w": used["w"], "perm": used["perm"]}, EXACT)


def _clip(case: Case, expected: dict[str, Any], absent: bool) -> tuple[Tensor, Clip]:
    """Frames and annotations of the step; the CTVIS steps use fewer frames than are stored."""
    frames = case.tensors["frames"].permute(0, 3, 1, 2).double()
    count, length = case.tensors["gt_masks"].shape[:2]
    bits = np.unpackbits(case.tensors["gt_masks"].numpy(), axis=-1, count=frames[0, 0].numel())
    masks = torch.from_numpy(bits.reshape(count, length, *frames.shape[-2:])).bool()
    steps = [call for call in expected["matches"] if call["matcher"] == "contrastive"]
    if steps:
        frames, masks = frames[: len(steps)], masks[:, : len(steps)]
    present = masks.flatten(2).any(-1) if absent else torch.ones(masks.shape[:2], dtype=torch.bool)
    return frames, Clip(torch.tensor(expected["gt_classes"]), masks, present)


def _settings(case: Case, kind: type) -> LossSettings:
    config = case.json["config"]
    frames = len(case.tensors["frames"])
    return LossSettings(
        points=config["TRAIN_NUM_POINTS"] * (frames if kind is OfflineDVIS else 1),
        oversample=config["OVERSAMPLE_RATIO"],
        uncertain=config["IMPORTANCE_SAMPLE_RATIO"],
        class_weight=config["CLASS_WEIGHT"],
        mask_weight=config["MASK_WEIGHT"],
        dice_weight=config["DICE_WEIGHT"],
        no_object_weight=config["NO_OBJECT_WEIGHT"],
        reid_weight=config["REID_WEIGHT"],
        reid_cosine_weight=config["AUX_REID_WEIGHT"],
    )


def _step(
    model: CTVIS | OnlineDVIS | OfflineDVIS,
    frames: Tensor,
    clip: Clip,
    settings: LossSettings,
    draws: Draws,
    guided: bool,
) -> tuple[Losses, list[list[list[int]]]]:
    """Loss terms, and the assignment of every picture in the order in which they were made."""
    found: list[list[list[int]]] = []

    def recorded(function: Any) -> Any:
        def call(*arguments: Any) -> list[Match]:
            matches = function(*arguments)
            found.extend([match.queries.tolist(), match.objects.tolist()] for match in matches)
            return matches

        return call

    with (
        patch.object(video_models, "match_pictures", recorded(video_models.match_pictures)),
        patch.object(video_models, "match_clip", recorded(video_models.match_clip)),
    ):
        if isinstance(model, CTVIS):
            return model(frames[None], [clip], settings, [draws]), found
        return model(frames[None], [clip], settings, [draws], guided), found


def _gradients(name: str, model: torch.nn.Module, expected: dict[str, Any]) -> Iterator[Result]:
    """Norms of the gradients, relative to the published ones."""
    norms = {published_name(p): float(x.grad.norm()) for p, x in model.named_parameters() if x.grad is not None}
    modules = {
        module: math.sqrt(sum(norm**2 for p, norm in norms.items() if p.startswith(module + ".")))
        for module in expected["grad_norms"]
    }
    modules["total"] = math.sqrt(sum(norm**2 for norm in norms.values()))
    theirs = expected["grad_norms"] | {"total": expected["grad_total_norm"]}
    slack = 4 * expected["max_rel_grad_norm_difference_float64"]
    yield _relative(f"{name} gradients of modules", modules, theirs, max(MODULE_GRADIENT, slack))
    entries = {p: norms[p] for p in expected["grad_param_norms"]}
    yield _relative(f"{name} gradients of entries", entries, expected["grad_param_norms"], max(ENTRY_GRADIENT, slack))


def _relative(name: str, ours: dict[str, float], theirs: dict[str, float], tolerance: float) -> Result:
    return compare(name, {key: ours[key] / theirs[key] for key in theirs}, dict.fromkeys(theirs, 1.0), tolerance)


KINDS = {"losses": losses}
