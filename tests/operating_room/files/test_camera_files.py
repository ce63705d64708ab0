"""Camera files: what is read, against OpenCV's documented model, and what is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from operating_room.errors import UserError
from operating_room.files.camera_files import quaternion, read_camera
from tests.operating_room.cameras import camera_file
from tests.operating_room.tiny_dataset import write


def test_a_pixel_comes_back_from_the_world(tmp_path: Path) -> None:
    """With the distortion of a real Azure Kinect, as published for EgoExOR."""
    camera = read_camera(write(tmp_path / "camera01.json", camera_file())).color
    draw = np.random.default_rng(0)
    pixels, depth = draw.uniform(0, 1, (500, 2)) * camera.size, draw.uniform(0.5, 5, 500)
    points = camera.unproject(pixels, depth)
    back, again = camera.project(points)
    seen = np.isfinite(points).all(axis=1)
    assert seen.mean() > 0.95
    assert np.abs(back[seen] - pixels[seen]).max() < 0.2
    assert np.abs(again[seen] - depth[seen]).max() < 1e-9


def test_axes_and_both_lenses(tmp_path: Path) -> None:
    """A camera 3 m along x that stands upright, as stored: x right, y up, z backward; its colour lens 3 cm beside."""
    file = camera_file(translation=(3, 0, 0), color_offset=(0.03, 0, 0), radial=(0,) * 6)
    camera = read_camera(write(tmp_path / "camera01.json", file))
    points = np.array([[3.0, 0.0, -2.0], [3.5, 0.0, -2.0], [3.0, 0.5, -2.0], [3.0, 0.0, 2.0]])
    pixels, depth = camera.depth.project(points)
    center = camera.depth.matrix[:2, 2]
    assert depth[:3].tolist() == [2, 2, 2]
    assert np.allclose(pixels[0], center)
    assert pixels[1][0] > center[0]  # to the right
    assert pixels[2][1] < center[1]  # above
    assert np.isnan(pixels[3]).all()  # behind
    assert np.allclose(camera.color.pose[:3, 3], [3.03, 0, 0])


def test_k_is_built_from_focal_lengths_and_centre(tmp_path: Path) -> None:
    """The matrix of a published file is filled wrongly."""
    file = camera_file()
    file["value0"]["depth_parameters"]["intrinsics_matrix"] = dict.fromkeys(("m00", "m11", "m22"), 17.0)
    matrix = read_camera(write(tmp_path / "camera01.json", file)).depth.matrix
    assert matrix.tolist() == [[504, 0, 320], [0, 504, 288], [0, 0, 1]]


def test_pictures_of_another_size(tmp_path: Path) -> None:
    camera = read_camera(write(tmp_path / "camera01.json", camera_file())).color
    half = camera.scaled(1024, 768)
    points = camera.unproject(np.array([[500.0, 700.0], [1500.0, 200.0]]), np.array([2.0, 3.0]))
    assert np.allclose((half.project(points)[0] + 0.5) * 2 - 0.5, [[500, 700], [1500, 200]], atol=0.2)
    with pytest.raises(UserError, match="pictures of 336x336 px do not have the proportions"):
        camera.scaled(336, 336)


def test_rotations_are_those_of_scipy(tmp_path: Path) -> None:
    for turned in Rotation.random(20, rng=np.random.default_rng(0)):
        file = camera_file(rotation=turned.as_quat().tolist())
        pose = read_camera(write(tmp_path / "camera01.json", file)).depth.pose
        assert np.allclose(pose[:3, :3] @ np.diag([1, -1, -1]), turned.as_matrix())
        assert np.allclose(Rotation.from_quat(quaternion(turned.as_matrix())).as_matrix(), turned.as_matrix())


def change(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Another value at a place of the file."""

    def spoil(file: dict[str, Any]) -> None:
        inner = file["value0"]
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value

    return spoil


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda file: file["value0"].pop("camera_pose"), "'camera_pose' is missing"),
        (lambda file: file.pop("value0"), "'value0' is missing"),
        (change("camera_pose", "rotation", "w", value=5.0), "no unit quaternion"),
        (change("camera_pose", "translation", "m00", value=2000.0), "expected m, not mm"),
        (change("camera_pose", "translation", "m00", value="a"), "where a number belongs"),
        (change("color_parameters", "fov_x", value=90.0), "no numbers of pixels"),
        (change("color_parameters", "c_x", value=5000.0), "outside of 2048x1536"),
        (change("depth_parameters", "width", value=0), "no number of pixels"),
        (change("is_valid", value=False), "not valid"),
        (
            change("depth_parameters", value=[1, 2]),
            "is no camera file: a list, null or text is where an object belongs",
        ),
        (lambda file: file.update(value0=None), "is no camera file: a list, null or text is where an object belongs"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, spoil: Callable[[dict[str, Any]], Any], told: str) -> None:
    file = json.loads(json.dumps(camera_file()))
    spoil(file)
    path = write(tmp_path / "camera01.json", file)
    with pytest.raises(UserError, match=f"{path}: .*{told}"):
        read_camera(path)
