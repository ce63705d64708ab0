"""Camera files of MM-OR, 4D-OR and EgoExOR: how a camera projects, and where it stands.

One form in all three (Azure Kinect): `color_parameters` and `depth_parameters` with focal lengths (called `fov_x` and
`fov_y`) and centre in px, radial and tangential distortion; `camera_pose`, of the depth camera, in m;
`color2depth_transform`. K is made of focal lengths and centre, since the `intrinsics_matrix` of some files is filled
wrongly. That poses are camera to world, with x right, y up and z backward, is what programs that read these files do;
no description says so: `mmor data check --calibration` tells whether it is so on a disk.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from operating_room.errors import UserError
from operating_room.files.raw_files import again
from operating_room.files.readers import read_json

_TO_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])  # x right, y up, z backward -> x right, y down, z forward
_RADIAL = ("m00", "m10", "m20", "m30", "m40", "m50")  # k1 to k6
_TANGENTIAL = ("m00", "m10")  # p1, p2
_FARTHEST = 100.0  # m from the origin; more is a pose in mm
_FOCAL = (0.1, 10.0)  # of the picture's width; outside, it is an angle or of another size
_SHAPE_TOLERANCE = 0.02  # by which the proportions of a picture may differ, as those of masks may
_STEPS, _CONVERGED = 30, 1e-4  # of undoing the distortion: steps, and how far off it may be, in focal lengths


@dataclass(frozen=True, eq=False)
class Calibration:
    """How a camera projects, and where it stands. Camera: x right, y down, z forward; the first pixel is (0, 0)."""

    matrix: Float[np.ndarray, "3 3"]  # K, px
    distortion: Float[np.ndarray, " 8"]  # k1, k2, p1, p2, k3, k4, k5, k6: OpenCV's rational model, and its order
    pose: Float[np.ndarray, "4 4"]  # camera -> world, m
    size: tuple[int, int]  # width, height in px
    radius: float = np.inf  # in focal lengths from the axis; nothing is seen beyond

    def scaled(self, width: int, height: int) -> Calibration:
        """The same camera with pictures of another size, of the same proportions.

        Raises:
            UserError: of other proportions: nobody says whether they were cut, padded or stretched.
        """
        across, down = width / self.size[0], height / self.size[1]
        if abs(across / down - 1) > _SHAPE_TOLERANCE:
            raise UserError(
                f"pictures of {width}x{height} px do not have the proportions of the calibration, "
                f"{self.size[0]}x{self.size[1]} px, and how they were cut or padded cannot be told"
            )
        scale = np.array([[across, 0, (across - 1) / 2], [0, down, (down - 1) / 2], [0, 0, 1]])
        return replace(self, matrix=scale @ self.matrix, size=(width, height))

    @cached_property
    def world_to_camera(self) -> Float[np.ndarray, "4 4"]:
        """The inverse of the pose."""
        return np.linalg.inv(self.pose)

    def project(
        self, points: Float[np.ndarray, "points 3"]
    ) -> tuple[Float[np.ndarray, "points 2"], Float[np.ndarray, " points"]]:
        """Pixels (column, row) of points of the world (m), and depths along the axis (m).

        Pixels are NaN for what cannot be seen: behind the camera, or outside of the picture.
        """
        local = points @ self.world_to_camera[:3, :3].T + self.world_to_camera[:3, 3]
        depth = local[:, 2]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            flat = local[:, :2] / depth[:, None]
            within = (depth > 0) & (np.hypot(flat[:, 0], flat[:, 1]) <= self.radius)
            bent = self._distort(flat)
            pixels = bent @ self.matrix[:2, :2].T + self.matrix[:2, 2]
            within &= ((pixels >= -0.5) & (pixels < np.array(self.size) - 0.5)).all(axis=1)
        return np.where(within[:, None], pixels, np.nan), depth

    def unproject(
        self, pixels: Float[np.ndarray, "points 2"], depth: Float[np.ndarray, " points"]
    ) -> Float[np.ndarray, "points 3"]:
        """Points of the world (m) at pixels (column, row) and depths along the axis (m); NaN where no ray is."""
        bent = (pixels - self.matrix[:2, 2]) @ np.linalg.inv(self.matrix[:2, :2]).T
        flat = bent
        with np.errstate(all="ignore"):
            for _ in range(_STEPS):
                flat = flat + (bent - self._distort(flat))
            lost = ~(np.abs(self._distort(flat) - bent) < _CONVERGED).all(axis=1)
            lost |= np.hypot(flat[:, 0], flat[:, 1]) > self.radius
        local = np.column_stack([flat * depth[:, None], depth])
        local[lost] = np.nan
        return local @ self.pose[:3, :3].T + self.pose[:3, 3]

    def _distort(self, flat: Float[np.ndarray, "points 2"]) -> Float[np.ndarray, "points 2"]:
        k1, k2, p1, p2, k3, k4, k5, k6 = self.distortion
        x, y = flat[:, 0], flat[:, 1]
        r = x * x + y * y
        radial = (1 + r * (k1 + r * (k2 + r * k3))) / (1 + r * (k4 + r * (k5 + r * k6)))
        return np.column_stack(
            [
                x * radial + 2 * p1 * x * y + p2 * (r + 2 * x * x),
                y * radial + p1 * (r + 2 * y * y) + 2 * p2 * x * y,
            ]
        )


@dataclass(frozen=True, eq=False)
class DepthCamera:
    """Both lenses of a camera."""

    color: Calibration
    depth: Calibration


def read_camera(path: Path) -> DepthCamera:
    """The calibration of a camera, of its colour and its depth lens.

    Raises:
        UserError: the file is missing, damaged or of another form, or holds what cannot be: a rotation that is none, a
            pose in mm, a focal length that is no number of pixels, or the note that it is not valid.
    """
    content = read_json(path)
    try:
        values = content["value0"]
        if values.get("is_valid", True) not in (True, 1):
            raise ValueError("it says itself that it is not valid")
        pose = _transform(values["camera_pose"], "camera_pose")
        to_depth = _transform(values["color2depth_transform"], "color2depth_transform")
        return DepthCamera(
            _lens(values["color_parameters"], pose @ to_depth @ _TO_OPENCV, "color_parameters"),
            _lens(values["depth_parameters"], pose @ _TO_OPENCV, "depth_parameters"),
        )
    except KeyError as error:
        raise UserError(f"{path}: is no camera file: {error.args[0]!r} is missing; {again(path)}") from error
    except (TypeError, AttributeError) as error:
        told = "a list, null or text is where an object belongs"
        raise UserError(f"{path}: is no camera file: {told}; {again(path)}") from error
    except ValueError as error:
        raise UserError(f"{path}: is no camera file: {error}; {again(path)}") from error


def _lens(values: dict[str, Any], pose: Float[np.ndarray, "4 4"], name: str) -> Calibration:
    focal = np.array([_number(values["fov_x"], name), _number(values["fov_y"], name)])
    center = np.array([_number(values["c_x"], name), _number(values["c_y"], name)])
    size = (_whole(values["width"], name), _whole(values["height"], name))
    if not (np.array(_FOCAL)[0] * size[0] <= focal).all() or not (focal <= _FOCAL[1] * size[0]).all():
        raise ValueError(f"focal lengths {focal.tolist()} of {name} are no numbers of pixels in a width of {size[0]}")
    if not ((center >= 0) & (center <= size)).all():
        raise ValueError(f"the centre {center.tolist()} of {name} is outside of {size[0]}x{size[1]} px")
    radial = [_number(values["radial_distortion"][key], name) for key in _RADIAL]
    tangential = [_number(values["tangential_distortion"][key], name) for key in _TANGENTIAL]
    matrix = np.array([[focal[0], 0, center[0]], [0, focal[1], center[1]], [0, 0, 1]])
    radius = _number(values["metric_radius"], name) if "metric_radius" in values else 0.0
    return Calibration(
        matrix, np.array([*radial[:2], *tangential, *radial[2:]]), pose, size, radius if radius > 0 else np.inf
    )


def _transform(values: dict[str, Any], name: str) -> Float[np.ndarray, "4 4"]:
    """A rotation and then a translation, in m."""
    move = np.array([_number(values["translation"][key], name) for key in ("m00", "m10", "m20")])
    x, y, z, w = (_number(values["rotation"][key], name) for key in ("x", "y", "z", "w"))
    if abs(x * x + y * y + z * z + w * w - 1) > 1e-2:
        raise ValueError(f"the rotation of {name} is no unit quaternion ({x:g}, {y:g}, {z:g}, {w:g})")
    if np.abs(move).max() > _FARTHEST:
        raise ValueError(f"the translation of {name} is {np.abs(move).max():g} m; expected m, not mm")
    length = x * x + y * y + z * z + w * w
    matrix = np.eye(4)
    matrix[:3, :3] = np.eye(3) + 2 / length * np.array(
        [
            [-y * y - z * z, x * y - z * w, x * z + y * w],
            [x * y + z * w, -x * x - z * z, y * z - x * w],
            [x * z - y * w, y * z + x * w, -x * x - y * y],
        ]
    )
    matrix[:3, 3] = move
    return matrix


def quaternion(rotation: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, " 4"]:
    """x, y, z, w of a rotation."""
    # The largest eigenvector of this matrix is the quaternion (Bar-Itzhack 2000), whatever the angle.
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation
    symmetric = np.array(
        [
            [xx - yy - zz, 0, 0, 0],
            [yx + xy, yy - xx - zz, 0, 0],
            [zx + xz, zy + yz, zz - xx - yy, 0],
            [zy - yz, xz - zx, yx - xy, xx + yy + zz],
        ]
    )
    _, vectors = np.linalg.eigh(symmetric, "L")
    found = vectors[:, -1]
    return found if found[3] >= 0 else -found


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} holds {str(value)[:40]!r} where a number belongs")
    return float(value)


def _whole(value: Any, name: str) -> int:
    number = _number(value, name)
    if number != int(number) or not 0 < number < 1 << 16:
        raise ValueError(f"{name} holds the size {number:g}, which is no number of pixels")
    return int(number)
