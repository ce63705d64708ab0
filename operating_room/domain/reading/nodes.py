"""Values of a YAML file that know the line they stand in, so that every mistake is told with it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from yaml.reader import Reader

from operating_room.errors import UserError, one_line
from operating_room.files.raw_files import read_bytes
from operating_room.files.readers import expanded_size

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DEEPEST = 20  # nested values; a domain has 5 levels, and composing goes down by recursion
_LONGEST = 1 << 24  # characters
_MOST = 1e9
_MOST_REPEATED = 100_000  # characters that aliases stand for: a few lines could stand for gigabytes
_KINDS = {"str": "text", "int": "a number", "float": "a number", "bool": "yes or no", "null": "nothing"}
_MARKS_APART = "its letters and their marks are stored apart, as macOS does in names of files"
_TAG = "tag:yaml.org,2002:"


class Value:
    """A value of a YAML file."""

    def __init__(self, node: yaml.Node, path: Path) -> None:
        self._node = node
        self._path = path

    def error(self, message: str) -> UserError:
        """What is wrong with this value, to be raised."""
        text = self._node.value if isinstance(self._node, yaml.ScalarNode) else ""
        apart = "" if unicodedata.is_normalized("NFC", text) else f"; {_MARKS_APART}: type it anew"
        return UserError(one_line(f"{self._path}:{self.line}: {message}{apart}"))

    @property
    def line(self) -> int:
        """The line in which it begins, counted from 1."""
        return self._node.start_mark.line + 1

    def text(self) -> str:
        """The text it is.

        Raises:
            UserError: it is something else, also what YAML takes for a number or for yes and no unless in quotes.
        """
        if isinstance(self._node, yaml.ScalarNode) and self._node.tag == f"{_TAG}str":
            return self._node.value
        if isinstance(self._node, yaml.ScalarNode) and self._node.value:
            raise self.error(f"must be text, not {self._kind}; put it in quotes: '{self._shown}'")
        raise self.error(f"must be text, not {self._kind}")

    def whole(self, lowest: int, highest: int) -> int:
        """The whole number it is, from lowest to highest.

        Raises:
            UserError: it is something else.
        """
        digits = self._node.value if self._node.tag == f"{_TAG}int" else ""
        if re.fullmatch(r"-?[0-9]{1,9}", digits) is None or not lowest <= int(digits) <= highest:
            raise self.error(f"must be a whole number from {lowest} to {highest}, not {self._given}")
        return int(digits)

    def positive(self) -> float:
        """The number above 0 it is, of s: below 10^9, so that a million of them are some, too.

        Raises:
            UserError: it is something else.
        """
        try:
            number = float(self._node.value) if self._node.tag in (f"{_TAG}int", f"{_TAG}float") else 0.0
        except ValueError:  # .inf, 1:30
            number = 0.0
        if not 0 < number < _MOST:
            raise self.error(f"must be a number above 0 and below {_MOST:g}, not {self._given}")
        return number

    def yes_or_no(self) -> bool:
        """Whether it says yes: `true` or `false`, as YAML spells both.

        Raises:
            UserError: it is something else.
        """
        if not isinstance(self._node, yaml.ScalarNode) or self._node.tag != f"{_TAG}bool":
            raise self.error(f"must be true or false, not {self._given}")
        return self._node.value.lower() in ("true", "yes", "on")

    def items(self) -> list[Value]:
        """The values of the list it is.

        Raises:
            UserError: it is something else.
        """
        if not isinstance(self._node, yaml.SequenceNode):
            raise self.error(f"must be a list, not {self._kind}")
        return [Value(node, self._path) for node in self._node.value]

    def texts(self) -> dict[str, Value]:
        """The texts of the list it is, in its order.

        Raises:
            UserError: it is something else, or a text stands twice.
        """
        found: dict[str, Value] = {}
        for item in self.items():
            if item.text() in found:
                raise item.error(f"{item.text()!r} stands twice, first in line {found[item.text()].line}")
            found[item.text()] = item
        return found

    def entries(self) -> list[tuple[Value, Value]]:
        """The keys and values of the mapping it is.

        Raises:
            UserError: it is something else, or a key stands twice or is no single value.
        """
        if not isinstance(self._node, yaml.MappingNode):
            raise self.error(f"must be a mapping (key: value), not {self._kind}")
        entries = [(Value(key, self._path), Value(value, self._path)) for key, value in self._node.value]
        seen: dict[str, int] = {}
        for key, _ in entries:
            if not isinstance(key._node, yaml.ScalarNode):
                raise key.error(f"a key must be a single name or number, not {key._kind}")
            if (name := key._node.value) in seen:
                raise key.error(f"the key {name!r} stands twice, first in line {seen[name]}")
            seen[name] = key.line
        return entries

    def named(self) -> dict[str, tuple[Value, Value]]:
        """Key and value by key, of a mapping of texts.

        Raises:
            UserError: it is something else, or a key stands twice.
        """
        return {key.text(): (key, value) for key, value in self.entries()}

    def fields(self, required: Iterable[str], optional: Iterable[str] = ()) -> dict[str, Value]:
        """The values of a mapping with these keys.

        Raises:
            UserError: it is something else, has another key, lacks one, or has one twice.
        """
        required = tuple(required)
        known, found = (*required, *optional), self.named()
        for name, (key, _) in found.items():
            if name not in known:
                raise key.error(f"unknown key {name!r}{near(name, known)}; known are {', '.join(known)}")
        for name in required:
            if name not in found:
                raise self.error(f"the key {name!r} is missing")
        return {name: value for name, (_, value) in found.items()}

    @property
    def _shown(self) -> str:
        """The text of a single value, cut short; empty for others."""
        return str(self._node.value)[:40] if isinstance(self._node, yaml.ScalarNode) else ""

    @property
    def _given(self) -> str:
        """What is there, for who sees a number where YAML reads text: '1.0' in quotes, 1,0 or 1e-1."""
        is_text = self._node.tag == f"{_TAG}str" and self._shown
        return f"the text {self._shown!r}" if is_text else self._shown or self._kind

    @property
    def _kind(self) -> str:
        if isinstance(self._node, yaml.ScalarNode):
            return _KINDS.get(self._node.tag.removeprefix(_TAG), f"a value of type {self._node.tag}")
        return "a list" if isinstance(self._node, yaml.SequenceNode) else "a mapping"


def read_yaml(path: Path) -> Value:
    """The value of a YAML file.

    Raises:
        UserError: it is missing or cannot be read, is no text or no YAML, or nested too deeply; with the line.
    """
    data = read_bytes(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    return parse_value(text, path)


def parse_value(text: str, path: Path) -> Value:
    """The value of YAML text; `path` names its source in errors.

    Raises:
        UserError: it is no YAML, empty, or nested too deeply; with the line.
    """
    if len(text) > _LONGEST:
        raise UserError(f"{path}:1: is {len(text)} characters long; a domain is a page or two")
    if (strange := Reader.NON_PRINTABLE.search(text)) is not None:
        line = text.count("\n", 0, strange.start()) + 1
        raise UserError(f"{path}:{line}: holds the character {strange[0]!r}, which no YAML has; remove it")
    try:
        depth = 0
        for event in yaml.parse(text, _LOADER):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                line = getattr(event.start_mark, "line", 0) + 1
                raise UserError(f"{path}:{line}: is nested too deeply for a domain")
        node = yaml.compose(text, _LOADER)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        # A parser that reached the end stands behind the last line.
        line = 1 if mark is None else min(mark.line, max(len(text.splitlines()) - 1, 0)) + 1
        problem = getattr(error, "problem", None) or str(error).split("\n")[0]
        raise UserError(f"{path}:{line}: is not valid YAML ({problem})") from error
    if node is None:
        raise UserError(f"{path}:1: is empty; a domain needs a name, a language and collections")
    try:
        size = expanded_size(node)
    except RecursionError as error:
        raise UserError(f"{path}: an alias (*name) in it stands for what it is part of; write it out") from error
    if size > 2 * len(text) + _MOST_REPEATED:
        raise UserError(f"{path}: its aliases (*name) stand for more than {_MOST_REPEATED} characters; write it out")
    return Value(node, path)


def near(name: str, known: Iterable[str]) -> str:
    """` (is it NAME?)` where a known name is nearly the one given, or why it is not the one that it looks like."""
    known = list(known)
    if one := next((one for one in known if is_written_apart(name, one)), None):
        return f" ({_MARKS_APART}: type {one} anew)"
    close = [one for one in known if one.casefold() == name.casefold()] or get_close_matches(name, known, 1)
    return f" (is it {close[0]}?)" if close else ""


def is_written_apart(name: str, other: str) -> bool:
    """Whether two names read the same, and differ in how letters with marks are stored."""
    return name != other and unicodedata.normalize("NFC", name) == unicodedata.normalize("NFC", other)


def require_known(value: Value, known: Iterable[str] | Mapping[str, Any], kind: str) -> str:
    """The text of a value, which must be one of these names.

    Raises:
        UserError: it is none.
    """
    name, known = value.text(), tuple(known)
    if name not in known:
        raise value.error(f"{name!r} is no {kind}{near(name, known)}")
    return name
