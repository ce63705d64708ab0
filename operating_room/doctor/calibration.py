"""By how much the cameras of a take disagree about depth: `mmor data check --calibration`.

What can be measured depends on what is on disk. With depth pictures, what one camera has measured is carried by way of
the world into another one and compared with what that has measured there; and the point cloud with each. A cloud alone
is one for all cameras, so cameras cannot disagree about it: it is only told how much of it each camera sees, and
whether its colours are those of the pictures, which they are where poses are right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, UInt8

from operating_room.domain.collection import Take
from operating_room.errors import UserError, one_line
from operating_room.files.camera_files import Calibration, DepthCamera, read_camera
from operating_room.files.picture_files import read_depth
from operating_room.files.readers import read_picture, read_point_cloud
from operating_room.recordings.dataset import Dataset
from operating_room.recordings.take import RecordedTake
from operating_room.recordings.timepoint import Timepoint
from operating_room.work.progress import track

SECONDS = 12  # timepoints of a take that are looked at, evenly over it
SAME_SURFACE = 250  # mm; farther apart are two surfaces, of which one hides the other
_POINTS = 5_000  # of a depth picture, on a grid
_CLOUD = "cloud"
_FAIR = 2.0  # colours of a fitting cloud differ less than those of any other point by this factor


@dataclass(frozen=True)
class Disagreement:
    """What one camera, or the cloud, has measured, against another camera."""

    of: str  # a camera, or `cloud`
    against: str  # a camera
    points: int  # that both have measured as one surface
    same: float  # their share of all that both have measured
    median_mm: float  # of the absolute differences
    offset_mm: float  # median of the differences; positive is farther away than the other camera has measured


@dataclass(frozen=True)
class CloudView:
    """What a camera sees of the cloud."""

    camera: str
    seen: float  # share of the points inside its picture
    color: float  # median difference of their colours from those of the picture, of 0..1
    chance: float  # the same against the colours of any other points that it sees

    @property
    def fits(self) -> bool:
        """Whether the colours say that the pose is right; a poor sign where everything has one colour."""
        return self.seen > 0 and self.color * _FAIR < self.chance


@dataclass(frozen=True)
class TakeCalibration:
    """What is known of the calibration of a take."""

    take: str
    cameras: tuple[str, ...]  # those with a camera file
    pairs: tuple[Disagreement, ...] = ()
    cloud: tuple[CloudView, ...] = ()
    problems: tuple[str, ...] = ()  # what could not be measured, and why

    def to_json(self) -> dict[str, Any]:
        """For a JSON file, which has null where nothing was measured."""
        return {
            "take": self.take,
            "cameras": list(self.cameras),
            "depth": [_known(vars(pair)) for pair in self.pairs],
            "cloud": [{**_known(vars(view)), "fits": view.fits} for view in self.cloud],
            "problems": list(self.problems),
        }

    def __str__(self) -> str:
        lines = [f"{self.take}: {len(self.cameras)} cameras with a camera file ({', '.join(self.cameras) or 'none'})"]
        if self.pairs:
            lines.append(
                f"  {'depth of':<14} {'against':<14} {'median mm':>9} {'offset mm':>9} {'one surface':>11} points"
            )
        for pair in self.pairs:
            numbers = f"{pair.median_mm:>9.0f} {pair.offset_mm:>+9.0f} {pair.same:>11.0%} {pair.points}"
            lines.append(f"  {pair.of:<14} {pair.against:<14} {numbers}")
        for view in self.cloud:
            told = "fits" if view.fits else "does not fit" if view.seen else "sees nothing of the cloud"
            numbers = (
                f"sees {view.seen:.0%} of the cloud, colours differ by {view.color:.3f} (by chance {view.chance:.3f})"
            )
            lines.append(f"  camera {view.camera}: {numbers}: {told}")
        return "\n".join([*lines, *(f"  not measured: {one_line(problem)}" for problem in self.problems)])


def check_calibration(dataset: Dataset, takes: Sequence[Take]) -> list[TakeCalibration]:
    """What can be measured of the calibration of these takes; what is broken costs the take, and is told."""
    return [_look(dataset.take(take)) for take in takes]


def _look(recorded: RecordedTake) -> TakeCalibration:
    name = recorded.take.name
    lenses: dict[str, DepthCamera] = {}
    try:
        for camera in recorded.collection.camera:
            if (path := recorded.camera_file(camera)) is not None:
                lenses[camera] = read_camera(path)
        if not lenses:
            names = recorded.collection.camera_files(recorded.take, next(iter(recorded.collection.camera), "1"))
            where = " or ".join(str(recorded.root / name) for name in names) or "none in this domain"
            return TakeCalibration(name, (), problems=(f"there is no camera file ({where})",))
        return _measure(recorded, lenses)
    except UserError as error:
        return TakeCalibration(name, tuple(lenses), problems=(str(error),))


def _measure(recorded: RecordedTake, lenses: Mapping[str, DepthCamera]) -> TakeCalibration:
    timepoints = [
        timepoint
        for timepoint in recorded.timepoints
        if timepoint.one("point_cloud") or any(recorded.depth_picture(timepoint, camera) for camera in lenses)
    ]
    places = np.unique(np.linspace(0, len(timepoints) - 1, min(SECONDS, len(timepoints))).astype(int))
    depths, views, problems = _Differences(), _Colors(), {}
    for place in track(places.tolist(), f"calibration of {recorded.take.name}"):
        timepoint = timepoints[place]
        found: dict[str, tuple[Calibration, Float32[np.ndarray, "height width"]]] = {}
        for camera in lenses:
            if (path := recorded.depth_picture(timepoint, camera)) is not None:
                depth = read_depth(path)
                found[camera] = lens_of_depth(lenses[camera], depth, path), depth
        lifted = {camera: _lift(*of_camera) for camera, of_camera in found.items()}
        for of, against in permutations(found, 2):
            depths.add((of, against), lifted[of], *found[against])
        if (path := timepoint.one("point_cloud")) is not None:
            cloud = read_point_cloud(path)
            for camera, (lens, depth) in found.items():
                depths.add((_CLOUD, camera), cloud[:, :3].astype(np.float64), lens, depth)
            for camera, lens in lenses.items():
                if camera in timepoint.views:
                    try:
                        _see(views, camera, lens.color, cloud, timepoint)
                    except UserError as error:
                        problems[str(error)] = None
    if not timepoints:
        problems["no timepoint has a depth picture or a point cloud of this take"] = None
    elif not depths.counts:
        problems["no depth pictures, so that cameras cannot be compared in depth; the cloud is one for all"] = None
    return TakeCalibration(
        recorded.take.name, tuple(lenses), tuple(depths.results()), tuple(views.results()), tuple(problems)
    )


def lens_of_depth(camera: DepthCamera, depth: Float32[np.ndarray, "height width"], path: Path) -> Calibration:
    """The lens that a depth picture was taken by, or brought to, by its size.

    Raises:
        UserError: it is of neither.
    """
    size = depth.shape[1], depth.shape[0]
    for lens in (camera.depth, camera.color):
        if size == lens.size:
            return lens
    try:
        return camera.color.scaled(*size)
    except UserError as error:
        raise UserError(f"{path}: is of neither lens of its camera file: {error}") from error


def _lift(lens: Calibration, depth: Float32[np.ndarray, "height width"]) -> Float[np.ndarray, "points 3"]:
    """Points of the world on a grid of a depth picture."""
    step = max(1, int(np.sqrt(depth.size / _POINTS)))
    rows, columns = (axis.ravel() for axis in np.mgrid[: depth.shape[0] : step, : depth.shape[1] : step])
    measured = depth[rows, columns]
    known = np.isfinite(measured)
    pixels = np.column_stack([columns, rows])[known].astype(np.float64)
    return lens.unproject(pixels, measured[known].astype(np.float64))


class _Differences:
    """Differences in depth by pair, counted in steps of 1 mm: many timepoints need no more memory than one."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str], np.ndarray] = {}
        self.measured: dict[tuple[str, str], int] = {}

    def add(
        self,
        pair: tuple[str, str],
        points: Float[np.ndarray, "points 3"],
        lens: Calibration,
        depth: Float32[np.ndarray, "height width"],
    ) -> None:
        pixels, away = lens.project(points)
        seen = np.isfinite(pixels).all(axis=1)
        columns, rows = np.rint(pixels[seen]).astype(int).T
        difference = (away[seen] - depth[rows, columns]) * 1000
        difference = np.rint(difference[np.isfinite(difference)])
        near = difference[np.abs(difference) <= SAME_SURFACE].astype(int) + SAME_SURFACE
        counts = self.counts.setdefault(pair, np.zeros(2 * SAME_SURFACE + 1, np.int64))
        counts += np.bincount(near, minlength=len(counts))
        self.measured[pair] = self.measured.get(pair, 0) + len(difference)

    def results(self) -> list[Disagreement]:
        found = []
        for (of, against), counts in self.counts.items():
            if points := int(counts.sum()):
                signed = np.arange(-SAME_SURFACE, SAME_SURFACE + 1)
                absolute = np.bincount(np.abs(signed), counts)
                middle = _median(np.arange(len(absolute)), absolute)
                share = points / self.measured[of, against]
                found.append(Disagreement(of, against, points, share, middle, _median(signed, counts)))
            else:
                found.append(Disagreement(of, against, 0, 0.0, float("nan"), float("nan")))
        return found


