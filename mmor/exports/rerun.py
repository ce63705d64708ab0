"""A take as an `.rrd` file of rerun: what MCAP has, and masks with the names of classes, and graphs.

camera/<name>          EncodedImage as stored; with a camera file Pinhole and Transform3D
camera/<name>/masks    SegmentationImage of raw labels; their names and colours once, at `/`
cloud                  Points3D in m
graph                  GraphNodes and GraphEdges; rerun writes nothing on edges, so that a predicate is a small node
text/graph, text/speech
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmor.exports.frames import (
    BACKGROUND,
    background_name,
    class_colors,
    class_names,
    in_size,
    picture_bytes,
    require_room,
)
from mmor.lenses import lenses
from operating_room.errors import UserError
from operating_room.files.atomic import atomic_path
from operating_room.files.picture_files import picture_size
from operating_room.files.png import is_png
from operating_room.files.readers import read_label_mask, read_point_cloud
from operating_room.recordings.raw_labels import read_labels
from operating_room.recordings.take import RecordedTake
from operating_room.recordings.timepoint import Timepoint
from operating_room.recordings.transcripts import words_of
from operating_room.work.progress import track

if TYPE_CHECKING:
    import rerun

_ENTITY, _PREDICATE = (59, 111, 182), (120, 120, 120)  # colours of nodes


def require_rerun() -> None:
    """Find out whether the package of the extra is there.

    Raises:
        UserError: it is not.
    """
    try:
        import rerun
    except ImportError as error:
        raise UserError('.rrd files need the package rerun-sdk (280 MB): pip install "mmor[rerun]"') from error
    del rerun


def export_rerun(recorded: RecordedTake, out: Path) -> Path:
    """Write a take to `out/<take>.rrd`, and return it.

    Raises:
        UserError: the extra is not installed, the index or a file of the take is damaged, or the disk has no room;
            nothing is left then.
    """
    require_rerun()
    import rerun as rr

    take, labels = recorded.take.name, recorded.domain.labels
    target = out / f"{take}.rrd"
    require_room(target, (path for timepoint in recorded.timepoints for path in timepoint.views.values()))
    of_take, words = lenses(recorded), words_of(recorded)
    with atomic_path(target) as temporary:
        stream = rr.RecordingStream("mmor", recording_id=recorded.take.sample_name)
        stream.save(temporary)
        try:
            names, colors = {BACKGROUND: background_name(labels), **class_names(labels)}, class_colors(labels)
            stream.log(
                "/", rr.AnnotationContext([(label, names[label], colors[label]) for label in names]), static=True
            )
            for camera, lens in of_take.items():
                pinhole = rr.Pinhole(image_from_camera=lens.matrix, resolution=list(lens.size))
                place = rr.Transform3D(translation=lens.pose[:3, 3], mat3x3=lens.pose[:3, :3])
                stream.log(f"camera/{camera}", pinhole, place, static=True)
            for timepoint in track(recorded.timepoints, f"exporting {take}"):
                stream.set_time("frame", sequence=int(timepoint.frame_id))
                stream.set_time("take", duration=recorded.at(timepoint.time))
                _log(stream, timepoint, words(timepoint))
        finally:
            stream.flush()
            stream.disconnect()
    return target


def _log(stream: rerun.RecordingStream, timepoint: Timepoint, words: str | None) -> None:
    """What a timepoint has; what it does not have is no error."""
    import rerun as rr

    for camera in timepoint.collection.camera:
        if (path := timepoint.views.get(camera)) is not None:
            data = picture_bytes(path)
            form = "image/png" if is_png(data) else "image/jpeg"
            stream.log(f"camera/{camera}", rr.EncodedImage(contents=data, media_type=form))
        if (mask := timepoint.several("label_masks").get(camera)) is not None:
            labels = read_label_mask(mask)
            labels = labels if path is None else in_size(labels, picture_size(path))  # whose pixels it is laid over
            stream.log(f"camera/{camera}/masks", rr.SegmentationImage(labels, opacity=0.5))
    if (path := timepoint.one("point_cloud")) is not None:
        cloud = read_point_cloud(path)
        stream.log("cloud", rr.Points3D(cloud[:, :3], colors=np.rint(cloud[:, 3:] * 255).astype(np.uint8)))
    if (path := timepoint.one("annotation")) is not None:
        triplets = read_labels(path, timepoint.take, timepoint.domain).triplets
        entities = sorted({name for triplet in triplets for name in (triplet.subject, triplet.object)})
        relations = [f"{t.subject} {t.predicate} {t.object}" for t in triplets]
        nodes = rr.GraphNodes(
            [*entities, *relations],
            labels=[*entities, *(triplet.predicate for triplet in triplets)],
            colors=[*([_ENTITY] * len(entities)), *([_PREDICATE] * len(relations))],
        )
        edges = [edge for t, name in zip(triplets, relations) for edge in ((t.subject, name), (name, t.object))]
        stream.log("graph", nodes, rr.GraphEdges(edges, graph_type="directed"))
        told = "\n".join(f"- {t.subject} **{t.predicate}** {t.object}" for t in triplets)
        stream.log("text/graph", rr.TextDocument(told, media_type="text/markdown"))
    if words is not None:
        stream.log("text/speech", rr.TextLog(words, level="INFO"))
