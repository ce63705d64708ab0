"""Stage-1 kinds: the segmenter, the three video models, and their post-processing (training: kinds_stage1_losses.py).

Models are loaded through the checkpoint loader under the published names. Every case names its seed; weights are filled
from the model's manifest and scaled as `weight_scale.json` says (stage-1 specification, section 2).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from operating_room.domain.domain import mmor
from operating_room.files.readers import read_picture
from panoptic_segmentation.config.settings import Rates
from panoptic_segmentation.data import pictures
from panoptic_segmentation.inference import predictions
from panoptic_segmentation.inference.panoptic import (
    PanopticVideo,
    Sizes,
    binary_masks,
    ctvis_panoptic,
    panoptic_video,
    top_entries,
)
from panoptic_segmentation.inference.video import (
    ctvis_frames,
    mean_logits,
    offline_video,
    online_frames,
    refined_probabilities,
)
from panoptic_segmentation.model.matching import align
from panoptic_segmentation.model.segmenter import SegmenterConfig, SegmenterOutput
from panoptic_segmentation.model.tracker import TrackerOutput
from panoptic_segmentation.model.transformer_decoder import blocked_cells
from panoptic_segmentation.model.video_models import CTVIS, OfflineDVIS, OnlineDVIS, VideoConfig
from panoptic_segmentation.training.optimizer import parameter_rates
from panoptic_segmentation.weights.checkpoints import VideoModel, build_model, load_state, published_name
from tests.parity.case import EXACT, Result, beside, compare, load_json
from tests.parity.fill import fill_state_dict

Model = TypeVar("Model", bound=VideoModel)
MODELS: dict[type, str] = {CTVIS: "ctvis", OnlineDVIS: "online", OfflineDVIS: "offline"}
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

    def sibling(self, kind: str) -> Case:
        """The case of the same seed and another kind, which its name says, whose tensors this one refers to."""
        return Case(self.path.with_name(self.path.name.replace(self.json["case"], kind, 1)))

    def frames(self) -> Tensor:
        """The frames of the segmenter's case, channels first."""
        return self.sibling("segmenter").tensors["frames"].permute(0, 3, 1, 2).float()

    def model(self, kind: type[Model], factors: Mapping[str, float] | None = None) -> Model:
        """A published model in evaluation mode with this case's weights."""
        return filled_model(self.path, kind, self.json["seed"], factors or {}).eval()


def filled_model(case: Path, kind: type[Model], seed: int, factors: Mapping[str, float]) -> Model:
    """A published model with deterministic weights, scaled, loaded strictly by published names."""
    name = MODELS[kind]
    manifest = beside(case, "stage1", f"manifest_{name}.json.gz")
    scale = load_json(beside(case, "stage1", "weight_scale.json"))
    state = {
        name: torch.from_numpy(array) * (scale.get(name, 1.0) * factors.get(name, 1.0))
        for name, array in fill_state_dict(load_json(manifest), seed).items()
    }
    model = build_model(name, SegmenterConfig(), VideoConfig())
    assert isinstance(model, kind)
    report = load_state(manifest, state, model)
    assert not report.unexpected, f"entries of the manifest without a place: {report.unexpected}"
    return model


@torch.no_grad()
def segmenter(path: Path) -> Iterator[Result]:
    """Backbone, pixel decoder and transformer decoder on the case's frames."""
    case = Case(path)
    model = case.model(CTVIS).segmenter
    frames = case.frames()
    output = model(frames, auxiliary=True)
    images = model.normalise(frames)
    _, *features = model.backbone(images)  # the first is the stem's, which the published form does not use
    _, maps = model.pixel_decoder(features)
    yield case.compare("seg.images_s8", images[:, :, ::8, ::8])
    yield case.compare("seg.images_mean", images.mean((2, 3)))
    yield case.compare("seg.images_std", images.std((2, 3)))
    for i, feature in enumerate(features):
        yield case.compare(f"seg.res{i + 2}_c32", feature[:, ::32])
        yield case.compare(f"seg.res{i + 2}_mean", feature.mean((2, 3))[:, ::4])
    for i, level in enumerate(maps):
        yield case.compare(f"seg.multi_scale{i}_c8", level[:, ::8])
    yield case.compare("seg.mask_features_s4", output.mask_features[:, :, ::4, ::4])
    yield case.compare("seg.pred_logits", output.logits)
    masks = output.masks.transpose(0, 1)
    yield case.compare("seg.pred_masks_q4", masks[::4])
    yield case.compare("seg.pred_masks_s4", masks[:, :, ::4, ::4])
    yield case.compare("seg.pred_embds_norm", output.queries.permute(2, 0, 1))
    yield case.compare("seg.pred_embds_no_norm", output.queries_raw.permute(2, 0, 1))
    yield case.compare("seg.pred_reid_embed", output.reid.permute(2, 0, 1))
    first, last = 0, len(frames) - 1
    earlier = output.auxiliary
    yield case.compare("seg.aux_logits_f06_q4", torch.stack([p.logits[[first, last], ::4] for p in earlier]))
    yield case.compare(
        "seg.aux_masks_f06_s4", torch.stack([p.masks[[first, last], :, ::4, ::4].transpose(0, 1) for p in earlier])
    )
    counts = [
        blocked_cells(masks, (maps[i % 3].shape[-2], maps[i % 3].shape[-1])).sum((1, 2))
        for i, masks in enumerate([*(p.masks for p in earlier), output.masks])
    ]
    yield case.compare("seg.attn_masked_count", torch.stack(counts))


