"""Path patterns of the published datasets, spelled out as in the specification."""

from __future__ import annotations

from pathlib import Path

import pytest

from operating_room.domain.collection import Take
from operating_room.domain.domain import mmor
from operating_room.files import raw_files
from operating_room.recordings.file_checks import labelled_picture
from operating_room.recordings.modalities import TABLE
from tests.operating_room.published import index_place, mask_place, picture_place, place

ROOT = Path("D")
SHARED, KNEE = mmor().find_take("012_2_PKA"), mmor().find_take("003_4DOR")
FOLDER = "export_holistic_take3_processed"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (index_place(ROOT, SHARED), "012_PKA/timestamp_to_pcd_and_frames_list_012_2_PKA.json"),
        (index_place(ROOT, SHARED, of_folder=True), "012_PKA/timestamp_to_pcd_and_frames_list.json"),
        (picture_place(ROOT, SHARED, "5", "000123"), "012_PKA/colorimage/camera05_colorimage-000123.jpg"),
        (picture_place(ROOT, KNEE, "6", "000123"), f"{FOLDER}/colorimage/camera06_colorimage-000123.jpg"),
        (picture_place(ROOT, SHARED, "simstation0", "000045"), "012_PKA/simstation/camera00_000045.jpg"),
        (picture_place(ROOT, SHARED, "trackercam", "000300"), "012_PKA/trackercam/000300.jpg"),
        (mask_place(ROOT, SHARED, "4", "000123"), "012_PKA/segmentation_export_4/camera04_colorimage-000123.png"),
        (
            mask_place(ROOT, SHARED, "simstation2", "000045", interpolated=True),
            "012_PKA/simstation_segmentation_export_2/camera02_000045_interpolated.png",
        ),
        (place(ROOT, "point_cloud", SHARED, time="000007"), "take_point_clouds_sparse/012_2_PKA/000007.pcd"),
        (place(ROOT, "point_cloud", KNEE, pcd="000401"), f"{FOLDER}/pcds_sparse/000401.pcd"),
        (place(ROOT, "seconds", SHARED), "take_jsons/012_2_PKA.json"),
        (place(ROOT, "robot_log", SHARED), "take_timestamp_to_robot_logs/012_2_PKA.json"),
        (place(ROOT, "robot_screen", SHARED, simstation="000045"), "screen_summaries/012_2_PKA/000045.json"),
        (
            place(ROOT, "masks_from_annotation", KNEE, time="000007", number=0),
            "take_segmasks_per_timepoint/003_4DOR/000007_0_GTTrue.png",
        ),
    ],
)
def test_paths(path: Path, expected: str) -> None:
    assert path.as_posix() == f"D/{expected}"


@pytest.mark.parametrize("take", [SHARED, KNEE])
def test_a_label_mask_tells_its_picture(take: Take, tmp_path: Path) -> None:
    for camera in mmor().collection(take).labelled_cameras:
        picture = picture_place(tmp_path, take, camera.name, "000045")
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.touch()
        for interpolated in (False, True):
            mask = mask_place(tmp_path, take, camera.name, "000045", interpolated)
            assert labelled_picture(mask, take, mmor()) == picture
    assert labelled_picture(tmp_path / "elsewhere.png", take, mmor()) is None


def test_advice_knows_the_archives_and_what_is_made() -> None:
    collection = mmor().collection("MMOR")
    made = {collection.files[row.name].split("/")[0] for row in TABLE if row.made_by}
    assert made == raw_files.MADE
    assert {each.root for each in mmor().collections} == raw_files.ARCHIVES
