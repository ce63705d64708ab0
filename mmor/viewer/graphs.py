"""Predicted scene graphs as the page compares them: results, predictions, and what `mmor live` writes."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from operating_room.domain.domain import Domain
from operating_room.domain.numbers import file_number
from operating_room.errors import UserError
from operating_room.files.readers import read_json, require
from operating_room.graphs.graph_files import is_of_live, load_predictions, refuse_live
from operating_room.graphs.scene_graph import Triplet, are_relations, as_triplets
from operating_room.recordings.index import MOST_FRAMES

LAST_S = 60  # s of a live take that the page shows
_BEGINNING = 1000  # bytes by which runs are told apart: a line or so, with its times
_EVALUATE = "evaluate again with `mmor scene-graph evaluate`"


@dataclass(frozen=True)
class Said:
    """What a file says of timepoints."""

    graphs: Mapping[str, Sequence[Triplet]]  # sample id -> triplets as generated
    texts: Mapping[str, str]  # sample id -> text as generated, where it is known


def read_graphs(path: Path, domain: Domain) -> Said:
    """A results file of `mmor scene-graph evaluate`, or a predictions file of `infer` with the texts beside it.

    Raises:
        UserError: it is missing, damaged, of another form, another task or another domain.
    """
    require(path, "`mmor scene-graph evaluate` or `mmor scene-graph infer`")
    refuse_live(path)
    content = read_json(path)
    if isinstance(content, dict) and "task" in content:
        return _of_results(path, content, domain)
    graphs = load_predictions(path)
    texts = path.with_name(f"{path.name.removesuffix('.json')}.jsonl")
    return Said(graphs, _texts(texts) if texts.is_file() else {})


def _of_results(path: Path, results: Mapping[str, Any], domain: Domain) -> Said:
    if results["task"] != "scene_graph":
        raise UserError(f"{path}: holds results of {str(results['task'])[:40]}; give those of scene graphs")
    about = results.get("about")
    name = about.get("domain", domain.name) if isinstance(about, dict) else domain.name
    if name != domain.name:
        raise UserError(
            f"{path}: is of domain {str(name)[:40]}, the takes are of {domain.name}; give results of theirs"
        )
    samples = results.get("samples")
    if not isinstance(samples, dict):
        raise UserError(f"{path}: holds scores without the graphs of samples, as an older version wrote; {_EVALUATE}")
    graphs, texts = {}, {}
    for key, sample in samples.items():
        predicted = sample.get("predicted") if isinstance(sample, dict) else None
        if not are_relations(predicted):
            raise UserError(f"{path}: sample {key[:60]!r} has no list of predicted relations; {_EVALUATE}")
        graphs[key] = as_triplets(predicted)
        if isinstance(text := sample.get("text"), str):
            texts[key] = text
    return Said(graphs, texts)


def _texts(path: Path) -> dict[str, str]:
    """Sample id -> text as generated, of the file beside predictions; a killed run leaves a line unfinished."""
    found = {}
    for line in path.read_bytes().splitlines()[1:]:  # the first says whose they are
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            continue
        match answer:
            case [str(key), str(), str(text)]:
                found[key] = text
    return found


@dataclass(frozen=True)
class LiveLine:
    """A line of `mmor live`: a second and what was said of it."""

    take: str
    frame_id: str
    at_s: float
    graph: tuple[Triplet, ...]
    text: str
    missing: tuple[str, ...] = ()
    latency_s: float | None = None
    behind_s: float = 0.0
    problem: str | None = None


@dataclass
class Live:
    """The last minute of a file that `mmor live` is writing, as far as it has been looked at."""

    path: Path
    lines: deque[LiveLine] = field(default_factory=deque)
    damaged: int = 0  # lines that could not be read
    _offset: int = 0
    _beginning: bytes = b""  # of another run it is another one, though that may be longer by now

    def update(self) -> None:
        """Read what has been written since the last look; a file that was begun anew is read from its start.

        Raises:
            UserError: the file is gone or cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, 2)
                file.seek(0)
                if size < self._offset or file.read(len(self._beginning)) != self._beginning:
                    self._offset, self._beginning = 0, b""
                    self.lines.clear()
                file.seek(self._offset)
                whole = file.read(size - self._offset)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror}); start `mmor live` first") from error
        whole = whole[: whole.rfind(b"\n") + 1]  # the last line may be half written
        self._offset += len(whole)
        self._beginning = self._beginning or whole[:_BEGINNING]
        for text in whole.splitlines():
            if (line := _live_line(text)) is None:
                self.damaged += 1
                continue
            if self.lines and (line.take != self.lines[-1].take or line.at_s < self.lines[-1].at_s):
                self.lines.clear()  # another take, or from its start again
            self.lines.append(line)
            while self.lines[0].at_s < line.at_s - LAST_S:
                self.lines.popleft()

    def require(self) -> None:
        """What has been looked at is of `mmor live`, or the file may just begin; damage the page tells.

        Raises:
            UserError: it is another file.
        """
        if not self.lines and self.path.stat().st_size and not is_of_live(self.path):
            told = "holds no lines of `mmor live`; give what its --out names, and results or predictions as --graphs"
            raise UserError(f"{self.path}: {told}")

    @property
    def said(self) -> Said:
        """What is known of the last minute."""
        answered = [line for line in self.lines if line.problem is None]
        return Said(
            {f"{line.take}_{line.frame_id}": line.graph for line in answered},
            {f"{line.take}_{line.frame_id}": line.text for line in answered},
        )


def _live_line(line: bytes) -> LiveLine | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    match record:
        case {"take": str(take), "frame_id": str(frame_id), "time": time, "graph": graph} if (
            (at_s := _number(time)) is not None and _is_frame_id(frame_id) and are_relations(graph)
        ):
            latency = record.get("latency_s")
            missing = record.get("missing")
            return LiveLine(
                take,
                frame_id,
                at_s,
                tuple(Triplet(s, o, p) for s, p, o in graph),
                str(record.get("text", "")),
                tuple(map(str, missing)) if isinstance(missing, list) else (),
                _number(latency.get("total")) if isinstance(latency, dict) else None,
                _number(record.get("behind_s")) or 0.0,
                str(record["problem"]) if record.get("problem") else None,
            )
    return None


def _is_frame_id(text: str) -> bool:
    """Whether it is a position that a take can have: one of the house layout is shown up to it."""
    try:
        return file_number(text) == text and int(text) < MOST_FRAMES
    except ValueError:
        return False


def _number(value: Any) -> float | None:
    """A number that can be shown; JSON also has whole ones beyond any float, infinity and NaN."""
    try:
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
    except OverflowError:
        return None