@torch.no_grad()
def ctvis(path: Path) -> Iterator[Result]:
    """CTVIS inference: alignment, averaged logits, the 25 best entries."""
    case = Case(path)
    model = case.model(CTVIS)
    seen = model.segmenter(case.frames())
    orders = _orders(seen.reid)
    yield case.compare("ctvis.match_indices", orders[1:])
    frames = list(ctvis_frames(model, [case.frames()]))
    masks = torch.stack([frame.masks for frame in frames])
    logits = mean_logits(frames)
    yield case.compare("ctvis.mean_logits", logits)
    yield case.compare("ctvis.aligned_masks_q4", masks.transpose(0, 1)[::4])
    _, _, height, width = case.json["top_masks_shape"]
    sizes = Sizes(seen.padded_size, seen.image_size, (height, width))
    yield from _top_entries("ctvis.top_", case, logits, masks, sizes)


def match(path: Path) -> Iterator[Result]:
    """Frame-to-frame alignment of shuffled embeddings."""
    case = Case(path)
    tensors = case.tensors
    orders = _orders(tensors["match.reid"])
    yield case.compare("match.indices", orders[1:])
    rows = torch.arange(len(orders))[:, None]
    yield case.compare("match.mean_logits", tensors["match.logits"][rows, orders].mean(0))
    aligned = tensors["match.masks"].transpose(0, 1)[rows, orders]
    yield case.compare("match.aligned_masks", aligned.transpose(0, 1))


def _orders(embeddings: Tensor) -> Tensor:
    """Per frame the order that continues the aligned frame before."""
    orders = [torch.arange(embeddings.shape[1])]
    for before, now in pairwise(embeddings):
        orders.append(align(before[orders[-1]], now))
    return torch.stack(orders)


def _track(model: OnlineDVIS | OfflineDVIS, seen: SegmenterOutput, orders: Tensor | None = None) -> TrackerOutput:
    """The tracker on the segmenter's output, each frame's queries shuffled by `orders`."""
    normed, raw = seen.embeddings, seen.embeddings_raw
    if orders is not None:
        rows = torch.arange(len(orders))[:, None]
        normed, raw = normed[rows, orders], raw[rows, orders]
    return model.tracker(normed, raw, seen.mask_features, auxiliary=True)


@torch.no_grad()
def tracker(path: Path) -> Iterator[Result]:
    """The referring tracker on the segmenter's output, and on its queries shuffled per frame."""
    case = Case(path)
    model = case.model(OnlineDVIS)
    seen = model.segmenter(case.frames())
    tracked = _track(model, seen)
    masks = tracked.last.masks.transpose(0, 1)
    yield case.compare("trk.indices", tracked.orders)
    yield case.compare("trk.pred_logits", tracked.last.logits)
    yield case.compare("trk.pred_masks_q4", masks[::4])
    yield case.compare("trk.pred_masks_s4", masks[:, :, ::4, ::4])
    yield case.compare("trk.pred_embds_c2", tracked.states.permute(2, 0, 1)[::2])
    yield case.compare("trk.pred_references_c4", tracked.references.permute(2, 0, 1)[::4])
    shuffled = _track(model, seen, case.tensors["trk_shuf.perm"])
    yield case.compare("trk_shuf.indices", shuffled.orders)
    yield case.compare("trk_shuf.pred_logits_last", shuffled.last.logits[-1])
    yield case.compare("trk_shuf.pred_masks_last_s4", shuffled.last.masks[-1, :, ::4, ::4])


