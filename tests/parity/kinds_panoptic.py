"""Cases of panoptic data and metrics: ground truth, prediction files, VPQ, STQ (data specification, section 7)."""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from operating_room.domain.domain import mmor
from operating_room.recordings.dataset import Dataset
from panoptic_segmentation.data import ground_truth
from panoptic_segmentation.data.videos import Video, find_videos, split_video
from panoptic_segmentation.inference import predictions
from panoptic_segmentation.scores import stq, vpq
from panoptic_segmentation.scores.overlap import read_ids, read_overlaps
from tests.parity.case import DOUBLE, EXACT, Result, compare, load_json

LABELS = mmor().labels


def vpq_case(folder: Path) -> Iterator[Result]:
    """VPQ per window length, per video and in all; STQ where it was recorded."""
    for case in sorted(path.parent for path in folder.glob("*/expected.json")):
        truth, predicted = (load_json(case / f"{name}.json.gz") for name in ("ground_truth", "pred"))
        overlaps = list(read_overlaps(truth, _pictures(case / "gt"), predicted, _pictures(case / "pan_pred")))
        expected = load_json(case / "expected.json")
        names = {category["id"]: category["name"] for category in truth["categories"]}
        quality = vpq.video_quality(overlaps, names, list(map(int, expected["per_nframes"])))
        for length, theirs in expected["per_nframes"].items():
            window = quality.windows[int(length)]
            ours = {video: _sums(sums) for video, sums in window.per_video.items()}
            yield compare(f"{case.name} n={length} videos", ours, theirs["per_video"], DOUBLE)
            yield compare(f"{case.name} n={length} total", _sums(window.total), theirs["total"], DOUBLE)
            average = window.average | {"n": sum(quality.support > 0 for quality in window.total.values())}
            yield compare(f"{case.name} n={length} all", average, theirs["all"], DOUBLE)
            yield compare(f"{case.name} n={length} vpq", 100 * window.average["pq"], theirs["vpq_all"], DOUBLE)
            per_class = {str(c): _per_class(window.total.get(c, vpq.Quality())) for c in quality.names}
            yield compare(f"{case.name} n={length} classes", per_class, theirs["per_class"], DOUBLE)
        summary = quality.to_json()
        ours = {"vpq_all": summary["vpq"], "prec": summary["precision"], "rec": summary["recall"]}
        yield compare(f"{case.name} summary", ours, expected["evaluator_summary_4_8"], DOUBLE)
        if "stq_n_classes_124" in expected:
            yield compare(
                f"{case.name} STQ", _stq(stq.tracking_quality(overlaps)), expected["stq_n_classes_124"], DOUBLE
            )


def prediction_writing(folder: Path) -> Iterator[Result]:
    """Predicted pictures and the prediction file."""
    cases = load_json(folder / "cases.json.gz")
    arrays = np.load(folder / "inputs.npz")
    with tempfile.TemporaryDirectory() as temporary:
        output = Path(temporary)
        for number, (case, theirs) in enumerate(zip(cases["cases"], cases["predictions"])):
            name = case["video_id_part"]
            if case["kind"] == "segments":
                ids = arrays[f"c{number}_pan"]
                labels = [(segment["id"], segment["category_id"]) for segment in case["segments_infos"]]
            else:
                masks = arrays[f"c{number}_masks"].repeat(4, axis=2).repeat(4, axis=3)
                scores, classes = arrays[f"c{number}_scores"], arrays[f"c{number}_labels"]
                ids, labels = predictions.segments_of_masks(masks, scores, classes)
            station = "simstation" in name
            size = ground_truth.CANVAS if station else tuple(case["image_size_w_h"])
            files = case["file_names"]
            frames = [predictions.write_frame(output, name, *frame, labels, size, LABELS) for frame in zip(files, ids)]
            yield compare(f"{name} records", predictions.write_video(output, name, frames), theirs, EXACT)
            for file in files:
                path = predictions.picture_path(output, name, file)
                with Image.open(path) as ours, Image.open(folder / "pan_pred" / name / path.name) as published:
                    yield compare(f"{name} {path.name} mode", ours.mode, published.mode, EXACT)
                    yield compare(f"{name} {path.name}", np.asarray(ours), np.asarray(published), EXACT)


