"""Pinhole cameras of the simulated operating room.

World: metres, z up, origin on the floor in the middle of the room. Camera: x right, y down, z forward (OpenCV).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from operating_room.files.camera_files import quaternion


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera without lens distortion: x_camera = rotation @ (x_world - position)."""

    name: str  # room1..room6, station0, station2, station3, tracker; unique within a room
    position: Float[np.ndarray, "3"]  # m
    rotation: Float[np.ndarray, "3 3"]  # world -> camera
    focal: float  # focal length in picture widths
    exposure: tuple[float, float, float] = (1.0, 1.0, 1.0)  # gain of red, green and blue
    infrared: bool = False  # dark tracking camera: only reflecting marker balls are bright

    def intrinsics(self, width: int, height: int) -> Float[np.ndarray, "3 3"]:
        """K for a picture of `width` x `height` px; pixels are square, the centre of the first one is (0, 0)."""
        focal = self.focal * width
        return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])

    @property
    def translation(self) -> Float[np.ndarray, "3"]:
        """t of x_camera = R x_world + t, in m."""
        return -self.rotation @ self.position

    def unproject(
        self, pixels: Float[np.ndarray, "n 2"], depth: Float[np.ndarray, " n"], width: int, height: int
    ) -> Float[np.ndarray, "n 3"]:
        """World positions (m) of pixels (column, row) at depths along the optical axis (m)."""
        rays = np.column_stack([pixels, np.ones(len(pixels))]) @ np.linalg.inv(self.intrinsics(width, height)).T
        return (rays * depth[:, None]) @ self.rotation + self.position


def camera_file(camera: Camera, width: int, height: int) -> dict[str, Any]:
    """The published form of a camera file (`operating_room.files.camera_files`); both lenses are one."""
    (focal, _, across), (_, _, down), _ = camera.intrinsics(width, height).tolist()
    lens = {
        "fov_x": focal,
        "fov_y": focal,
        "c_x": across,
        "c_y": down,
        "width": width,
        "height": height,
        "radial_distortion": {f"m{place}0": 0.0 for place in range(6)},
        "tangential_distortion": {"m00": 0.0, "m10": 0.0},
    }
    turned = quaternion(camera.rotation.T @ np.diag([1.0, -1.0, -1.0]))  # stored: y up, z backward
    pose = _moved(turned.tolist(), camera.position.tolist())
    still = _moved([0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0])
    lenses = {"color_parameters": lens, "depth_parameters": lens}
    return {"value0": {"camera_pose": pose, "color2depth_transform": still, **lenses, "is_valid": True}}


def _moved(rotation: list[float], translation: list[float]) -> dict[str, Any]:
    return {
        "rotation": dict(zip("xyzw", rotation, strict=True)),
        "translation": dict(zip(("m00", "m10", "m20"), translation, strict=True)),
    }


def look_at(
    name: str,
    position: tuple[float, float, float],
    target: tuple[float, float, float],
    field_of_view: float,
    *,
    exposure: tuple[float, float, float] = (1.0, 1.0, 1.0),
    infrared: bool = False,
) -> Camera:
    """An upright camera at `position` looking at `target` (m); `field_of_view` is horizontal, in degrees."""
    place = np.array(position, float)
    forward = np.array(target, float) - place
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    return Camera(name, place, rotation, 0.5 / np.tan(np.radians(field_of_view) / 2), exposure, infrared)