@torch.no_grad()
def refiner(path: Path) -> Iterator[Result]:
    """The temporal refiner on the tracker's states."""
    case = Case(path)
    model = case.model(OfflineDVIS)
    seen = model.segmenter(case.frames())
    refined = model.refiner(_track(model, seen).states, seen.embeddings_raw, auxiliary=True)
    masks = refined.last.masks(seen.mask_features).transpose(0, 1)
    yield case.compare("ref.pred_logits_t0", refined.last.logits)
    yield case.compare("ref.pred_masks_q4", masks[::4])
    yield case.compare("ref.pred_masks_s4", masks[:, :, ::4, ::4])
    yield case.compare("ref.pred_embds_c2", refined.queries.permute(2, 0, 1)[::2])
    yield case.compare("ref.aux_logits_q4", torch.stack([p.logits[::4] for p in refined.auxiliary]))
    first, last = 0, len(seen.logits) - 1
    earlier = [p.masks(seen.mask_features)[[first, last], :, ::4, ::4].transpose(0, 1) for p in refined.auxiliary]
    yield case.compare("ref.aux_masks_f06_s4", torch.stack(earlier))


@torch.no_grad()
def online(path: Path) -> Iterator[Result]:
    """The whole online model in windows, with a sharpened class head, down to segment ids."""
    case = Case(path)
    things = 24
    for name, factors in _sharpened(case):
        windows = case.frames().split(case.json["config"]["WINDOW_SIZE"])
        frames = list(online_frames(case.model(OnlineDVIS, factors), windows))
        logits = mean_logits(frames)
        sizes = replace(frames[0].sizes, output=tuple(case.json["output_size"]))
        result = panoptic_video(logits.softmax(-1), [frame.masks for frame in frames], sizes, things)
        if name == "sharp":
            yield case.compare("online.mean_logits_sharp", logits)
            yield pixels("online.panoptic", result.ids, case.tensors["online.panoptic"])
            yield compare("online.queries", [s.query for s in result.segments], case.json["pred_ids"], EXACT)
        expected = case.json["segments_infos" if name == "sharp" else "without_sharpening_segments_infos"]
        yield compare(f"online.segments {name}", segments(result.segments), expected, EXACT)


@torch.no_grad()
def offline(path: Path) -> Iterator[Result]:
    """The whole offline model in windows, with sharpened class heads, down to segment ids."""
    case = Case(path)
    things = 24
    for name, factors in _sharpened(case):
        windows = case.frames().split(case.json["config"]["WINDOW_SIZE"])
        video = offline_video(case.model(OfflineDVIS, factors), windows)
        sizes = replace(video.sizes, output=tuple(case.json["output_size"]))
        result = panoptic_video(video.probabilities, video.masks(), sizes, things)
        if name == "sharp":
            yield case.compare("offline.mean_logits_sharp", video.refined_logits)
            yield case.compare("offline.aux_logits_sharp", video.tracked_logits)
            yield pixels("offline.panoptic", result.ids, case.tensors["offline.panoptic"])
            yield compare("offline.queries", [s.query for s in result.segments], case.json["pred_ids"], EXACT)
        expected = case.json["segments_infos" if name == "sharp" else "without_sharpening_segments_infos"]
        yield compare(f"offline.segments {name}", segments(result.segments), expected, EXACT)


def _sharpened(case: Case) -> Iterator[tuple[str, dict[str, float]]]:
    """Factors on the class heads: random weights never reach a score of 0.8 without."""
    yield "sharp", dict.fromkeys(case.json["sharp_names"], case.json["sharp_factor"])
    yield "plain", {}


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
    refined = refined_probabilities(tensors["post.pred_cls"], tensors["post.aux_cls"])
    padded, image = tuple(case.json["padded_size"]), tuple(case.json["image_size"])
    things = case.json["config"]["num_known_classes"]
    for part, scores in (("post.a", probabilities), ("post.b", probabilities), ("post.aux", refined)):
        expected = case.json[part]
        sizes = Sizes(padded, image, tuple(expected["image_size"]))
        result = panoptic_video(scores, masks, sizes, things)
        yield pixels(f"{part}.panoptic", result.ids, tensors[f"{part}.panoptic"])
        yield compare(f"{part}.segments", segments(result.segments), expected["segments_infos"], EXACT)
        yield compare(f"{part}.queries", [s.query for s in result.segments], expected["pred_ids"], EXACT)
        if part == "post.a":
            yield from _evaluated("eval.dvis", case, result)
    sizes = Sizes(padded, image, image)
    empty = panoptic_video(probabilities, masks, sizes, things, score_threshold=1.0)
    found = {"segments_infos": empty.segments, "sum": int(empty.ids.sum())}
    yield compare("post.empty", found, case.json["post.empty"], EXACT)
    yield from _top_entries("ctpost.", case, tensors["post.pred_cls"], masks, sizes)
    yield from _evaluated("eval.ct", case, ctvis_panoptic(tensors["post.pred_cls"], masks, sizes))


