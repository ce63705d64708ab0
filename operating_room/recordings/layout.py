"""Every path of the two datasets, in one place (data specification, sections 1 and 7.3).

`root` is the folder of one dataset: `MM-OR_data` for takes of MM-OR, `4D-OR_data` for takes of 4D-OR. Nothing here
looks at the disk. `time` is the six-digit time stamp of a timepoint, `frame` a frame-number string of the index file.
"""

from __future__ import annotations

from pathlib import Path

from operating_room.domain.domain import mmor
from operating_room.domain.takes import FOURDOR, MMOR, Take

ROOT_NAMES = {MMOR: "MM-OR_data", FOURDOR: "4D-OR_data"}
INDEX_STEM = "timestamp_to_pcd_and_frames_list"

ROOM_CAMERAS = {MMOR: (1, 2, 3, 4, 5), FOURDOR: (1, 2, 3, 4, 5, 6)}
STATION_CAMERAS = (0, 1, 2, 3)
ROBOT_SCREEN = 1  # the station camera that films the robot's screen
# Cameras with annotated label masks, by the name they have in video and folder names.
SEGMENTATION_CAMERAS = {
    MMOR: ("1", "4", "5", "simstation0", "simstation2", "simstation3"),
    FOURDOR: ("1", "2", "5"),
}
FRAME_KEYS = {
    MMOR: ("azure", "simstation", "trackercam"),
    FOURDOR: ("pcd", *(f"color_{camera}" for camera in ROOM_CAMERAS[FOURDOR])),
}  # the frame numbers in an element of the index
PREDICTION_ORIGIN = "model.json"  # beside stage 1's folder `pan_pred`: which model its pictures are of
_STATION_PREFIX = "simstation"
_INTERPOLATED = "_interpolated"


def is_station(camera: str) -> bool:
    """Whether a segmentation camera is a station camera (`simstation0`), not a room camera (`1`)."""
    return camera.startswith(_STATION_PREFIX)


def camera_number(camera: str) -> int:
    """The number of a segmentation camera: 1 of `1`, 0 of `simstation0`."""
    return int(camera.removeprefix(_STATION_PREFIX))


def frame_key(take: Take, camera: str) -> str:
    """The key of an index element that holds the frame number of a segmentation or room camera."""
    if take.dataset == FOURDOR:
        return f"color_{camera}"
    return "simstation" if is_station(camera) else "azure"


# Inside the folder of a take.


def take_folder(root: Path, take: Take) -> Path:
    """The folder with a take's pictures and annotations; short MM-OR takes share one."""
    return root / take.folder


def index_files(root: Path, take: Take) -> tuple[Path, Path]:
    """The names an index file may have: the take's own is tried first, then the folder's."""
    folder = take_folder(root, take)
    return folder / f"{INDEX_STEM}_{take.name}.json", folder / f"{INDEX_STEM}.json"


def room_view(root: Path, take: Take, camera: int, frame: str) -> Path:
    """The picture of a room camera."""
    return root.joinpath(take.folder, "colorimage", f"{_room_stem(camera, frame)}.jpg")


def station_view(root: Path, take: Take, camera: int, frame: str) -> Path:
    """The picture of a recording-station camera (MM-OR)."""
    return root.joinpath(take.folder, "simstation", f"{_station_stem(camera, frame)}.jpg")


def tracker_view(root: Path, take: Take, frame: str) -> Path:
    """The dark picture of the robot's tracking camera (MM-OR)."""
    return root.joinpath(take.folder, "trackercam", f"{frame}.jpg")


def segmentation_view(root: Path, take: Take, camera: str, frame: str) -> Path:
    """The picture that belongs to the masks of a segmentation camera."""
    view = station_view if is_station(camera) else room_view
    return view(root, take, camera_number(camera), frame)


def relation_label_folders(root: Path, take: Take) -> tuple[Path, Path]:
    """The folders that may hold raw relation labels, the first that exists counts."""
    folder = take_folder(root, take)
    return folder / "relation_labels", folder / f"relation_labels_{take.name}"


def relation_label(folder: Path, frame_id: str) -> Path:
    """The raw relation labels of one timepoint in one of `relation_label_folders`."""
    return folder / f"{frame_id}.json"


def label_mask_folder(root: Path, take: Take, camera: str) -> Path:
    """The folder of annotated label masks of a segmentation camera."""
    name = f"segmentation_export_{camera_number(camera)}"
    return root.joinpath(take.folder, f"simstation_{name}" if is_station(camera) else name)


def label_mask(root: Path, take: Take, camera: str, frame: str, interpolated: bool = False) -> Path:
    """The annotated label mask of a frame, or the automatically interpolated one."""
    suffix = _INTERPOLATED if interpolated else ""
    return label_mask_folder(root, take, camera) / f"{_segmentation_stem(camera, frame)}{suffix}.png"


