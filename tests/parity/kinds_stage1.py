"""Stage-1 kinds: the segmenter, its three video models, their losses and their post-processing.

Models are loaded through the checkpoint loader under the published names. Every case names its model and seed; weights
are filled from the model's manifest and scaled as `weight_scale.json` says (stage-1 specification, section 2).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from panoptic_segmentation import pictures
from panoptic_segmentation.model.panoptic import Sizes, binary_masks, ctvis_panoptic, panoptic_video, top_entries
from tests.parity.case import EXACT, Result, compare, load_json

SOME_PIXELS = 5  # of a binary mask or map may differ: logits next to zero (section 3)


class Case:
    """A case's JSON, its tensors and its tolerances."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.json: dict[str, Any] = load_json(path)
        self.tensors = load_file(path.with_suffix(".safetensors"))

    def compare(self, name: str, ours: Any) -> Result:
        """Compare with the stored tensor of that name: floats within the suggested tolerance, integers exactly."""
        return compare(name, ours, self.tensors[name], self.json.get("suggested_atol", {}).get(name, EXACT))


def _pixels(name: str, ours: Any, theirs: Any) -> Result:
    """Number of elements that differ."""
    a, b = np.asarray(ours), np.asarray(theirs)
    error = float((a != b).sum()) if a.shape == b.shape else float("inf")
    return Result(name, error, SOME_PIXELS)


def resize(path: Path) -> Iterator[Result]:
    """The test-time resize and the one of station pictures."""
    case = Case(path)
    for size, expected in case.json["shapes_for_720_1333"].items():
        height, width = map(int, size.split("x"))
        yield compare(f"size {size}", list(pictures.edge_size(height, width)), expected, EXACT)
    source = case.tensors["resize.src"].numpy()
    for name, theirs in case.tensors.items():
        _, kind, *rest = name.replace(".", "_").split("_")
        if kind.startswith("short"):
            shortest, longest = int(kind.removeprefix("short")), int(rest[0].removeprefix("max"))
            yield compare(name, pictures.resize_for_test(source, shortest, longest), theirs, EXACT)
        elif kind == "cv2":
            width, height = map(int, rest[-1].split("x"))
            yield compare(name, pictures.resize_station(source, (width, height)), theirs, EXACT)


def post(path: Path) -> Iterator[Result]:
    """Panoptic post-processing, CTVIS's best entries, and the class maps an evaluation writes."""
    case = Case(path)
    tensors = case.tensors
    masks = tensors["post.pred_masks"].transpose(0, 1)  # frames first
    probabilities = tensors["post.pred_cls"].softmax(-1)
    refined = probabilities.clone()
    refined[:, :-1] = torch.maximum(refined, tensors["post.aux_cls"].softmax(-1))[:, :-1]
    padded, image = tuple(case.json["padded_size"]), tuple(case.json["image_size"])
    things = case.json["config"]["num_known_classes"]
    for part, scores in (("post.a", probabilities), ("post.b", probabilities), ("post.aux", refined)):
        expected = case.json[part]
        sizes = Sizes(padded, image, tuple(expected["image_size"]))
        result = panoptic_video(scores, masks, sizes, things)
        yield _pixels(f"{part}.panoptic", result.ids, tensors[f"{part}.panoptic"])
        yield compare(f"{part}.segments", _segments(result.segments), expected["segments_infos"], EXACT)
        yield compare(f"{part}.queries", [s.query for s in result.segments], expected["pred_ids"], EXACT)
        if part == "post.a":
            yield _pixels("eval.dvis.class_map", result.categories(things), tensors["eval.dvis.class_map"])
    sizes = Sizes(padded, image, image)
    empty = panoptic_video(probabilities, masks, sizes, things, score_threshold=1.0)
    yield compare(
        "post.empty", {"segments_infos": empty.segments, "sum": int(empty.ids.sum())}, case.json["post.empty"], EXACT
    )
    yield from _top_entries("ctpost", tensors, tensors["post.pred_cls"], masks, sizes)
    entries = ctvis_panoptic(tensors["post.pred_cls"], masks, sizes)
    yield _pixels("eval.ct.class_map", entries.categories(things), tensors["eval.ct.class_map"])


def _segments(segments: Any) -> list[dict[str, Any]]:
    return [{"id": s.id, "isthing": s.is_thing, "category_id": s.category_id} for s in segments]


def _top_entries(
    prefix: str, tensors: dict[str, Tensor], logits: Tensor, masks: Tensor, sizes: Sizes
) -> Iterator[Result]:
    """CTVIS's best entries as a set: the published order is not that of the scores."""
    scores, labels, queries = top_entries(logits)
    names = {"scores": scores, "labels": labels, "query": queries}
    found = {name: tensors.get(f"{prefix}.{name}", tensors.get(f"{prefix}.top_{name}")) for name in names}
    ours = sorted(range(len(scores)), key=lambda i: (int(queries[i]), int(labels[i])))
    theirs = sorted(range(len(scores)), key=lambda i: (int(found["query"][i]), int(found["labels"][i])))
    yield compare(f"{prefix}.labels", labels[ours], found["labels"][theirs], EXACT)
    yield compare(f"{prefix}.query", queries[ours], found["query"][theirs], EXACT)
    yield compare(f"{prefix}.scores", scores[ours], found["scores"][theirs], 2e-6)
    packed = tensors.get(f"{prefix}.masks_packed", tensors.get(f"{prefix}.top_masks_packed"))
    bits = torch.stack(list(binary_masks(masks, queries, sizes)), dim=1).flatten(1)
    yield _pixels(f"{prefix}.masks", bits[ours], np.unpackbits(packed[theirs].numpy(), axis=1, count=bits.shape[1]))


KINDS = {"resize": resize, "post": post}