def _evaluated(prefix: str, case: Case, result: PanopticVideo) -> Iterator[Result]:
    """Pictures and records that an evaluation writes; records in any order, as CTVIS's entries come in none."""
    labels = [(segment.id, segment.category_id) for segment in result.segments]
    class_maps, records = [], []
    with TemporaryDirectory() as folder:
        for t, ids in enumerate(result.ids):
            name, size = f"{t}.png", (ids.shape[1], ids.shape[0])
            records.append(
                predictions.write_frame(Path(folder), "video", name, ids.numpy(), labels, size, mmor().labels)
            )
            picture = read_picture(predictions.picture_path(Path(folder), "video", name))
            class_maps.append(mmor().labels.colors_to_categories(picture))
    yield pixels(f"{prefix}.class_map", np.stack(class_maps), case.tensors[f"{prefix}.class_map"])
    ours, theirs = (
        [sorted(frame["segments_info"], key=json.dumps) for frame in frames]
        for frames in (records, case.json[f"{prefix}.annotations"])
    )
    yield compare(f"{prefix}.annotations", ours, theirs, SOME_PIXELS)


def _top_entries(prefix: str, case: Case, logits: Tensor, masks: Tensor, sizes: Sizes) -> Iterator[Result]:
    """CTVIS's best entries as a set: the published order is not that of the scores."""
    scores, labels, queries = top_entries(logits)
    theirs = [case.tensors[prefix + name] for name in ("scores", "labels", "query")]
    order = sorted(range(len(scores)), key=lambda i: (int(queries[i]), int(labels[i])))
    their_order = sorted(range(len(scores)), key=lambda i: (int(theirs[2][i]), int(theirs[1][i])))
    yield compare(f"{prefix}labels", labels[order], theirs[1][their_order], EXACT)
    yield compare(f"{prefix}query", queries[order], theirs[2][their_order], EXACT)
    tolerance = case.json.get("suggested_atol", {}).get(f"{prefix}scores", 2e-6)
    yield compare(f"{prefix}scores", scores[order], theirs[0][their_order], tolerance)
    bits = torch.stack(list(binary_masks(masks, queries, sizes)), dim=1).flatten(1)
    packed = case.tensors[f"{prefix}masks_packed"][their_order].numpy()
    yield pixels(f"{prefix}masks", bits[order], np.unpackbits(packed, axis=1, count=bits.shape[1]))


def optimizer_groups(path: Path) -> Iterator[Result]:
    """Learning rate and weight decay of every trainable parameter of the three models."""
    for kind, expected in load_json(path).items():
        with torch.device("meta"):
            model = build_model(kind, SegmenterConfig(), VideoConfig())
        ours = {published_name(name): [rate, decay] for name, _, rate, decay in parameter_rates(model, Rates())}
        yield compare(kind, ours, expected, 1e-12)


def pixels(name: str, ours: Any, theirs: Any) -> Result:
    """Number of elements that differ; a handful may."""
    a, b = np.asarray(ours), np.asarray(theirs)
    error = float((a != b).sum()) if a.shape == b.shape else float("inf")
    return Result(name, error, SOME_PIXELS)


def segments(found: Any) -> list[dict[str, Any]]:
    """Segments in the published form."""
    return [{"id": s.id, "isthing": s.is_thing, "category_id": s.category_id} for s in found]


KINDS = {
    "segmenter": segmenter,
    "ctvis": ctvis,
    "match": match,
    "tracker": tracker,
    "refiner": refiner,
    "online": online,
    "offline": offline,
    "resize": resize,
    "post": post,
    "optimizer_groups": optimizer_groups,
}
