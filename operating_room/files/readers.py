"""Bytes to values: JSON, YAML, subtitles; and by the same door pictures, point clouds and sound.

Every reader raises UserError for a file that is missing, empty, truncated, of another type or encoding, or a folder:
one line that names the file and says what to do. Formats: data specification, sections 1, 7.2 and 9.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import re
import zlib
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

from operating_room.errors import UserError
from operating_room.files.cloud_files import MAX_EXTENT, MAX_POINTS, check_point_cloud, read_point_cloud
from operating_room.files.picture_files import (
    check_picture,
    open_picture,
    picture_size,
    read_ids,
    read_label_mask,
    read_picture,
    read_small_picture,
)
from operating_room.files.raw_files import again, brief, read_bytes, require
from operating_room.files.sound_files import check_audio, read_audio, sound_peaks

__all__ = [
    "MAX_EXTENT",
    "MAX_POINTS",
    "Subtitle",
    "again",
    "check_audio",
    "check_picture",
    "check_point_cloud",
    "check_subtitles",
    "open_picture",
    "parse_yaml",
    "picture_size",
    "read_audio",
    "read_bytes",
    "read_ids",
    "read_json",
    "read_label_mask",
    "read_picture",
    "read_point_cloud",
    "read_small_picture",
    "read_subtitles",
    "require",
    "sound_peaks",
]
_LARGEST = 1 << 27  # bytes of an unpacked .gz, whose values take up to 25 times as much; more is a bomb
_LATE_S = 60.0  # behind the end of a take; nothing that is said so late was said in it
_MOST_REPEATED = 1_000_000  # characters that aliases in YAML stand for; a few lines can stand for gigabytes


@dataclass(frozen=True)
class Subtitle:
    """One subtitle of a transcript; times in seconds from the start of the take, to the millisecond."""

    start_s: float
    end_s: float
    text: str


def read_json(path: Path) -> Any:
    """The value of a UTF-8 JSON file (with or without byte order mark); a name that ends in .gz is unpacked.

    Raises:
        UserError: see the module; also for an object that holds a name twice, since one value would be lost silently,
            for NaN and Infinity, which JSON does not have though Python writes them, and for numbers beyond all floats.
    """
    data = read_bytes(path)
    try:
        if path.suffix == ".gz":
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
                data = packed.read(_LARGEST + 1)
            if len(data) > _LARGEST:
                raise ValueError(f"more than {_LARGEST} bytes inside")
        return json.loads(
            data.decode("utf-8-sig"),
            object_pairs_hook=_unique_names,
            parse_constant=_no_number,
            parse_float=_finite_number,
            parse_int=_finite_whole,
        )
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text (byte {error.start}); save it as UTF-8 JSON") from error
    except RecursionError as error:
        raise UserError(f"{path}: is nested too deeply for JSON of this dataset; {again(path)}") from error
    except (ValueError, OSError, EOFError, zlib.error, MemoryError) as error:
        raise UserError(f"{path}: is not valid JSON ({brief(error)}); {again(path)} or mend it") from error


def parse_yaml(text: str | bytes, where: str) -> Any:
    """The value of YAML text; `where` names its source in errors.

    Raises:
        UserError: it is no YAML, a mapping holds a key twice, or aliases stand for more than files of ours can hold.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses a key that stands twice, of which one value would be lost silently, and bombs of aliases."""

        def construct_document(self, node: Any) -> Any:
            if expanded_size(node) > 2 * len(text) + _MOST_REPEATED:
                raise ValueError(f"its aliases stand for more than {_MOST_REPEATED} characters")
            return super().construct_document(node)

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
            own = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != _MERGE]
            if twice := [key for i, key in enumerate(own) if key in own[:i]]:
                raise ValueError(
                    f"the key {twice[0]!r} stands twice, again in line {node.start_mark.line + 1} or below"
                )
            return super().construct_mapping(node, deep)

        def construct_decimal(self, node: Any) -> Any:
            """A number; what YAML 1.1 reads in base 8 or 60, 0040000 and 1:30, stays the text that people mean."""
            digits = self.construct_scalar(node)
            return digits if _OTHER_BASES.search(digits) else super().construct_yaml_int(node)

    Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_decimal)
    try:
        return yaml.load(text, Loader)  # a SafeLoader
    except RecursionError as error:
        raise UserError(f"{where}: is nested too deeply, or refers to itself") from error
    except (yaml.YAMLError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
        raise UserError(f"{where}: is not valid YAML ({brief(error)})") from error


_OTHER_BASES = re.compile(r"^[-+]?0[0-7_]|:")
_MERGE = "tag:yaml.org,2002:merge"


def expanded_size(node: Any) -> int:
    """Characters and values of a node of YAML; what an alias stands for counts each time."""
    return _size(node, {})


def _size(node: Any, known: dict[Any, int]) -> int:
    if node not in known:
        match node.value:
            case str(characters):
                known[node] = 1 + len(characters)
            case parts:  # nodes, or pairs of them
                own = (part if isinstance(part, tuple) else (part,) for part in parts)
                known[node] = 1 + sum(_size(each, known) for each in chain.from_iterable(own))
    return known[node]


def read_subtitles(path: Path) -> list[Subtitle]:
    """The subtitles of an .srt in file order; line breaks and tags stay, white space at line ends goes.

    So do empty lines around a text: however many stand between two subtitles, they are of neither.

    Raises:
        UserError: see the module; also for a broken time, a number without a time, or a file without any subtitle.
    """
    data = read_bytes(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text (byte {error.start}); save the subtitles as UTF-8") from error
    if "\0" in text:  # what a copy that broke off leaves
        raise UserError(f"{path}: is cut off after {text.index(chr(0))} characters (zeros follow); {again(path)}")
    lines = [line.rstrip() for line in re.split(r"\r\n|\n|\r", text)]
    timed = [number for number, line in enumerate(lines) if _is_timed(line)]
    for number in timed:
        times = _times(lines[number])
        if times is None:
            raise UserError(
                f"{path}: line {number + 1} has a broken time ({lines[number][:60]!r}); "
                "write 00:00:01,500 --> 00:00:02,250"
            )
        lines[number] = times
    if not timed:
        raise UserError(f"{path}: holds no subtitle; {again(path)} or remove it")
    numbered = {number - 1 for number in timed}
    for number, line in enumerate(lines[timed[0] :], start=timed[0]):  # what stands before is a heading
        if line.strip().isdecimal() and not lines[number - 1] and number not in numbered:
            raise UserError(f"{path}: line {number + 1} has the number of a subtitle and no time below; {again(path)}")
    import srt

    try:
        cues = list(srt.parse("\n".join(lines[_first_line(lines, timed[0]) :]), ignore_errors=True))
    except ValueError as error:  # thousands of digits in place of a subtitle's number
        raise UserError(f"{path}: is damaged ({brief(error)}); {again(path)}") from error
    if len(cues) != len(timed):
        raise UserError(
            f"{path}: has {len(timed)} times and {len(cues)} subtitles; between them must be an empty line and a number"
        )
    return [Subtitle(cue.start.total_seconds(), cue.end.total_seconds(), cue.content.strip("\n")) for cue in cues]


def check_subtitles(path: Path, last: float) -> None:
    """Subtitles must be readable, in the order of time, and of a take whose last timepoint is `last`, in s.

    What was said last is the last in the file, as published (data specification, section 9): in a file that is not in
    the order of time these are the wrong words. Where all of them come later than the take, as those of a time code
    that begins at an hour, no timepoint has any.

    Raises:
        UserError: they are not.
    """
    found = read_subtitles(path)
    first = min(subtitle.start_s for subtitle in found)
    if first > last + _LATE_S:
        raise UserError(
            f"{path}: the first of its subtitles begins at {first:g} s, and the take ends at {last:g} s, so that no "
            "timepoint has words; count their times from the start of the take"
        )
    for before, after in pairwise(found):
        if (after.start_s, after.end_s) < (before.start_s, before.end_s):
            raise UserError(
                f"{path}: the subtitle at {after.start_s:g} s stands behind the one at {before.start_s:g} s; sort them "
                "by time, since the last ones of the file count as the last words"
            )


_CLOCK = re.compile(r"\d{1,9}:\d\d:\d\d[,.:]\d")
_TIME = r"\s*(\d{1,9}):([0-5]?\d):([0-5]?\d)[,.:](\d{3})\s*"
_TIMES = re.compile(f"{_TIME}-->{_TIME}")


def _is_timed(line: str) -> bool:
    """Whether the times of a subtitle stand in a line, damaged or not: nobody says the time to the millisecond."""
    return "-->" in line or _CLOCK.match(line.strip()) is not None or len(_CLOCK.findall(line)) > 1


def _times(line: str) -> str | None:
    """The start and a not earlier end in the usual form; milliseconds need three digits, or 1.5 s would be 1.005 s."""
    times = _TIMES.match(line)
    if times is None:
        return None
    numbers = [int(number) for number in times.groups()]
    start, end = numbers[:4], numbers[4:]
    return None if start > end else " --> ".join("{}:{:02d}:{:02d},{:03d}".format(*time) for time in (start, end))


def _first_line(lines: list[str], timed: int) -> int:
    """Where the first subtitle begins: at its number above its times; what stands before is a heading."""
    return timed - 1 if timed and lines[timed - 1].strip().isdecimal() else timed


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the name {twice!r} stands twice in one object")
    return value


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _finite_whole(text: str) -> int:
    _finite_number(text)  # whoever reads it makes a float of it
    return int(text)


def _finite_number(text: str) -> float:
    value = float(text)
    if math.isinf(value):  # 1e400
        raise ValueError(f"{text[:40]} is too large for a number")
    return value
