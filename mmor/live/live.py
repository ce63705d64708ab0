"""Scene graphs while a surgery goes on: each second through both stages as soon as it is there (docs/live.md)."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from jaxtyping import UInt8

from mmor.live.parts import Part, Tell, tell_user, told
from mmor.live.replay import Replay
from mmor.live.source import Follow, Moment
from operating_room.domain.stored import require_same
from operating_room.errors import UserError
from operating_room.files.readers import read_picture, read_subtitles
from operating_room.graphs.memory import Memory, truncate
from operating_room.graphs.scene_graph import Triplet, parse
from operating_room.recordings.masks import reduce_labels
from operating_room.recordings.timepoint import Timepoint
from operating_room.recordings.transcripts import spoken_text
from panoptic_segmentation.inference.live import LiveSegmenter
from scene_graph_generation.inference.generator import SceneGraphGenerator
from scene_graph_generation.preprocess.embeddings import Encoder
from scene_graph_generation.preprocess.masks import mask_cameras

Source = Follow | Replay

_CALM = 10  # seconds in a row without a skipped one after which falling behind is told anew
_FAR_BEHIND_S = 3.0  # with a queue


@dataclass(frozen=True)
class LiveSecond:
    """The answer to one second of a take."""

    take: str
    frame_id: str
    time: float  # s since the take began
    graph: tuple[Triplet, ...]
    text: str  # as generated
    modalities: tuple[str, ...]  # that the model was shown
    missing: tuple[str, ...]  # what it reads, but was not there: `room_views/4`, `tracker`
    latency_s: Mapping[str, float]  # wait, read, masks, evidence, model, total
    behind_s: float  # how much newer the newest second was when this one was begun
    skipped: int  # seconds before it that are not answered
    problem: str | None = None  # why there is no answer

    def to_json(self) -> str:
        """One line; relations as in prediction files: subject, predicate, object."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        fields["graph"] = [[s, p, o] for s, o, p in self.graph]
        fields["latency_s"] = {name: round(seconds, 4) for name, seconds in self.latency_s.items()}
        return json.dumps({name: value for name, value in fields.items() if name != "problem" or value})


def live(
    source: Source,
    segmenter: LiveSegmenter | None,
    generator: SceneGraphGenerator,
    encoder: Encoder | None = None,
    tell: Tell = tell_user,
) -> Generator[LiveSecond]:
    """The scene graph of each second that a source hands out, with the memory of those before.

    Memory does not grow with time: what is kept is one frame of each camera and what a prompt can tell of the past.

    Args:
        source: `Follow` or `Replay`.
        segmenter: makes the masks; None for a model that reads none.
        generator: the scene-graph model.
        encoder: of sound, as the model was trained with; None leaves sound out.
        tell: gets one line for whatever goes wrong.

    Raises:
        UserError: the model is of another domain, the take vanishes, or the device has too little memory. A second that
            cannot be answered has its `problem` instead.
    """
    require_same("the model", generator.domain, source.domain)
    memory = Memory.of(source.domain.language)
    pace = _Pace(source.queue, tell)
    with TemporaryDirectory(prefix="mmor-live-") as folder:
        room = _Room(source, segmenter, generator, encoder, Path(folder), tell)
        for moment in source:
            pace.note(moment)
            answer = room.answer(moment, truncate(memory.text()))
            if answer.problem is None:
                memory.add(answer.graph, int(moment.look.timepoint.time))
                memory.trim()
            yield answer