def panoptic_ground_truth(folder: Path) -> Iterator[Result]:
    """Cleaning, categories, segment records, splitting, and the whole way from a dataset on disk."""
    cases = load_json(folder / "cases.json.gz")
    for case in cases["cases"]:
        name = case["mask"]
        mask = np.asarray(Image.open(folder / name).convert("L"))
        cleaned = ground_truth.clean(mask)
        yield compare(f"{name} cleaned", cleaned, np.asarray(Image.open(folder / case["cleaned"]).convert("L")), EXACT)
        yield compare(f"{name} changed", int((cleaned != mask).sum()), case["n_changed_by_cleaning"], EXACT)
        categories = ground_truth.category_map(cleaned, tuple(case["image_res_w_h"]), LABELS)
        yield compare(f"{name} categories", categories, np.asarray(Image.open(folder / case["category_map"])), EXACT)
        yield compare(
            f"{name} segments", ground_truth.segment_records(categories, LABELS), case["segments_info"], EXACT
        )
        colors = LABELS.colors[categories].astype(int).sum((0, 1)).tolist()
        yield compare(f"{name} colours", colors, case["sum_of_rgb_for_val_per_channel"], EXACT)
    for case in cases["splitting"]:
        count, length = case["n_frames"], case["max_video_length"]
        parts = split_video(count, length or max(count, 1), case["overlap"])
        names = list(case["parts"])
        ours = {name: [part.start, part.stop] for name, part in zip(names, parts)} or {names[0]: []}
        yield compare(f"splitting {count} by {length}", ours, case["parts"], EXACT)
    yield from _chain(folder)


def _chain(folder: Path) -> Iterator[Result]:
    """From the miniature dataset to videos, pictures and ground-truth file; sizes as in the recorded note."""
    chain = load_json(folder / "chain.json.gz")
    image = chain["ground_truth_json"]["videos"][0]["images"][0]
    length = max(len(video["file_names"]) for video in chain["videos"])
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        with tarfile.open(folder / "tree.tar.gz") as archive:
            archive.extractall(root, filter="data")
        dataset = Dataset(root)
        takes = [
            take for take in mmor().split_takes("val") if (root / mmor().collection(take).root / take.folder).is_dir()
        ]
        videos = find_videos(dataset, takes, length, with_pictures=False)
        yield compare("chain videos", [_video_record(video, root) for video in videos], chain["videos"], EXACT)
        ours = ground_truth.prepare(videos, root, "hybridor_ground_truth_val", (image["width"], image["height"]))
        yield compare("chain ground truth", ours, chain["ground_truth_json"], EXACT)
        for name, theirs in chain["written_files"].items():
            picture = np.asarray(Image.open(root / name))
            ids = np.unique(read_ids(root / name)).tolist()
            checksum = int((picture.astype(int) * (1, 2, 3)).sum())  # channels weighted, so that their order counts
            ours = {"shape": list(picture.shape), "ids": ids, "sum": checksum}
            yield compare(f"chain {name}", ours, theirs, EXACT)


def _video_record(video: Video, root: Path) -> dict[str, Any]:
    def relative(paths: list[Path]) -> list[str]:
        return [f"../{path.relative_to(root).as_posix()}" for path in paths]

    return {
        "file_names": relative(video.pictures()),
        "image_ids": list(range(len(video.frames))),
        "video_id": video.whole_id,
        "video_id_part": video.video_id,
        "pan_seg_file_names": relative(video.prepared(root)),
        "pan_seg_file_names_for_val": relative(video.prepared(root, True)),
        "video_folder": video.take.folder,
    }


def _pictures(folder: Path) -> Callable[[str, str], Path]:
    return lambda video_id, file_name: folder / video_id / f"{Path(file_name).stem}.png"


def _sums(per_category: dict[int, vpq.Quality]) -> dict[str, dict[str, float]]:
    return {str(c): {"iou": q.iou, "tp": q.tp, "fp": q.fp, "fn": q.fn} for c, q in per_category.items()}


def _per_class(quality: vpq.Quality) -> dict[str, float]:
    return quality.scores | {"iou": quality.iou, "tp": quality.tp, "fp": quality.fp, "fn": quality.fn}


def _stq(quality: stq.SegmentationTrackingQuality) -> dict[str, Any]:
    videos = quality.per_video.values()
    return {
        "STQ": quality.overall.stq,
        "AQ": quality.overall.association,
        "IoU": quality.overall.iou,
        "STQ_per_seq": [video.stq for video in videos],
        "AQ_per_seq": [video.association for video in videos],
        "IoU_per_seq": [video.iou for video in videos],
        "ID_per_seq": list(range(len(videos))),
        "Length_per_seq": list(quality.lengths.values()),
    }


KINDS = {"vpq": vpq_case, "prediction_writing": prediction_writing, "panoptic_ground_truth": panoptic_ground_truth}
