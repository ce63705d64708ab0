"""How the cameras of a take project into its pictures; of takes with camera files."""

from __future__ import annotations

from operating_room.errors import UserError
from operating_room.files.camera_files import Calibration, read_camera
from operating_room.files.picture_files import picture_size
from operating_room.recordings.take import RecordedTake


def lenses(recorded: RecordedTake) -> dict[str, Calibration]:
    """The colour lens of each camera with a camera file and pictures.

    Raises:
        UserError: see `lens`.
    """
    found = {camera: lens(recorded, camera) for camera in recorded.collection.camera}
    return {camera: of_camera for camera, of_camera in found.items() if of_camera is not None}


def lens(recorded: RecordedTake, camera: str) -> Calibration | None:
    """The colour lens of a camera, for pictures of the size that the take has; None without a camera file or pictures.

    Raises:
        UserError: the index or the camera file is damaged, or the pictures do not have its proportions.
    """
    if (path := recorded.camera_file(camera)) is None:
        return None
    timepoints = (recorded.timepoint(element.frame_id) for element in recorded.index)
    picture = next((timepoint.views[camera] for timepoint in timepoints if camera in timepoint.views), None)
    if picture is None:
        return None
    size = picture_size(picture)
    found = read_camera(path).color
    try:
        return found.scaled(*size)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
