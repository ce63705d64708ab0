"""Files of training samples: the published JSON, and the same records as shards of JSON lines that are read piecemeal.

20 permutations of all training timepoints are more than 1 GB of text. Neither writing nor training holds it in memory:
records go to one of many piles at random, each pile is shuffled and becomes a shard, and the JSON is the shards one
after the other. Reading keeps the place of each record only.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from jaxtyping import Int64

from operating_room.errors import UserError
from operating_room.files.atomic import atomic_folder, atomic_path, write_json
from operating_room.files.readers import read_json
from operating_room.graphs.prompts import IMAGE_MARK
from operating_room.recordings.folders import list_names
from operating_room.work.progress import track
from scene_graph_generation.inputs.example import IGNORED
from scene_graph_generation.inputs.tokens import Tokens
from scene_graph_generation.samples.records import Record, Records

PILE = 4096  # records, about 10 MB
MOST_PILES = 128  # open files; macOS gives a process 256
INDEX = "index.json"
_BETWEEN = b", "  # records of a JSON
_AGAIN = "make the samples again"


def shard_folder(path: Path) -> Path:
    """The folder with the shards of a training JSON."""
    return path.with_suffix(".shards")


def write_samples(path: Path, records: Iterable[Record], expected: int, generator: Random) -> int:
    """Write records in random order, as JSON and as shards beside it; returns how many there are.

    Both are written under other names first; what is there already stays until they are whole, and where there is no
    record.

    Args:
        path: of the JSON.
        records: in any order; gone through once.
        expected: about how many there are.
        generator: source of the order.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    records = iter(records)
    first = next(records, None)
    if first is None:
        return 0
    records = chain((first,), records)
    piles = min(MOST_PILES, -(-expected // PILE)) or 1
    with atomic_folder(shard_folder(path)) as folder, atomic_path(path) as whole:
        names = [f"{number:05d}.jsonl" for number in range(piles)]
        with ExitStack() as stack:
            files = [stack.enter_context((folder / name).open("wb")) for name in names]
            for record in track(records, "training samples", expected):
                files[generator.randrange(piles)].write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
        counts = {}
        with whole.open("wb") as file:
            file.write(b"[")
            for name in names:
                lines = (folder / name).read_bytes().splitlines(keepends=True)
                generator.shuffle(lines)
                (folder / name).write_bytes(b"".join(lines))
                if lines:
                    file.write((_BETWEEN if sum(counts.values()) else b"") + _BETWEEN.join(line[:-1] for line in lines))
                counts[name] = len(lines)
            file.write(b"]")
            size = file.tell()
        write_json(folder / INDEX, {"json_bytes": size, "records": counts})
    return sum(counts.values())


class Shard:
    """The records of one file of JSON lines; each is read when it is asked for."""

    def __init__(self, path: Path, count: int) -> None:
        """Find the place of each of its `count` records.

        Raises:
            UserError: the file is missing or cut off.
        """
        try:
            content = np.memmap(path, np.uint8, "r") if count else np.zeros(0, np.uint8)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read ({error}); {_AGAIN}") from error
        ends = np.flatnonzero(content == ord("\n")) + 1
        if len(ends) != count or (count and ends[-1] != len(content)):
            raise UserError(f"{path}: has {len(ends)} of {count} samples; {_AGAIN}")
        self._path = path
        self._ends: Int64[np.ndarray, " records"] = ends  # of each line, bytes

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, line: int) -> Record:
        start = int(self._ends[line - 1]) if line else 0
        with self._path.open("rb") as file:
            file.seek(start)
            return _parse(file.read(int(self._ends[line]) - start), self._path, line)

    def __iter__(self) -> Iterator[Record]:
        with self._path.open("rb") as file:
            for line, text in enumerate(file):
                yield _parse(text, self._path, line)


class Packed:
    """The records of a JSON without shards, as text in one piece of memory; each is parsed when it is asked for.

    As Python's objects they take twice the size of the file, and once more in each process that reads samples: whoever
    looks at an object counts that, and by it gets a copy of what forked processes share.
    """

    def __init__(self, path: Path, records: list[Any]) -> None:
        """Take the `records` of a file over: nothing is left in that list."""
        texts = bytearray()
        ends = np.zeros(len(records), np.int64)
        for place, record in enumerate(records):
            records[place] = None  # so that both forms of all of them are never there at once
            texts += json.dumps(record).encode()
            ends[place] = len(texts)
        records.clear()
        self._path, self._texts = path, texts
        self._ends: Int64[np.ndarray, " records"] = ends

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> Record:
        place = range(len(self))[index]
        start = int(self._ends[place - 1]) if place else 0
        return _parse(self._texts[start : int(self._ends[place])], self._path, place)

    def __iter__(self) -> Iterator[Record]:
        return map(self.__getitem__, range(len(self)))


class Joined:
    """The records of several files one after the other."""

    def __init__(self, parts: Sequence[Records]) -> None:
        self._parts = parts
        self._before = np.cumsum([0, *map(len, parts)]).tolist()

    def __len__(self) -> int:
        return self._before[-1]

    def __getitem__(self, index: int) -> Record:
        place = range(len(self))[index]  # IndexError, and the meaning of negative numbers
        part = bisect_right(self._before, place) - 1
        return self._parts[part][place - self._before[part]]

    def __iter__(self) -> Iterator[Record]:
        return chain.from_iterable(self._parts)


def read_shards(folder: Path) -> Joined:
    """The records of a folder of shards; each is read when it is asked for.

    Raises:
        UserError: a shard is missing or cut off, or there is no record.
    """
    return Joined([Shard(folder / name, count) for name, count in _read_index(folder)["records"].items()])


def find_shards(path: Path) -> Path | None:
    """The folder of shards to read for a training JSON, or for such a folder itself; None if there is none.

    Shards that do not hold what the JSON holds do not count: one of them was edited, damaged or copied without the
    other. This reads both once, 1 GB in a few seconds.
    """
    if path.is_dir():
        return path
    folder = shard_folder(path)
    if path.is_file() and (folder / INDEX).is_file():
        return folder if _holds_the_same(path, folder) else None
    return None


def _holds_the_same(path: Path, folder: Path) -> bool:
    """Whether a training JSON is, byte for byte, its shards one after the other, as `write_samples` makes it."""
    index = _read_index(folder)
    if index["json_bytes"] != path.stat().st_size:
        return False
    try:
        with path.open("rb") as whole:
            before = b"["
            for name in index["records"]:
                if lines := (folder / name).read_bytes():
                    expected = before + lines[:-1].replace(b"\n", _BETWEEN)
                    if whole.read(len(expected)) != expected:
                        return False
                    before = _BETWEEN
            return whole.read() == b"]"
    except OSError:  # a shard is missing, or the JSON cannot be read, which its reader says
        return False


def count_answer_tokens(records: Iterable[Record], tokens: Tokens, counts: Counter[int]) -> Iterator[Record]:
    """Pass records through and count the tokens of their answers, without the token that ends one, as published."""
    for record in records:
        answer = record["conversations"][1]["value"]
        _, learnt = tokens.encode(f"{IMAGE_MARK}:", answer)  # an answer follows a colon
        counts.update(token for token in learnt if token not in (IGNORED, tokens.end_id))
        yield record


def frequency_file_name(split: str, permutations: int) -> str:
    """The published name of the file that maps token texts to their counts in the answers."""
    return f"{split}_token_freqs_7b_{permutations}perm.json"


def _read_index(folder: Path) -> dict[str, Any]:
    """`json_bytes` and, by shard, the number of `records`.

    Raises:
        UserError: it is missing or damaged, or there is no record.
    """
    if not (folder / INDEX).exists():
        meant = sorted(name for name in list_names(folder) if name.endswith((".json", ".shards")))
        advice = f"give a file in it, such as {meant[0]}" if meant else "give the JSON that `mmor ... samples` wrote"
        raise UserError(f"{folder}: is a folder without {INDEX}, so no training samples in shards; {advice}")
    index = read_json(folder / INDEX)
    match index:
        case {"json_bytes": int(), "records": dict(records)} if all(isinstance(n, int) for n in records.values()):
            if sum(records.values()):
                return index
    raise UserError(f"{folder / INDEX}: does not say how many samples each shard has; {_AGAIN}")


def _parse(text: bytes | bytearray, path: Path, line: int) -> Record:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: line {line + 1} is no sample ({str(error)[:80]}); {_AGAIN}") from error
    if not isinstance(record, dict):
        raise UserError(f"{path}: sample {line + 1}, {str(record)[:60]}, needs an id and two turns; {_AGAIN}")
    return record
