"""The modalities, one row each: whoever asks for files, columns, checks or names in training files asks this table.

To add one: its row here, its check and reader, its pattern in the domain, and the encoder that a model needs for it.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from operating_room.domain.collection import Collection, Take
from operating_room.domain.domain import Domain
from operating_room.recordings import file_checks
from operating_room.recordings.index import read_tracks
from operating_room.recordings.questions import read_robot_log
from operating_room.recordings.raw_labels import read_labels

Check = Callable[[Path, Take, Domain], object]

UNPACK = "copy it from the dataset archive"
_SOME_TAKES = f"normal for some takes, else {UNPACK}"
_OWN = "normal if it was not recorded, else copy it there"  # of recordings of one's own there is no archive


@dataclass(frozen=True)
class OfTake:
    """A modality with one file for the whole take, in which timepoints find their element by integer time stamp."""

    file: str  # its name in the domain
    read: Callable[[Path], Sequence[Any]]  # an element that is None is a timepoint without
    check: Check


@dataclass(frozen=True)
class Modality:
    """What is known of a modality, from the files to the model."""

    name: str  # in domain files, `Timepoint`, and `mmor data show`
    column: str  # of `mmor data check`
    check: Check | None = None  # of one of its files; raises UserError
    of_take: OfTake | None = None
    several: bool = False  # files for each timepoint, by camera or by number; these come first in fingerprints
    hint: str = UNPACK  # what to do where files are missing that no step of ours makes
    optional: bool = False  # whether it is normal that most takes have none: then nothing is reported as missing
    training: str | None = None  # in the names of training files, and where modalities are chosen
    published: bool = True  # whether training files have it unless it is left out
    record: str | None = None  # its key in the records of training files
    mixed: int | None = None  # its turn when modalities of similar samples are mixed in (section 4.4)
    input: str | None = None  # what a model knows it as (`MM2SGConfig.modalities`)
    kind: str | None = None  # what evaluations count it as
    made_by: str | None = None  # the step of `mmor scene-graph preprocess` that writes it, with what it must be told

    def advice(self, data: Path, collection: Collection) -> str:
        """What to do where files are missing in the folder of the datasets: a command as it can be copied."""
        if self.made_by is None:
            return _OWN if collection.layout == "house" else self.hint
        return f"`mmor scene-graph preprocess {self.made_by} --data {shlex.quote(str(data))}` makes it"


TABLE = (
    Modality(
        *("room_views", "room", file_checks.check_view),
        several=True,
        hint=_SOME_TAKES,
        training="AZURE",
        record="image",
        input="views",
        kind="room views",
    ),
    Modality(
        *("station_views", "station", file_checks.check_view),
        several=True,
        training="SIMSTATION",
        record="image",
        input="views",
        kind="station views",  # three stand in where no room camera recorded; else only that of the robot's screen
    ),
    Modality(
        *("tracker_view", "trackcam", file_checks.check_view),
        training="TRACKERCAM",
        record="image",
        input="views",
        kind="tracker view",
    ),
    Modality(
        *("ego_views", "ego", file_checks.check_view),
        several=True,
        hint=_SOME_TAKES,
        training="EGO",
        published=False,
        record="image",
        input="views",
        kind="ego views",
    ),
    Modality(
        *("point_cloud", "cloud", file_checks.check_cloud), training="PC", record="pc", input="cloud", kind="cloud"
    ),
    Modality("audio", "audio", file_checks.check_sound, training="AUDIO", record="raw_audio", made_by="audio"),
    Modality(
        *("audio_embedding", "embedded", file_checks.check_vector),
        training="AUDIO",
        record="audio",
        mixed=1,
        input="audio",
        kind="audio",
        made_by="audio-embeddings",
    ),
    Modality(
        *("transcript", "words", file_checks.check_speech),
        training="SPEECH",
        mixed=4,
        input="speech",
        kind="speech",
        made_by="transcripts",
    ),
    Modality(
        *("robot_screen", "screen", file_checks.check_screen_summary),
        training="ROBOTMETA",
        mixed=2,
        input="robot",
        kind="robot",
    ),
    Modality(
        *("tracker", "tracker"),
        of_take=OfTake("tracks", read_tracks, file_checks.check_tracks),
        hint=_SOME_TAKES,
        training="TRACKINGMETA",
        mixed=3,
        input="tracker",
        kind="tracker",
    ),
    Modality(
        *("robot_log", "robot log"),
        of_take=OfTake("robot_log", read_robot_log, file_checks.check_robot_log),
        optional=True,
        training="ROBOTLOG",
        published=False,
        input="robot_log",
    ),
    Modality(
        *("gaze", "gaze", file_checks.check_gaze),
        hint=_SOME_TAKES,
        training="GAZE",
        published=False,
        record="gaze",
        input="gaze",
        kind="gaze",
    ),
    Modality(
        *("hands", "hands", file_checks.check_hands),
        hint=_SOME_TAKES,
        training="HANDS",
        published=False,
        record="hands",
        input="hands",
        kind="hands",
    ),
    Modality(
        *("masks", "masks", file_checks.check_small_mask),
        several=True,
        training="PREDSEGMASKS",
        record="segmasks",
        input="masks",
        kind="masks",
        made_by="masks --predictions OUT/inference/pan_pred",
    ),
    Modality("annotation", "relations", read_labels),
    Modality("label_masks", "labels", file_checks.check_label_mask, several=True, optional=True),
)

BY_NAME = {row.name: row for row in TABLE}


def modalities_of(domain: Domain, collection: Collection) -> list[Modality]:
    """The rows of what the takes of a dataset can have."""
    return [row for row in TABLE if files_per_timepoint(row, domain, collection)]


def files_per_timepoint(row: Modality, domain: Domain, collection: Collection) -> int:
    """How many files (or elements of a file of the take) a timepoint has of a modality at most."""
    if row.name == "annotation":
        return 1
    if row.of_take is not None:
        return int(row.of_take.file in collection.take_files)
    if row.name == "label_masks":
        return len(collection.labelled_cameras)
    if row.name in collection.files:
        return domain.labels.masks if row.name == "masks" else 1
    return len(collection.cameras_of(row.name))
