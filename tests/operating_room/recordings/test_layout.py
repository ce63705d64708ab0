"""Path patterns, spelled out as in the specification."""

from __future__ import annotations

from pathlib import Path

import pytest

from operating_room.domain.takes import Take, find_take
from operating_room.files import raw_files
from operating_room.recordings import layout

ROOT = Path("D")
SHARED, KNEE = find_take("012_2_PKA"), find_take("003_4DOR")
FOLDER = "export_holistic_take3_processed"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (layout.index_files(ROOT, SHARED)[0], "012_PKA/timestamp_to_pcd_and_frames_list_012_2_PKA.json"),
        (layout.index_files(ROOT, SHARED)[1], "012_PKA/timestamp_to_pcd_and_frames_list.json"),
        (layout.room_view(ROOT, SHARED, 5, "000123"), "012_PKA/colorimage/camera05_colorimage-000123.jpg"),
        (layout.room_view(ROOT, KNEE, 6, "000123"), f"{FOLDER}/colorimage/camera06_colorimage-000123.jpg"),
        (layout.station_view(ROOT, SHARED, 0, "000045"), "012_PKA/simstation/camera00_000045.jpg"),
        (layout.tracker_view(ROOT, SHARED, "000300"), "012_PKA/trackercam/000300.jpg"),
        (layout.relation_label_folders(ROOT, SHARED)[0], "012_PKA/relation_labels"),
        (layout.relation_label_folders(ROOT, SHARED)[1], "012_PKA/relation_labels_012_2_PKA"),
        (
            layout.label_mask(ROOT, SHARED, "4", "000123"),
            "012_PKA/segmentation_export_4/camera04_colorimage-000123.png",
        ),
        (
            layout.label_mask(ROOT, SHARED, "simstation2", "000045", interpolated=True),
            "012_PKA/simstation_segmentation_export_2/camera02_000045_interpolated.png",
        ),
        (
            layout.panoptic_mask(ROOT, SHARED, "simstation0", "000045"),
            "012_PKA/panoptic_seg_simstation0/camera00_000045.png",
        ),
        (
            layout.panoptic_mask(ROOT, KNEE, "5", "000123", for_validation=True),
            f"{FOLDER}/panoptic_seg_5_for_val/camera05_colorimage-000123.png",
        ),
        (layout.segmentation_view(ROOT, SHARED, "simstation3", "000045"), "012_PKA/simstation/camera03_000045.jpg"),
        (layout.segmentation_view(ROOT, KNEE, "2", "000123"), f"{FOLDER}/colorimage/camera02_colorimage-000123.jpg"),
        (layout.point_cloud(ROOT, SHARED, "000007"), "take_point_clouds_sparse/012_2_PKA/000007.pcd"),
        (layout.point_cloud(ROOT, KNEE, "000401"), f"{FOLDER}/pcds_sparse/000401.pcd"),
        (layout.take_json(ROOT, SHARED), "take_jsons/012_2_PKA.json"),
        (layout.tracks(ROOT, SHARED), "take_tracks/012_2_PKA.json"),
        (layout.screen_summary(ROOT, SHARED, "000045"), "screen_summaries/012_2_PKA/000045.json"),
        (layout.recording(ROOT, SHARED), "take_audios/012_2_PKA.mp3"),
        (layout.audio_clip(ROOT, SHARED, "000007"), "take_audio_per_timepoint/012_2_PKA/000007.mp3"),
        (layout.audio_embedding(ROOT, SHARED, "000007"), "take_audio_embeddings_per_timepoint/012_2_PKA/000007.pt"),
        (layout.subtitles(ROOT, SHARED), "take_transcripts/012_2_PKA.srt"),
        (layout.transcript(ROOT, SHARED, "000007"), "take_transcripts_per_timepoint/012_2_PKA/000007.json"),
        (layout.small_mask(ROOT, SHARED, "000007", 2), "take_segmasks_per_timepoint/012_2_PKA/000007_2_GTFalse.png"),
        (
            layout.small_mask(ROOT, KNEE, "000007", 0, from_annotation=True),
            "take_segmasks_per_timepoint/003_4DOR/000007_0_GTTrue.png",
        ),
        (layout.next_action(ROOT, SHARED), "take_timestamp_to_next_action/012_2_PKA.json"),
        (layout.robot_phase(ROOT, SHARED), "take_timestamp_to_robot_phase/012_2_PKA.json"),
        (layout.sterility_breach(ROOT, SHARED), "take_timestamp_to_sterility_breach/012_2_PKA.json"),
    ],
)
def test_paths(path: Path, expected: str) -> None:
    assert path.as_posix() == f"D/{expected}"


def test_frame_keys() -> None:
    assert [layout.frame_key(SHARED, camera) for camera in ("1", "simstation0")] == ["azure", "simstation"]
    assert layout.frame_key(KNEE, "5") == "color_5"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("001_PKA", find_take("001_PKA")),
        ("001_PKA/", find_take("001_PKA")),
        ("001_PKA_MMOR", find_take("001_PKA")),
        ("003_4DOR/", find_take("003_4DOR")),
        (f"{FOLDER}/", find_take("003_4DOR")),
        ("export_holistic_take10_processed", find_take("010_4DOR")),
    ],
)
def test_a_take_is_found_by_its_names_and_its_folder(name: str, expected: Take) -> None:
    assert find_take(name) == expected


@pytest.mark.parametrize("take", [SHARED, KNEE])
def test_a_label_mask_tells_its_picture(take: Take) -> None:
    for camera in layout.SEGMENTATION_CAMERAS[take.dataset]:
        for interpolated in (False, True):
            mask = layout.label_mask(ROOT, take, camera, "000045", interpolated)
            assert layout.labelled_view(mask) == layout.segmentation_view(ROOT, take, camera, "000045")


def test_advice_knows_the_archives_and_what_is_made() -> None:
    take = find_take("001_PKA")
    made = [path_of(Path(), take, "") for path_of in (layout.audio_clip, layout.audio_embedding, layout.transcript)] + [
        layout.small_mask(Path(), take, "", 0)
    ]
    assert {path.parts[0] for path in made} == raw_files.MADE
    assert set(layout.ROOT_NAMES.values()) == raw_files.ARCHIVES