def labelled_view(mask: Path) -> Path:
    """The picture that belongs to a label mask (`label_mask`), told from its path."""
    folder = _STATION_PREFIX if mask.parent.name.startswith(_STATION_PREFIX) else "colorimage"
    return mask.parents[1].joinpath(folder, f"{mask.stem.removesuffix(_INTERPOLATED)}.jpg")


def panoptic_mask(root: Path, take: Take, camera: str, frame: str, for_validation: bool = False) -> Path:
    """The prepared panoptic picture (written, section 7.2): ids for training, class colours for validation."""
    name = f"panoptic_seg_{camera}_for_val" if for_validation else f"panoptic_seg_{camera}"
    return take_folder(root, take) / name / f"{_segmentation_stem(camera, frame)}.png"


# Beside the folders of the takes.


def take_json(root: Path, take: Take) -> Path:
    """The frame numbers of every second (MM-OR)."""
    return root / "take_jsons" / f"{take.name}.json"


def tracks(root: Path, take: Take) -> Path:
    """The tracked tools of a whole take (MM-OR)."""
    return root / "take_tracks" / f"{take.name}.json"


def screen_summary(root: Path, take: Take, frame: str) -> Path:
    """What the robot's screen shows (MM-OR); `frame` is the station cameras' frame number."""
    return root.joinpath("screen_summaries", take.name, f"{frame}.json")


def recording(root: Path, take: Take) -> Path:
    """The sound of a whole take (MM-OR)."""
    return root / "take_audios" / f"{take.name}.mp3"


def audio_clip(root: Path, take: Take, time: str) -> Path:
    """The sound around a timepoint (written, section 9)."""
    return root.joinpath("take_audio_per_timepoint", take.name, f"{time}.mp3")


def audio_embedding(root: Path, take: Take, time: str) -> Path:
    """The embedding of that sound (written)."""
    return root.joinpath("take_audio_embeddings_per_timepoint", take.name, f"{time}.pt")


def subtitles(root: Path, take: Take) -> Path:
    """The transcript of a whole take (MM-OR)."""
    return root / "take_transcripts" / f"{take.name}.srt"


def transcript(root: Path, take: Take, time: str) -> Path:
    """The last words before a timepoint (written, section 9)."""
    return root.joinpath("take_transcripts_per_timepoint", take.name, f"{time}.json")


def point_cloud(root: Path, take: Take, number: str) -> Path:
    """The coloured point cloud; `number` is the time stamp in MM-OR and the index's `pcd` entry in 4D-OR."""
    if take.dataset == FOURDOR:
        return root.joinpath(take.folder, "pcds_sparse", f"{number}.pcd")
    return root.joinpath("take_point_clouds_sparse", take.name, f"{number}.pcd")


def small_mask(root: Path, take: Take, time: str, number: int, from_annotation: bool = False) -> Path:
    """A 32x32 label mask (written, section 8), made from predictions or from annotated masks."""
    name = f"{time}_{number}_GT{from_annotation}.png"
    return root.joinpath("take_segmasks_per_timepoint", take.name, name)


def next_action(root: Path, take: Take) -> Path:
    """frame_id -> null or [label, seconds] (MM-OR)."""
    return root / "take_timestamp_to_next_action" / f"{take.name}.json"


def robot_phase(root: Path, take: Take) -> Path:
    """frame_id -> phase (MM-OR)."""
    return root / "take_timestamp_to_robot_phase" / f"{take.name}.json"


def sterility_breach(root: Path, take: Take) -> Path:
    """frame_id -> list of [subject, object, predicate] (MM-OR)."""
    return root / "take_timestamp_to_sterility_breach" / f"{take.name}.json"


def folders_beside() -> frozenset[str]:
    """The names of the folders beside those of the takes, which hold no take whatever they look like."""
    take = mmor().collection(MMOR).take("")
    of_takes = (take_json, tracks, recording, subtitles, next_action, robot_phase, sterility_breach)
    of_seconds = (screen_summary, audio_clip, audio_embedding, transcript, point_cloud)
    paths = [path_of(Path(), take) for path_of in of_takes] + [path_of(Path(), take, "") for path_of in of_seconds]
    return frozenset(path.parts[0] for path in [*paths, small_mask(Path(), take, "", 0)])


def _room_stem(camera: int, frame: str) -> str:
    return f"camera{camera:02d}_colorimage-{frame}"


def _station_stem(camera: int, frame: str) -> str:
    return f"camera{camera:02d}_{frame}"


def _segmentation_stem(camera: str, frame: str) -> str:
    stem = _station_stem if is_station(camera) else _room_stem
    return stem(camera_number(camera), frame)