class _Colors:
    """What cameras see of the cloud, by timepoint."""

    def __init__(self) -> None:
        self._found: dict[str, list[tuple[float, float, float]]] = {}

    def add(self, camera: str, seen: float, color: float, chance: float) -> None:
        self._found.setdefault(camera, []).append((seen, color, chance))

    def results(self) -> list[CloudView]:
        found = []
        for camera, rows in self._found.items():
            seen, color, chance = np.array(rows).T
            shown = np.isfinite(color)
            middle = [float(np.median(values[shown])) if shown.any() else float("nan") for values in (color, chance)]
            found.append(CloudView(camera, float(seen.mean()), *middle))
        return found


def _see(
    views: _Colors, camera: str, lens: Calibration, cloud: Float32[np.ndarray, "points 6"], timepoint: Timepoint
) -> None:
    """Compare the colours of the nearest point in each small square of a picture with those of the picture."""
    path = timepoint.views[camera]
    picture = read_picture(path)
    try:
        lens = lens.scaled(picture.shape[1], picture.shape[0])
    except UserError as error:
        raise UserError(f"camera {camera}: {error}") from error
    pixels, away = lens.project(cloud[:, :3].astype(np.float64))
    seen = np.flatnonzero(np.isfinite(pixels).all(axis=1))
    if not len(seen):
        views.add(camera, 0.0, np.nan, np.nan)
        return
    columns, rows = np.rint(pixels[seen]).astype(int).T
    square = max(1, picture.shape[1] // 64)  # px; between the points of a cloud one sees what is behind
    cell = rows // square * (picture.shape[1] // square + 1) + columns // square
    nearest = np.full(cell.max() + 1, np.inf)
    np.minimum.at(nearest, cell, away[seen])
    front = away[seen] <= nearest[cell] + SAME_SURFACE / 1000
    colors = cloud[seen[front], 3:]
    shown = _colors_at(picture, rows[front], columns[front])
    mixed = colors[np.random.default_rng(0).permutation(len(colors))]
    differences = [float(np.median(np.abs(other - shown).mean(axis=1))) for other in (colors, mixed)]
    views.add(camera, len(seen) / len(cloud), *differences)


def _colors_at(
    picture: UInt8[np.ndarray, "height width 3"], rows: np.ndarray, columns: np.ndarray
) -> Float32[np.ndarray, "points 3"]:
    return picture[rows, columns].astype(np.float32) / 255


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: None if value != value else value for name, value in values.items()}


def _median(values: np.ndarray, counts: np.ndarray) -> float:
    """The middle one of values that occur so often."""
    return float(values[np.searchsorted(np.cumsum(counts), counts.sum() / 2)])
