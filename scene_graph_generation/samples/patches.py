"""What is known of each patch of a view: shares of the categories in its annotated mask, and its depth.

A patch is a square that the vision tower makes one token of. Views are padded to squares (`inputs/views.py`), and so
are masks and depth here; what lies in the padding is unknown.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import torch
from jaxtyping import Float16, Float32, Int64, UInt8

from operating_room.doctor.calibration import lens_of_depth
from operating_room.domain.domain import Domain
from operating_room.errors import UserError
from operating_room.files.camera_files import DepthCamera, read_camera
from operating_room.files.picture_files import picture_size, read_depth, read_label_mask
from operating_room.recordings.dataset import Dataset
from operating_room.recordings.take import RecordedTake
from operating_room.recordings.timepoint import Timepoint
from operating_room.work.workers import in_workers
from scene_graph_generation.inputs.evidence import Evidence
from scene_graph_generation.inputs.views import ViewReader
from scene_graph_generation.samples.training_data import slots_of

_DEPTHS = 2_000  # points of a depth picture, on a grid
_Wanted = tuple[str, Collection[Path] | None]  # frame of a timepoint, and which pictures of it; None: all
_Known = tuple[np.ndarray, np.ndarray, np.ndarray]  # views, shares (255ths) and depth of a timepoint


@dataclass(frozen=True)
class Patched:
    """Timepoints with the same number of views, and what is known of the patches of these."""

    places: tuple[tuple[str, str], ...]  # take and frame of each
    views: UInt8[torch.Tensor, "timepoints views 3 size size"]
    shares: UInt8[torch.Tensor, "timepoints views patches categories"]  # in 255ths; all 0 where no mask tells
    depth: Float16[torch.Tensor, "timepoints views patches"]  # m along the axis; NaN where nobody has measured

    def to(self, device: torch.device) -> Patched:
        """The same on another device."""
        return Patched(self.places, self.views.to(device), self.shares.to(device), self.depth.to(device))


@dataclass(frozen=True)
class Grid:
    """How a tower cuts views into patches, px."""

    size: int
    patch: int

    @property
    def side(self) -> int:
        """Patches along a side of a view."""
        return self.size // self.patch

    def patch_of(
        self, columns: np.ndarray, rows: np.ndarray, width: int, height: int
    ) -> tuple[Int64[np.ndarray, " inside"], np.ndarray]:
        """The patch of each pixel of a picture that lies in one, and which pixels these are."""
        longer = max(width, height)
        across = (columns + (longer - width) // 2 + 0.5) * self.size / longer // self.patch
        down = (rows + (longer - height) // 2 + 0.5) * self.size / longer // self.patch
        inside = (across >= 0) & (across < self.side) & (down >= 0) & (down < self.side)
        return (down * self.side + across)[inside].astype(np.int64), inside


def patch_shares(
    categories: UInt8[np.ndarray, "height width"], count: int, grid: Grid
) -> Float32[np.ndarray, "patches categories"]:
    """The share of each category among the pixels of a patch; 0 for all where there is none of the picture."""
    height, width = categories.shape
    rows, columns = np.divmod(np.arange(height * width), width)
    patch, inside = grid.patch_of(columns, rows, width, height)
    counts = np.bincount(patch * count + categories.reshape(-1)[inside], minlength=grid.side**2 * count)
    found = counts.reshape(-1, count).astype(np.float32)
    return found / np.maximum(found.sum(axis=1, keepdims=True), 1)


def patch_depth(
    depth: Float32[np.ndarray, "height width"], camera: DepthCamera, size: tuple[int, int], grid: Grid, path: Path
) -> Float32[np.ndarray, " patches"]:
    """The mean depth (m) of each patch of the colour picture, width and height `size`; NaN where nothing is known.

    Raises:
        UserError: the depth picture is of neither lens of the camera.
    """
    step = max(1, int(np.sqrt(depth.size / _DEPTHS)))
    rows, columns = (axis.ravel() for axis in np.mgrid[: depth.shape[0] : step, : depth.shape[1] : step])
    measured = depth[rows, columns].astype(np.float64)
    known = np.isfinite(measured)
    lens, color = lens_of_depth(camera, depth, path), camera.color.scaled(*size)
    points = lens.unproject(np.column_stack([columns, rows])[known].astype(np.float64), measured[known])
    pixels, away = color.project(points[np.isfinite(points).all(axis=1)])
    seen = np.isfinite(pixels).all(axis=1)
    patch, inside = grid.patch_of(pixels[seen, 0], pixels[seen, 1], *size)
    found = np.bincount(patch, minlength=grid.side**2)
    total = np.bincount(patch, weights=away[seen][inside], minlength=grid.side**2)
    return np.where(found > 0, total / np.maximum(found, 1), np.nan).astype(np.float32)


def read_patched(
    dataset: Dataset,
    places: Sequence[tuple[str, str]],
    grid: Grid,
    most_bytes: int,
    workers: int = 1,
    left_out: list[str] | None = None,
    pictures: Mapping[tuple[str, str], Collection[Path]] | None = None,
) -> list[Patched]:
    """Decode the views of timepoints once, with what is known of their patches.

    Args:
        dataset: where they are.
        places: take and frame of each; of too many some are drawn, the same ones every time.
        grid: of the tower.
        most_bytes: that they may take in memory.
        workers: processes that read.
        left_out: gets a line for each timepoint that cannot be used; None: the first one is an error.
        pictures: those that are shown of each place; None: all.

    Raises:
        UserError: a file is missing or damaged.
    """
    categories = max(len(dataset.domain.labels.categories), 1)
    views = max((collection.max_views for collection in dataset.domain.collections), default=1)
    each = views * (3 * grid.size**2 + grid.side**2 * (categories + 2))
    most = max(1, most_bytes // each)
    chosen = sorted(Random("patched").sample(places, most)) if len(places) > most else sorted(places)
    takes: dict[str, list[_Wanted]] = {}
    for take, frame in chosen:
        takes.setdefault(take, []).append((frame, None if pictures is None else pictures[take, frame]))
    read = partial(_read_take, dataset.root, dataset.domain, grid, left_out is not None)
    groups: dict[int, list[tuple[tuple[str, str], _Known]]] = {}
    results = in_workers(read, list(takes.items()), workers, "views and their patches")
    for take, found in zip(takes, results, strict=True):  # or progress would end before the last one
        for (frame, _), one in zip(takes[take], found):
            if isinstance(one, str):
                assert left_out is not None
                left_out.append(f"timepoint {take}_{frame}: {one}")
                continue
            groups.setdefault(len(one[0]), []).append(((take, frame), one))
    return [_stacked(group) for count, group in sorted(groups.items()) if count]


def _stacked(group: list[tuple[tuple[str, str], _Known]]) -> Patched:
    parts = [torch.from_numpy(np.stack([one[part] for _, one in group])) for part in range(3)]
    return Patched(tuple(place for place, _ in group), *parts)


def _read_take(
    root: Path, domain: Domain, grid: Grid, skip: bool, wanted: tuple[str, Sequence[_Wanted]]
) -> list[_Known | str]:
    """What is known of timepoints of a take, or with `skip` what is wrong; a process reads one take at a time."""
    name, frames = wanted
    recorded = Dataset(root, domain).take(domain.find_take(name))
    read = ViewReader(grid.size)
    cameras: dict[str, DepthCamera | None] = {}
    found: list[_Known | str] = []
    for frame, pictures in frames:
        try:
            timepoint = recorded.timepoint(frame)
            slots = Evidence.of_timepoint(timepoint).views if pictures is None else slots_of(timepoint, pictures)
            found.append(_read_timepoint(recorded, timepoint, slots, domain, grid, read, cameras))
        except UserError as error:
            if not skip:
                raise
            found.append(str(error))
    return found


def _read_timepoint(
    recorded: RecordedTake,
    timepoint: Timepoint,
    slots: Sequence[Path | None],
    domain: Domain,
    grid: Grid,
    read: ViewReader,
    cameras: dict[str, DepthCamera | None],
) -> _Known:
    patches, count = grid.side**2, max(len(domain.labels.categories), 1)
    shares = np.zeros((len(slots), patches, count), np.uint8)
    depth = np.full((len(slots), patches), np.nan, np.float16)
    for slot, camera in _cameras_of(slots, timepoint):
        mask = timepoint.several("label_masks").get(camera)
        if mask is not None and domain.labels.categories:
            known = domain.labels.label_to_category[read_label_mask(mask)]
            shares[slot] = np.rint(255 * patch_shares(known, count, grid)).astype(np.uint8)
        path = recorded.depth_picture(timepoint, camera)
        if path is None:
            continue
        if camera not in cameras:
            file = recorded.camera_file(camera)
            cameras[camera] = None if file is None else read_camera(file)
        if (lenses := cameras[camera]) is not None:
            size = picture_size(timepoint.views[camera])
            depth[slot] = patch_depth(read_depth(path), lenses, size, grid, path).astype(np.float16)
    return read(slots).numpy(), shares, depth


def _cameras_of(slots: Sequence[Path | None], timepoint: Timepoint) -> Iterator[tuple[int, str]]:
    """Slot and camera of each view that is there."""
    names: Mapping[Path, str] = {path: camera for camera, path in timepoint.views.items()}
    return ((slot, names[path]) for slot, path in enumerate(slots) if path is not None)
