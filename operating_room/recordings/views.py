"""Which pictures of a timepoint a model is shown, and in which place (data specification, section 4.1)."""

from __future__ import annotations

from pathlib import Path

from operating_room.domain.takes import FOURDOR
from operating_room.recordings.dataset import Timepoint
from operating_room.recordings.layout import ROBOT_SCREEN

# Camera numbers in slot order; the picture in the first slot provides the visual tokens that survive the pooler.
FOURDOR_ROOM = (2, 1, 3, 5)
MMOR_ROOM = (1, 4, 5, 2, 3)
STATION_TRAINING = (2, 0, 1, 3)
STATION_EVALUATION = (2, 0, 3)  # stand in for missing room cameras


def training_pictures(timepoint: Timepoint) -> list[Path]:
    """The pictures of a training sample that exist: room views; in MM-OR also station views and the tracking camera."""
    if timepoint.take.dataset == FOURDOR:
        slots = [timepoint.room_views.get(camera) for camera in FOURDOR_ROOM]
    else:
        slots = [timepoint.room_views.get(camera) for camera in MMOR_ROOM]
        slots += [timepoint.station_views.get(camera) for camera in STATION_TRAINING]
        slots.append(timepoint.tracker_view)
    return [picture for picture in slots if picture is not None]


def evaluation_pictures(timepoint: Timepoint) -> list[Path | None]:
    """The picture slots at evaluation, at most 7; None stands for a black picture.

    4D-OR: four room views. MM-OR: five room views, or three station views if no room camera recorded, or five black
    pictures if neither did; then robot screen and tracking camera if they exist. A camera that is missing among others
    leaves its own slot black.
    """
    if timepoint.take.dataset == FOURDOR:
        return [timepoint.room_views.get(camera) for camera in FOURDOR_ROOM]
    if timepoint.room_views or not timepoint.station_views:
        slots = [timepoint.room_views.get(camera) for camera in MMOR_ROOM]
    else:
        slots = [timepoint.station_views.get(camera) for camera in STATION_EVALUATION]
    extra = (timepoint.station_views.get(ROBOT_SCREEN), timepoint.tracker_view)
    return slots + [picture for picture in extra if picture is not None]