class _Room:
    """What turns a moment into an answer."""

    def __init__(
        self,
        source: Source,
        segmenter: LiveSegmenter | None,
        generator: SceneGraphGenerator,
        encoder: Encoder | None,
        folder: Path,
        tell: Tell,
    ) -> None:
        self._source, self._segmenter, self._generator, self._encoder = source, segmenter, generator, encoder
        self._folder, self._tell = folder, tell
        self._told: set[str] = set()
        domain, collection = source.domain, source.parts.recorded.collection
        self._groups = [[c.name for c in group] for group in mask_cameras(collection, domain.labels.masks)]

    def answer(self, moment: Moment, past: str) -> LiveSecond:
        """The answer to a moment whose prompt tells this past."""
        laps = _Laps(self._source.clock, moment.since)
        laps.end("wait")
        look, absent = moment.look, dict(moment.look.absent)
        pictures, timepoint = self._pictures(look.timepoint, absent)
        laps.end("read")
        timepoint = self._with_masks(timepoint, pictures)
        laps.end("masks")
        timepoint = self._with_words(self._with_sound(timepoint, moment, absent))
        text, problem = "", None
        try:
            example = self._generator.read(timepoint, past)
        except UserError as error:
            problem = str(error)
            self._tell_once("problem", f"no answer: {problem}")
        laps.end("evidence")
        if problem is None:
            (text,) = self._generator.answer([example])
        laps.end("model")
        present = [part for part in look.present if part not in absent]
        self._source.parts.presence.note(present, absent, timepoint.frame_id)
        for path in self._folder.iterdir():
            path.unlink()
        return LiveSecond(
            take=timepoint.take.sample_name,
            frame_id=timepoint.frame_id,
            time=moment.at_s,
            graph=tuple(parse(text)),
            text=text,
            modalities=tuple(name for name in (*timepoint.files, *timepoint.records) if timepoint.has(name)),
            missing=tuple(map(told, absent)),
            latency_s=laps.seconds | {"total": sum(laps.seconds.values())},
            behind_s=moment.behind_s,
            skipped=moment.skipped,
            problem=problem,
        )

    def _pictures(
        self, timepoint: Timepoint, absent: dict[Part, Path | None]
    ) -> tuple[dict[str, UInt8[np.ndarray, "_ _ 3"]], Timepoint]:
        """The pictures of the cameras whose masks the model is shown; one that has gone meanwhile is absent."""
        views = timepoint.views
        shown = next(([c for c in group if c in views] for group in self._groups if any(c in views for c in group)), [])
        pictures = {}
        for camera in shown if self._segmenter is not None else ():
            try:
                pictures[camera] = read_picture(views[camera])
            except UserError:
                modality = timepoint.collection.camera[camera].modality
                absent[modality, camera] = views[camera]
                others = {name: path for name, path in timepoint.several(modality).items() if name != camera}
                timepoint = replace(timepoint, files={**timepoint.files, modality: others})
        return pictures, timepoint

    def _with_masks(self, timepoint: Timepoint, pictures: Mapping[str, UInt8[np.ndarray, "_ _ 3"]]) -> Timepoint:
        from PIL import Image

        if self._segmenter is None or not pictures:
            return timepoint
        paths = {}
        numbers = {camera: number for group in self._groups for number, camera in enumerate(group)}
        for camera, labels in self._segmenter.step(pictures).items():
            number = str(numbers[camera])
            path = self._folder / f"{timepoint.frame_id}_{number}.png"
            if self._written(path, Image.fromarray(reduce_labels(labels)).save):
                paths[number] = path
        return replace(timepoint, files={**timepoint.files, "masks": paths})

    def _with_sound(self, timepoint: Timepoint, moment: Moment, absent: dict[Part, Path | None]) -> Timepoint:
        """With the vector of the sound up to now."""
        files = {name: of_it for name, of_it in timepoint.files.items() if name != "audio"}
        if self._encoder is None or "audio" not in self._source.parts.inputs:
            return replace(timepoint, files=files)
        try:
            heard = self._source.sound(moment)
        except UserError as error:
            heard = None
            self._tell_once("sound", f"{timepoint.frame_id}: goes on without sound: {error}")
        if heard is None:
            absent.setdefault(("audio", ""), None)
            return replace(timepoint, files=files)
        path, buffer = self._folder / f"{timepoint.frame_id}.pt", io.BytesIO()
        torch.save(self._encoder([heard[0]], heard[1])[0].clone(), buffer)
        if not self._written(path, lambda to: to.write_bytes(buffer.getvalue())):
            return replace(timepoint, files=files)
        return replace(timepoint, files={**files, "audio_embedding": {"": path}})

    def _with_words(self, timepoint: Timepoint) -> Timepoint:
        """With the last words, where only the subtitles so far are there."""
        subtitles = self._source.parts.subtitles
        if subtitles is None or timepoint.has("transcript"):
            return timepoint
        try:
            text = spoken_text(read_subtitles(subtitles), self._source.parts.recorded.at(timepoint.time))
        except UserError as error:  # also of a file in which nothing stands yet
            self._tell_once("words", f"{timepoint.frame_id}: goes on without words: {error}")
            return timepoint
        path = self._folder / f"{timepoint.frame_id}.json"
        if not self._written(path, lambda to: to.write_text(json.dumps({"text": text}))):
            return timepoint
        return replace(timepoint, files={**timepoint.files, "transcript": {"": path}})

    def _written(self, path: Path, write: Callable[[Path], object]) -> bool:
        """Whether a file of this second could be written; where not, it goes on without, and that is told."""
        try:
            write(path)
        except OSError as error:
            path.unlink(missing_ok=True)
            told = f"{path.parent}: {error.strerror or error}; goes on without what cannot be written there"
            self._tell_once("disk", f"{told} (TMPDIR names another folder)")
            return False
        return True

    def _tell_once(self, what: str, line: str) -> None:
        if what not in self._told:
            self._told.add(what)
            self._tell(line)


class _Laps:
    """How long each part of an answer took."""

    def __init__(self, clock: Callable[[], float], start: float) -> None:
        self._clock, self._last = clock, start
        self.seconds: dict[str, float] = {}

    def end(self, part: str) -> None:
        """A part is done."""
        now = self._clock()
        self.seconds[part], self._last = now - self._last, now


class _Pace:
    """Says so when answers fall behind, once until they have kept up for a while."""

    def __init__(self, queue: bool, tell: Tell) -> None:
        self._queue, self._tell, self._calm = queue, tell, _CALM

    def note(self, moment: Moment) -> None:
        """The moment that is answered next."""
        frame = moment.look.timepoint.frame_id
        slow = moment.behind_s > _FAR_BEHIND_S if self._queue else moment.skipped > 0
        if slow and self._calm >= _CALM and self._queue:
            self._tell(f"{frame}: answers are {moment.behind_s:g} s behind the take; all of them are queued")
        elif slow and self._calm >= _CALM:
            self._tell(f"{frame}: answers are too slow for the take, {moment.skipped} s skipped; --queue answers all")
        self._calm = 0 if slow else self._calm + 1
