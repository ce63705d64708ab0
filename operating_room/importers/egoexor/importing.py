"""EgoExOR's files into the house layout, resumed where an earlier run was interrupted.

A take is finished when it has its take.yaml. Until then a list beside it says which pieces of it are written.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

import yaml

from operating_room.domain.collection import SEPARATED_SPLITS, Collection
from operating_room.domain.house import SPLITS_FILE
from operating_room.errors import UserError
from operating_room.files.atomic import write_json, write_text
from operating_room.files.locks import alone_in
from operating_room.files.readers import parse_yaml, read_bytes, read_json
from operating_room.importers.egoexor.check import checklist, rate_notes
from operating_room.importers.egoexor.frames import Counts, Piece, parts, write_piece
from operating_room.importers.egoexor.hdf5 import BadRecording
from operating_room.importers.egoexor.source import Recordings, StoredTake, Tables, find_recordings
from operating_room.importers.egoexor.tables import RATES, Colours, Gaze, Pictures
from operating_room.importers.egoexor.takes import Facts, inspect_take
from operating_room.importers.egoexor.words import domain_there, places, write_domain
from operating_room.recordings.folders import IMPORT_NOTE, house_splits, write_house_splits
from operating_room.work.processes import free_memory
from operating_room.work.workers import in_workers

_VERSION = 1  # counts up whenever the same files and options give other results
# Bytes of a process besides what it reads at once, and how many times it holds that: packed, unpacked and handed over.
# Measured with chunks of 34 and 542 MB.
_PROCESS, _COPIES = 250_000_000, 3
_TAKE_FILE = "take.yaml"


@dataclass(frozen=True)
class ImportReport:
    """What an import found and did.

    Attributes:
        checklist: what the files are.
        notes: what is worth knowing.
        problems: what is wrong; each line names file and place. The takes they are about are not imported. No part of
            the text of the report.
        imported: take -> how many of each kind were written, of the takes that this run has finished.
        finished: takes that an earlier run had finished.
    """

    checklist: tuple[str, ...]
    notes: tuple[str, ...]
    problems: tuple[str, ...]
    imported: Mapping[str, Counts]
    finished: tuple[str, ...]

    def __str__(self) -> str:
        lines = list(self.checklist)
        lines += [f"note: {note}" for note in self.notes]
        for name, counts in self.imported.items():
            lines.append(f"{name}: {_told(counts)}")
        if self.finished:
            lines.append(f"{len(self.finished)} takes were imported before: {', '.join(self.finished)}")
        return "\n".join(lines)


def import_egoexor(
    source: Path,
    out: Path,
    *,
    colours: Colours = "true_rgb",
    pictures: Pictures = "jpg",
    gaze: Gaze | None = None,
    period: float | None = None,
    takes: Sequence[str] | None = None,
    workers: int = 1,
) -> ImportReport:
    """Import takes of EgoExOR into the house layout below `out`.

    Args:
        source: a file, or the folder of the files of one release.
        out: gets domain.yaml, splits.yaml and takes/{take}.
        colours: true colours, or the order of channels that the published training or evaluation gave to the model.
        pictures: jpg, or png without loss (about five times as large).
        gaze: corrected where the glasses are known to have been off, or as stored. By default corrected in the first
            release; whether the second one is corrected already is not known.
        period: s between frames of takes without sound; 1/15 by default. Sound tells it better.
        takes: names ({surgery}_{procedure}_{take}); all by default.
        workers: processes at most; fewer where the memory is not enough.

    Raises:
        UserError: nothing can be imported; or `out` holds takes of other files or options, other things under the name
            of a take, another domain or damaged splits; or a take that was asked for is not there; or another import
            into `out` is running.
    """
    if workers < 1 or (period is not None and not 0 < period < float("inf")):
        raise UserError("import options out of range: workers of at least 1, a period above 0 s")
    with alone_in(out):  # before all gaze and hands are read
        recordings = find_recordings(source)
        if recordings.release == "hq" and gaze == "corrected":
            raise UserError(
                f"{source}: whether the gaze of this release is corrected already is not known; leave --gaze out, or "
                "give --gaze stored"
            )
        gaze = gaze or ("corrected" if recordings.release == "legacy" else "stored")
        stored = _chosen(source, recordings, takes)
        found = list(in_workers(partial(_inspect, tables=recordings.tables), stored, workers, "looking at takes"))
        facts = [each for each in found if isinstance(each, Facts)]
        problems = [*recordings.problems, *(each for each in found if isinstance(each, str))]
        domain = domain_there(out)
        cameras = [camera for each in facts for camera in each.cameras]
        placed = {path: places(domain, table, cameras) for path, table in recordings.tables.items()}
        work = [_Work.begin(out, each, colours, pictures, gaze, period, placed[each.take.file]) for each in facts]
        house_splits(out, domain.collections[0])  # is refused before hours of work, not after them
        imported: dict[str, Counts] = {}
        problems += _write(work, recordings, (colours, pictures, gaze), workers, imported)
        notes = [*recordings.notes, *rate_notes(facts, period)]
        if any((each.folder / _TAKE_FILE).exists() for each in work):
            tables = [recordings.tables[path] for path in recordings.files]
            notes += write_domain(out, domain, tables, cameras)
            notes += _write_splits(out, recordings, domain.collections[0])
        return ImportReport(
            checklist=tuple(checklist(recordings, facts)),
            notes=tuple(notes),
            problems=tuple(problems),
            imported=imported,
            finished=tuple(each.facts.take.name for each in work if each.is_finished),
        )


@dataclass
class _Work:
    """What is to be done of a take."""

    facts: Facts
    folder: Path
    recipe: Mapping[str, Any]  # what the files depend on; it must be the same when an import is resumed
    period: float
    places: Mapping[int, int]  # see `words.places`
    is_finished: bool
    done: dict[str, Counts]  # key of a piece -> what was written

    @classmethod
    def begin(
        cls,
        out: Path,
        facts: Facts,
        colours: Colours,
        pictures: Pictures,
        gaze: Gaze,
        period: float | None,
        placed: Mapping[int, int],
    ) -> _Work:
        """How far the take is.

        Raises:
            UserError: there is a take of this name from elsewhere, or imported with other options.
        """
        folder = out / "takes" / facts.take.name
        seconds = facts.sound_s / facts.frames if facts.sound_s else period or 1 / RATES[0]
        recipe = {
            "version": _VERSION,
            "release": facts.take.release,
            "fingerprint": facts.fingerprint,
            "graphs": facts.graphs,
            "colours": colours,
            "pictures": pictures,
            "gaze": gaze if "gaze" in facts.shapes else None,
            "period": seconds,
        }
        if other := sorted([number, place] for number, place in placed.items() if number != place):
            recipe["places"] = other  # the file does not count its sources as published
        finished, note = folder / _TAKE_FILE, folder / IMPORT_NOTE
        if finished.exists():
            _require_same(finished, _recipe_of(finished), recipe)
            return cls(facts, folder, recipe, seconds, placed, True, {})
        if note.exists():
            written = read_json(note)
            before = written.get("recipe") if isinstance(written, dict) else None
            done = written.get("done") if isinstance(written, dict) else None
            if not isinstance(before, dict) or not _is_list_of_done(done):
                raise UserError(f"{note}: is no list of what was imported; delete the folder of the take")
            _require_same(note, before, recipe)
            return cls(facts, folder, recipe, seconds, placed, False, done)
        if folder.exists() and any(folder.iterdir()):
            raise UserError(f"{folder}: is there and was not imported from EgoExOR; choose another folder")
        return cls(facts, folder, recipe, seconds, placed, False, {})

    def pieces(self, tables: Tables, colours: Colours, pictures: Pictures, gaze: Gaze) -> list[Piece]:
        """All pieces of the take, done or not."""
        return [
            Piece(
                *(self.facts, tables, self.places, self.folder, part, first, min(first + step, frames)),
                *(colours, pictures, gaze),
            )
            for part, frames, step in parts(self.facts)
            for first in range(0, frames, step)
        ]

    def add(self, key: str, counts: Counts) -> None:
        """A piece is written."""
        self.done[key] = counts
        self.note()

    def note(self) -> None:
        """Write down what is done; the folder is known as that of an import from then on."""
        write_json(self.folder / IMPORT_NOTE, {"recipe": self.recipe, "done": self.done})

    def finish(self, keys: Iterable[str]) -> Counts:
        """All pieces are written: the take is complete."""
        counts: Counter[str] = Counter()
        for key in keys:
            counts.update(self.done[key])
        facts, take = self.facts, self.facts.take
        source = {
            "format": "EgoExOR",
            "file": take.file.name,
            "group": take.group,
            **self.recipe,
            "sources": list(facts.cameras),
            "picture_size": list(facts.size),
            "period_from": "sound" if facts.sound_s else "option",
            "gaze_depth": "gaze_depth" in facts.shapes if "gaze" in facts.shapes else None,
            "written": dict(counts),
        }
        content = {"period": self.period, "frames": facts.frames, "pictures": self.recipe["pictures"], "source": source}
        write_text(self.folder / _TAKE_FILE, yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120))
        (self.folder / IMPORT_NOTE).unlink(missing_ok=True)
        return dict(counts)


def _chosen(source: Path, recordings: Recordings, names: Sequence[str] | None) -> list[StoredTake]:
    there = {take.name: take for take in recordings.takes}
    for name in names or ():
        if name not in there:
            why = next((problem for problem in recordings.problems if f"take {name} " in problem), None)
            raise UserError(why or f"{source}: has no take {name}; it has {', '.join(there) or 'none'}")
    return list(recordings.takes) if names is None else [there[name] for name in dict.fromkeys(names)]


def _inspect(take: StoredTake, tables: Mapping[Path, Tables]) -> Facts | str:
    """What is known of a take, or what is wrong with it."""
    try:
        return inspect_take(take, tables[take.file])
    except BadRecording as error:
        return str(error)


def _write(
    work: Sequence[_Work],
    recordings: Recordings,
    options: tuple[Colours, Pictures, Gaze],
    workers: int,
    imported: dict[str, Counts],
) -> list[str]:
    """Write what is left to do; finished takes go to `imported`, what was wrong is returned."""
    takes = {each.facts.take.name: each for each in work if not each.is_finished}
    pieces = {name: each.pieces(recordings.tables[each.facts.take.file], *options) for name, each in takes.items()}
    todo = [piece for name, own in pieces.items() for piece in own if piece.key not in takes[name].done]
    left = Counter(piece.facts.take.name for piece in todo)
    problems: dict[str, str] = {}
    for name, each in takes.items():
        if not left[name]:  # interrupted between the last piece and the end
            imported[name] = each.finish(piece.key for piece in pieces[name])
    workers = _affordable(workers, [each.facts for each in takes.values()])
    for name, each in takes.items():
        if left[name]:
            each.note()  # else files of a first piece that is interrupted would be somebody else's
    for name, key, result in in_workers(_write_one, todo, workers, "importing takes"):
        if isinstance(result, str):
            problems.setdefault(name, result)
            continue
        takes[name].add(key, result)
        left[name] -= 1
        if not left[name]:
            imported[name] = takes[name].finish(piece.key for piece in pieces[name])
    return list(problems.values())


def _write_one(piece: Piece) -> tuple[str, str, Counts | str]:
    """Take, key and counts of a piece; or instead of these, what is wrong with the file there."""
    try:
        return piece.facts.take.name, piece.key, write_piece(piece)
    except BadRecording as error:
        return piece.facts.take.name, piece.key, str(error)


def _affordable(workers: int, takes: Sequence[Facts]) -> int:
    """So many of the processes as the free memory is enough for.

    Raises:
        UserError: it is not enough for one.
    """
    needed = _PROCESS + int(_COPIES * max((take.largest_read for take in takes), default=0))
    free = free_memory()
    if needed > free and takes:
        raise UserError(
            f"import: the pictures are packed so that reading some needs {needed / 1e9:.1f} GB, and {free / 1e9:.1f} "
            "GB are free; end other programs or use a machine with more memory"
        )
    fit = max(1, min(workers, free // needed))
    if fit < workers:
        told = f"{needed / 1e9:.1f} GB each, {free / 1e9:.1f} GB are free"
        print(f"note: {fit} processes instead of {workers}: {told}", file=sys.stderr)
    return fit


def _recipe_of(path: Path) -> Mapping[str, Any]:
    content = parse_yaml(read_bytes(path), str(path))
    source = content.get("source") if isinstance(content, dict) else None
    if not isinstance(source, dict) or source.get("format") != "EgoExOR":
        raise UserError(f"{path}: this take was not imported from EgoExOR; choose another folder")
    return source


def _is_list_of_done(done: Any) -> TypeGuard[dict[str, Counts]]:
    """Whether it maps pieces to how many of each kind were written."""
    if not isinstance(done, dict) or not all(isinstance(counts, dict) for counts in done.values()):
        return False
    return all(type(count) is int for counts in done.values() for count in counts.values())


def _require_same(path: Path, before: Mapping[str, Any], recipe: Mapping[str, Any]) -> None:
    before = {"graphs": recipe["graphs"], **before}  # which earlier versions did not note
    other = [f"{name} {before.get(name)}, not {value}" for name, value in recipe.items() if before.get(name) != value]
    if other:
        raise UserError(
            f"{path}: was imported from other files or with other options ({'; '.join(other)}); give the same ones "
            "again, or choose another folder"
        )


def _write_splits(out: Path, recordings: Recordings, collection: Collection) -> list[str]:
    """Add the finished takes to splits.yaml; what stands there already stays, since people make splits of their own.

    Returns:
        Takes that are in another split there, a line for each.
    """
    notes = []
    path = out / SPLITS_FILE
    splits = house_splits(out, collection)
    before = {take: name for name in SEPARATED_SPLITS for take in splits[name]}
    for take, split in sorted(recordings.splits.items()):
        if not (out / "takes" / take / _TAKE_FILE).exists():
            continue
        if before.get(take, split) != split:
            notes.append(f"{path}: has {take} in {before[take]}, the split table in {split}; the file is left as it is")
        elif take not in before:
            splits[split].append(take)
    write_house_splits(out, collection, splits)
    return notes


def _told(counts: Counts) -> str:
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items()) or "nothing"
