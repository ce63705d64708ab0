"""Gaze and hands of the house layout as tensors, and the views of glasses (facts of egoexor.md, sections 2, 5, 9)."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from operating_room.errors import UserError
from scene_graph_generation.config.settings import MODALITIES, MM2SGConfig, PoolerConfig, VisionConfig
from scene_graph_generation.inputs.evidence import Evidence, ExampleReader
from scene_graph_generation.inputs.glasses import gaze_of, hands_of, mirrored_gaze, mirrored_hands
from tests.operating_room.tiny_dataset import write
from tests.scene_graph_generation.inputs.test_timepoint import PROMPT, TOKENS

TWO = MM2SGConfig(
    vision=VisionConfig(image_size=28),
    pooler=PoolerConfig(audio_width=8, branches="ego_exo", max_views=3),
    modalities=(*MODALITIES, "gaze", "hands"),
)


def picture(shade: int, size: tuple[int, int]) -> bytes:
    """Width and height in px."""
    buffer = io.BytesIO()
    Image.new("RGB", size, (10 * shade, 0, 0)).save(buffer, "JPEG")
    return buffer.getvalue()


def array(path: Path, rows: list[list[float]]) -> Path:
    buffer = io.BytesIO()
    np.save(buffer, np.array(rows, np.float32))
    return write(path, buffer.getvalue())


def shown(folder: Path, *numbers: int, size: tuple[int, int] = (64, 32)) -> dict[int, Path]:
    return {number: write(folder / f"ego{number}.jpg", picture(number, size)) for number in numbers}


def test_gaze_is_found_by_the_number_of_the_camera(tmp_path: Path) -> None:
    """Section 2: rows are matched by column 0; rows of fixed glasses (5, 6) and of none may be among them."""
    ego = shown(tmp_path, 1, 3)
    path = array(tmp_path / "g.npy", [[5, 9, 9, 9], [3, 32, 8, 0.5], [-1, 0, 0, 1], [1, -1, -1, 1], [2, 1, 1, 1]])
    torch.testing.assert_close(gaze_of(path, ego), torch.tensor([[-1 / 64, -1 / 32, 1.0], [0.5, 0.25, 0.5]]))
    assert gaze_of(path, {4: ego[1]}).shape == (0, 3)


def test_hands_keep_what_is_missing(tmp_path: Path) -> None:
    """Sections 2 and 5: eight points in px, NaN for one that was not found, a row may lack its number."""
    path = array(tmp_path / "h.npy", [[np.nan, *[1.0] * 16], [2, 64, 32, np.nan, np.nan, *[16.0] * 12]])
    hands = hands_of(path, shown(tmp_path, 2))
    assert hands.shape == (1, 16)
    assert hands[0, :2].tolist() == [1.0, 1.0]
    assert hands[0, 2:4].isnan().all()
    assert hands[0, 4:6].tolist() == [0.25, 0.5]


def test_mirrored() -> None:
    """A left hand in a mirror is a right one (section 5: left wrist and palm, right ones, then their tips)."""
    assert mirrored_gaze(torch.tensor([[0.25, 0.5, 1], [-0.1, -0.1, 1]])).tolist() == [
        [0.75, 0.5, 1.0],
        pytest.approx([-0.1, -0.1, 1.0]),
    ]
    hands = torch.arange(16.0)[None] / 16
    mirrored = mirrored_hands(hands)
    assert mirrored[0, :2].tolist() == [1 - hands[0, 4], hands[0, 5]]  # left wrist <- right wrist
    assert mirrored[0, 8:10].tolist() == [1 - hands[0, 12], hands[0, 13]]
    torch.testing.assert_close(mirrored_hands(mirrored), hands)


def test_views_of_glasses_come_first_in_two_branches(tmp_path: Path) -> None:
    ego, room = shown(tmp_path, 1, 2), [write(tmp_path / f"room{i}.jpg", picture(8 + i, (20, 20))) for i in range(2)]
    gaze = array(tmp_path / "g.npy", [[1, 1, 1, 1], [2, 1, 1, 1]])
    evidence = Evidence((room[0], ego[2], room[1], ego[1]), {"gaze": (gaze,)}, ego)
    two, one = ExampleReader(TWO, TOKENS), ExampleReader(replace(TWO, pooler=PoolerConfig()), TOKENS)
    example, plain = two(evidence, PROMPT), one(evidence, PROMPT)
    assert example.ego == 2
    assert torch.equal(example.views, plain.views[[3, 1, 0, 2]])
    assert example.others["gaze"].shape == (2, 3)
    # Of training samples some views are left out: gaze of glasses that are not shown is not, either.
    fewer = two(replace(evidence, views=(room[0], ego[2])), PROMPT)
    assert (fewer.ego, len(fewer.others["gaze"])) == (1, 1)


def test_more_views_than_places_are_refused(tmp_path: Path) -> None:
    room = tuple(write(tmp_path / f"room{i}.jpg", picture(i, (20, 20))) for i in range(8))
    for config, views in ((TWO, 4), (replace(TWO, pooler=PoolerConfig()), 8)):
        with pytest.raises(UserError, match=rf"room0\.jpg: is one of {views} views.*pooler.max_views is"):
            ExampleReader(config, TOKENS)(Evidence(room[:views]), PROMPT)
    two = ExampleReader(TWO, TOKENS)
    assert len(two(Evidence(room[:3]), PROMPT).views) == 3
    with pytest.raises(UserError, match="is one of 3 views of the room"):  # the sound needs a place, too
        two(Evidence(room[:3], {"audio": (tmp_path / "a.pt",)}), PROMPT)


def test_records_name_the_pictures_of_glasses(tmp_path: Path) -> None:
    record = {"image": ["a.jpg", "b.jpg"], "ego_image": {"2": "a.jpg"}, "gaze": "g.npy", "hands": "h.npy"}
    evidence = Evidence.of_record(record, tmp_path)
    assert evidence.ego == {2: tmp_path / "a.jpg"}
    assert evidence.others == {"gaze": (tmp_path / "g.npy",), "hands": (tmp_path / "h.npy",)}
    assert evidence.only(("views", "hands")).others == {"hands": (tmp_path / "h.npy",)}
    assert evidence.only(("gaze",)).ego == {}
    for wrong in ({"x": "a.jpg"}, {"2": 3}, ["a.jpg"], {"9" * 5000: "a.jpg"}):
        with pytest.raises(UserError, match="ego_image"):
            Evidence.of_record({**record, "ego_image": wrong}, tmp_path)
