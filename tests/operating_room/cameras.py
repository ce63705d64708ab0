"""Camera files for tests, in the form of MM-OR, 4D-OR and EgoExOR."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

RADIAL = (0.5, -2.7, 1.6, 0.4, -2.5, 1.5)  # k1 to k6, about those of an Azure Kinect


def camera_file(
    rotation: Sequence[float] = (0, 0, 0, 1),
    translation: Sequence[float] = (0, 0, 0),
    color_offset: Sequence[float] = (0.032, 0.002, 0.004),
    radial: Sequence[float] = RADIAL,
    color_size: tuple[int, int] = (2048, 1536),
    depth_size: tuple[int, int] = (640, 576),
) -> dict[str, Any]:
    """A camera with square pixels and its centre in the middle; pose and offset as the files store them, in m."""
    return {
        "value0": {
            "camera_pose": _transform(rotation, translation),
            "color2depth_transform": _transform((0, 0, 0, 1), color_offset),
            "color_parameters": _lens(0.48 * color_size[0], color_size, radial),
            "depth_parameters": _lens(0.7875 * depth_size[0], depth_size, radial),
            "is_valid": True,
        }
    }


def _transform(rotation: Sequence[float], translation: Sequence[float]) -> dict[str, Any]:
    return {
        "rotation": dict(zip("xyzw", map(float, rotation))),
        "translation": dict(zip(("m00", "m10", "m20"), map(float, translation))),
    }


def _lens(focal: float, size: tuple[int, int], radial: Sequence[float]) -> dict[str, Any]:
    return {
        "fov_x": focal,
        "fov_y": focal,
        "c_x": size[0] / 2,
        "c_y": size[1] / 2,
        "width": size[0],
        "height": size[1],
        "radial_distortion": {f"m{i}0": float(value) for i, value in enumerate(radial)},
        "tangential_distortion": {"m00": 1e-4, "m10": -2e-4},
        "metric_radius": 1.7,
    }
