"""A take as one MCAP file with Foxglove's schemas, for Foxglove, rerun and FiftyOne.

Messages are Protobuf, since rerun reads Foxglove's messages in that encoding only. Pictures pass through as they are
stored. Times are s since the take began, from 1970 on.

    /camera/<name>               foxglove.CompressedImage
    /camera/<name>/calibration   foxglove.CameraCalibration, where there is a camera file
    /masks/<name>                foxglove.CompressedImage, annotated masks in class colours (PNG)
    /cloud                       foxglove.PointCloud in m, frame `world`
    /tf                          foxglove.FrameTransform, world -> <name>
    /graph, /speech              foxglove.Log: triplets of the labels, what was said
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmor.exports.frames import color_table, picture_bytes, require_room
from mmor.lenses import lenses
from operating_room.errors import UserError
from operating_room.files.atomic import atomic_path
from operating_room.files.camera_files import Calibration, quaternion
from operating_room.files.png import is_png, png_bytes
from operating_room.files.readers import read_label_mask, read_point_cloud
from operating_room.recordings.raw_labels import read_labels
from operating_room.recordings.take import RecordedTake
from operating_room.recordings.timepoint import Timepoint
from operating_room.recordings.transcripts import words_of
from operating_room.work.progress import track

if TYPE_CHECKING:
    from google.protobuf.message import Message

WORLD = "world"
_LATEST = 1.8e10  # s; times are counted in ns with 64 bits
_CHUNK = 4 << 20  # bytes that are kept in memory before they are written

Said = tuple[str, "Message"]  # topic and message


def require_mcap() -> None:
    """Find out whether the packages of the extra are there.

    Raises:
        UserError: one of them is not.
    """
    try:
        import foxglove_schemas_protobuf
        import mcap_protobuf
    except ImportError as error:
        raise UserError(f'MCAP needs the package {error.name}: pip install "mmor[export]"') from error
    del foxglove_schemas_protobuf, mcap_protobuf


def export_mcap(recorded: RecordedTake, out: Path) -> Path:
    """Write a take to `out/<take>.mcap`, and return it.

    Raises:
        UserError: the extra is not installed, the index or a file of the take is damaged, or the disk has no room;
            nothing is left then.
    """
    require_mcap()
    from mcap_protobuf.writer import Writer

    target = out / f"{recorded.take.name}.mcap"
    require_room(target, (path for timepoint in recorded.timepoints for path in timepoint.views.values()))
    with atomic_path(target) as temporary, temporary.open("wb") as file, Writer(file, chunk_size=_CHUNK) as writer:
        start = nanoseconds(recorded, recorded.timepoints[0])
        for topic, message in _cameras(lenses(recorded), start):
            writer.write_message(topic, message, start, start)
        words = words_of(recorded)
        for timepoint in track(recorded.timepoints, f"exporting {recorded.take.name}"):
            now = nanoseconds(recorded, timepoint)
            for topic, message in _messages(recorded, timepoint, words(timepoint), now):
                writer.write_message(topic, message, now, now)
    return target


def nanoseconds(recorded: RecordedTake, timepoint: Timepoint) -> int:
    """When a timepoint is, since the take began.

    Raises:
        UserError: no MCAP file can tell so late a time; a take.yaml may have a period of years.
    """
    seconds = recorded.at(timepoint.time)
    if seconds > _LATEST:
        raise UserError(
            f"{recorded.index_file}: its timepoint {timepoint.frame_id} is {seconds:g} s late; mend its time"
        )
    return round(seconds * 1e9)


def _cameras(of_take: dict[str, Calibration], now: int) -> Iterator[Said]:
    """What never changes: once, at the start."""
    from foxglove_schemas_protobuf.CameraCalibration_pb2 import CameraCalibration
    from foxglove_schemas_protobuf.FrameTransform_pb2 import FrameTransform

    for camera, lens in of_take.items():
        message: Any = CameraCalibration(
            frame_id=camera,
            width=lens.size[0],
            height=lens.size[1],
            distortion_model="rational_polynomial",
            D=lens.distortion.tolist(),
            K=lens.matrix.ravel().tolist(),
            R=np.eye(3).ravel().tolist(),
            P=np.column_stack([lens.matrix, np.zeros(3)]).ravel().tolist(),
        )
        message.timestamp.FromNanoseconds(now)
        yield f"/camera/{camera}/calibration", message
        move: Any = FrameTransform(parent_frame_id=WORLD, child_frame_id=camera)
        move.timestamp.FromNanoseconds(now)
        move.translation.x, move.translation.y, move.translation.z = lens.pose[:3, 3].tolist()
        turned = quaternion(lens.pose[:3, :3]).tolist()
        move.rotation.x, move.rotation.y, move.rotation.z, move.rotation.w = turned
        yield "/tf", move


def _messages(recorded: RecordedTake, timepoint: Timepoint, words: str | None, now: int) -> Iterator[Said]:
    """What a timepoint has; what it does not have is no error."""
    for camera, path in timepoint.views.items():
        data = picture_bytes(path)
        yield f"/camera/{camera}", _image(camera, data, "png" if is_png(data) else "jpeg", now)
    colors = color_table(recorded.domain.labels)
    for camera, path in timepoint.several("label_masks").items():
        yield f"/masks/{camera}", _image(camera, png_bytes(colors[read_label_mask(path)]), "png", now)
    if (path := timepoint.one("point_cloud")) is not None:
        yield "/cloud", _cloud(path, now)
    if (path := timepoint.one("annotation")) is not None:
        triplets = read_labels(path, timepoint.take, timepoint.domain).triplets
        yield "/graph", _log("graph", "; ".join(f"{t.subject},{t.object},{t.predicate}" for t in triplets), now)
    if words:
        yield "/speech", _log("speech", words, now)


def _image(camera: str, data: bytes, form: str, now: int) -> Message:
    from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage

    message: Any = CompressedImage(frame_id=camera, data=data, format=form)
    message.timestamp.FromNanoseconds(now)
    return message


def _cloud(path: Path, now: int) -> Message:
    from foxglove_schemas_protobuf.PackedElementField_pb2 import PackedElementField
    from foxglove_schemas_protobuf.PointCloud_pb2 import PointCloud

    cloud = read_point_cloud(path)
    rows = np.zeros(len(cloud), [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("color", "u1", 4)])
    rows["x"], rows["y"], rows["z"] = cloud[:, :3].T
    rows["color"][:, :3] = np.rint(cloud[:, 3:] * 255)
    rows["color"][:, 3] = 255
    kinds = [("x", 0, "FLOAT32"), ("y", 4, "FLOAT32"), ("z", 8, "FLOAT32")]
    kinds += [(name, 12 + place, "UINT8") for place, name in enumerate(("red", "green", "blue", "alpha"))]
    fields = [
        PackedElementField(name=name, offset=offset, type=PackedElementField.NumericType.Value(kind))
        for name, offset, kind in kinds
    ]
    message: Any = PointCloud(frame_id=WORLD, point_stride=rows.itemsize, fields=fields, data=rows.tobytes())
    message.timestamp.FromNanoseconds(now)
    message.pose.orientation.w = 1.0
    return message


def _log(name: str, text: str, now: int) -> Message:
    from foxglove_schemas_protobuf.Log_pb2 import Log

    message: Any = Log(level=Log.Level.Value("INFO"), name=name, message=text)
    message.timestamp.FromNanoseconds(now)
    return message
