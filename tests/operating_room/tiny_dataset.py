"""A complete dataset of two takes with three timepoints each, written by hand in the layout of the specification."""

from __future__ import annotations

import io
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image
from pypcd4 import Encoding, PointCloud

MMOR_NAME, FOURDOR_NAME = "001_PKA", "001_4DOR"
SECONDS = 3
SRT = "1\n00:00:00,100 --> 00:00:00,900\nthe saw\n\n2\n00:00:01,000 --> 00:00:02,000\nthank you\n"


def write(path: Path, content: bytes | str | dict | list) -> Path:
    """Write bytes, text or JSON, making folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content if isinstance(content, bytes | str) else json.dumps(content)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def picture(form: str = "JPEG", pixels: Any = None) -> bytes:
    """An encoded picture of 64x48 px, or of the given pixels."""
    if pixels is None:
        pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def label_picture(*labels: int, size: int | None = None) -> bytes:
    """A PNG with a stripe of each label, of 64x48 px or a square of `size` px."""
    return picture("PNG", np.resize(np.array(labels, np.uint8), (size or 48, size or 64)))


def cloud(encoding: Encoding = Encoding.BINARY_COMPRESSED) -> bytes:
    """Two points: 1, 2, 3 m in red and 0, 0, -1 m in white."""
    colors = np.array([0xFF0000, 0xFFFFFF], np.uint32).view(np.float32)
    xyz = np.array([[1000, 0], [2000, 0], [3000, -1000]], np.float32)
    points = PointCloud.from_points([*xyz, colors], ("x", "y", "z", "rgb"), (np.float32,) * 4)
    buffer = io.BytesIO()
    points.save(buffer, encoding)
    return buffer.getvalue()


def sound(seconds: float = 1.0, rate: int = 16_000) -> bytes:
    """A mono mp3 of noise."""
    buffer = io.BytesIO()
    samples = np.random.default_rng(0).normal(0, 0.1, int(seconds * rate))
    soundfile.write(buffer, samples, rate, format="MP3")
    return buffer.getvalue()


@cache
def stored_tensor() -> bytes:
    """An audio embedding."""
    import torch

    buffer = io.BytesIO()
    torch.save(torch.ones(8), buffer)
    return buffer.getvalue()


def write_dataset(root: Path) -> Path:
    """Write both takes with every modality; the returned folder holds MM-OR_data and 4D-OR_data."""
    write_mmor(root / "MM-OR_data")
    write_fourdor(root / "4D-OR_data")
    return root


def write_mmor(data: Path, name: str = MMOR_NAME) -> None:
    """Write one take of MM-OR; frame numbers and time stamps differ from positions."""
    take, index, summaries = data / name, [], data / "screen_summaries" / name
    jpeg, mask, clip, points = picture(), label_picture(0, 5, 10), sound(), cloud()
    for second in range(SECONDS):
        time, azure, station, tracker = (f"{start + second:06d}" for start in (1, 100, 200, 300))
        index.append([time, {"azure": azure, "simstation": station, "trackercam": tracker}, "further element"])
        for camera in range(1, 6):
            write(take / "colorimage" / f"camera0{camera}_colorimage-{azure}.jpg", jpeg)
        for camera in range(4):
            write(take / "simstation" / f"camera0{camera}_{station}.jpg", jpeg)
        for camera in (1, 4, 5):
            folder = take / f"segmentation_export_{camera}"
            write(folder / f"camera0{camera}_colorimage-{azure}.png", mask)
        for camera in (0, 2, 3):
            write(take / f"simstation_segmentation_export_{camera}" / f"camera0{camera}_{station}.png", mask)
        write(take / "trackercam" / f"{tracker}.jpg", jpeg)
        write(take / "relation_labels" / f"{second:06d}.json", {"rel_annotations": [["nurse", "holding", "saw"]]})
        write(summaries / f"{station}.json", {"1": {"type": "main", "template_name": "ready"}})
        write(data / "take_point_clouds_sparse" / name / f"{time}.pcd", points)
        write(data / "take_audio_per_timepoint" / name / f"{time}.mp3", clip)
        write(data / "take_audio_embeddings_per_timepoint" / name / f"{time}.pt", stored_tensor())
        write(data / "take_transcripts_per_timepoint" / name / f"{time}.json", {"text": "the saw"})
        for number in range(3):
            small = data / "take_segmasks_per_timepoint" / name / f"{time}_{number}_GTFalse.png"
            write(small, label_picture(0, 5, size=32))
    write(take / "timestamp_to_pcd_and_frames_list.json", index)
    tool = {"unique_id": "8000050", "button_state": 0, "Translation": [1, 2, 3], "euler_rot": [0, 0, 0]}
    write(data / "take_tracks" / f"{name}.json", [{"unique_id_dicts": [tool], "n": i} for i in range(SECONDS + 1)])
    write(data / "take_jsons" / f"{name}.json", {"timestamps": {str(int(time)): frames for time, frames, _ in index}})
    write(data / "take_audios" / f"{name}.mp3", sound(SECONDS))
    write(data / "take_transcripts" / f"{name}.srt", SRT)
    frame_ids = [f"{second:06d}" for second in range(SECONDS)]
    write(data / "take_timestamp_to_next_action" / f"{name}.json", {frame: ["cut", 3] for frame in frame_ids})
    write(data / "take_timestamp_to_robot_phase" / f"{name}.json", dict.fromkeys(frame_ids, "turn on"))
    write(data / "take_timestamp_to_sterility_breach" / f"{name}.json", {frame: [] for frame in frame_ids})


def write_fourdor(data: Path) -> None:
    """Write one take of 4D-OR."""
    take, index, jpeg, points = data / "export_holistic_take1_processed", [], picture(), cloud(Encoding.BINARY)
    for second in range(SECONDS):
        time, number = f"{second:06d}", f"{400 + second:06d}"
        index.append([time, {"pcd": number, **{f"color_{c}": f"{100 * c + second:06d}" for c in range(1, 7)}}])
        for camera in range(1, 7):
            write(take / "colorimage" / f"camera0{camera}_colorimage-{100 * camera + second:06d}.jpg", jpeg)
        for camera in (1, 2, 5):
            folder = take / f"segmentation_export_{camera}"
            write(folder / f"camera0{camera}_colorimage-{100 * camera + second:06d}.png", label_picture(0, 5))
        write(take / "pcds_sparse" / f"{number}.pcd", points)
        write(take / "relation_labels" / f"{second:06d}.json", {"rel_annotations": [], "human_name_annotations": {}})
        for number in range(3):
            small = data / "take_segmasks_per_timepoint" / FOURDOR_NAME / f"{time}_{number}_GTFalse.png"
            write(small, label_picture(0, 5, size=32))
    write(take / "timestamp_to_pcd_and_frames_list.json", index)
