"""A made-up room in the house layout: four cameras, a microphone and words of its own."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import soundfile

from tests.operating_room.tiny_dataset import SRT, label_picture, picture, write

DOMAIN = """\
name: kitchen
language:
  entities: [cook, helper, pan, stove]
  people: [cook, helper]
  predicates: [stirring, holding, beside]
  levels:
    - [stirring]
    - [holding]
    - [beside]
  forgotten: [beside]
labels:
  count: 4
  masks: 2
  categories:
    - {name: background, color: [0, 0, 0], label: 0}
    - {name: pan, color: [255, 0, 0], label: 1}
    - {name: stove, color: [0, 255, 0], label: 3}
collections:
  - name: Kitchen
    root: Kitchen_data
    layout: house
    cameras:
      - {name: ceiling, modality: room_views}
      - {name: door, modality: room_views}
      - {name: screen, modality: station_views}
      - {name: glasses, modality: ego_views}
    slots:
      training: [glasses, ceiling, door, screen]
      evaluation: [ceiling, door]
      also: [glasses]
    modalities: [point_cloud, audio, audio_embedding, transcript, gaze, hands, masks, label_masks]
"""
SPLITS = {"train": ["soup"], "val": ["stew"], "test": []}
FRAMES = 4
CAMERAS = ("ceiling", "door", "screen", "glasses")


def write_house(root: Path) -> Path:
    """Two complete takes; returns the folder of the dataset."""
    write(root / "domain.yaml", DOMAIN)
    write(root / "splits.yaml", "train: [soup]\nval: [stew]\ntest: []\n")
    for take in ("soup", "stew"):
        write_take(root / "takes" / take)
    return root


def write_take(folder: Path, period: float = 0.5) -> None:
    """A take of `FRAMES` timepoints with everything that its domain lists and is not made by preprocessing."""
    write(folder / "take.yaml", f"period: {period}\nframes: {FRAMES}\npictures: jpg\nsource: {{made: by a test}}\n")
    for frame in range(FRAMES):
        name = f"{frame:06d}"
        for camera in CAMERAS:
            write(folder / "views" / camera / f"{name}.jpg", picture())
        write(folder / "label_masks" / "ceiling" / f"{name}.png", label_picture(0, 1, 3))
        write(folder / "graphs" / f"{name}.json", [["cook", "pan", "stirring"], ["helper", "stove", "beside"]])
        write(folder / "clouds" / f"{name}.npz", cloud_arrays())
        write(folder / "gaze" / f"{name}.npy", array(np.array([[1, 30, 20, 0.7]], np.float32)))
        write(folder / "hands" / f"{name}.npy", array(np.full((2, 17), np.nan, np.float32)))
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros((32_000, 2)), 16_000, format="FLAC")
    write(folder / "sound.flac", buffer.getvalue())
    write(folder / "transcript.srt", SRT)


def array(values: np.ndarray) -> bytes:
    """An .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def cloud_arrays(points: int = 20) -> bytes:
    """An .npz file of points in a room of some metres, and their colours."""
    buffer = io.BytesIO()
    draw = np.random.default_rng(0)
    points_m = draw.uniform(0, 4, (points, 3)).astype(np.float32)
    np.savez(buffer, points=points_m, colors=draw.integers(0, 256, (points, 3)).astype(np.uint8))
    return buffer.getvalue()
