"""Settings from what a YAML file or a command line says: nested mappings to dataclasses, checked."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import types
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from operating_room.errors import UserError
from scene_graph_generation.config.setting_checks import can_be_a_path

Settings = TypeVar("Settings")
_WORDS = {"true": True, "false": False}  # values on the command line that are no text


def from_mapping(kind: type[Settings], values: Any, where: str) -> Settings:
    """Build the dataclass `kind` from nested mappings, checking names and types; `where` names the source in errors.

    Raises:
        UserError: a name is unknown or a value has another type.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{where}: expected a mapping of settings, got {str(values)[:60]!r}")
    hints = get_type_hints(kind)
    unknown = sorted(set(map(str, values)) - set(hints))
    if unknown:
        raise UserError(f"{where}: unknown setting {unknown[0]!r}; known here: {', '.join(hints)}")
    converted = {str(name): _convert(hints[name], value, f"{where}: {name}") for name, value in values.items()}
    with _told_of(where):
        return kind(**converted)


def with_setting(settings: Settings, path: str, value: Any, where: str) -> Settings:
    """The settings with one of them, like `train.learning_rate`, changed; `where` names the source in errors.

    Raises:
        UserError: the value (text will do) is none of the setting's type.
    """
    name, _, rest = path.partition(".")
    if rest:
        value = with_setting(getattr(settings, name), rest, value, where)
    else:
        value = _WORDS.get(value.lower(), value) if isinstance(value, str) else value
        value = _convert(get_type_hints(type(settings))[name], value, where)
    with _told_of(where if not rest else ""):
        return dataclasses.replace(settings, **{name: value})  # ty: ignore[invalid-argument-type]


def _convert(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return from_mapping(kind, value, where)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        for choice in arguments:
            if value == choice or value == str(choice):
                return choice
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        names = set(value) if isinstance(value, Mapping) else set()  # of two dataclasses the one that has these names
        fitting = (kind for kind in arguments if dataclasses.is_dataclass(kind) and names <= set(get_type_hints(kind)))
        return _convert(next(fitting, arguments[0]), value, where)
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(_convert(arguments[0], item, where) for item in value)
    if origin is dict:
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            raise UserError(f"{where}: expected a mapping of settings, got {str(value)[:60]!r}")
        return dict(value)
    if kind in (int, float) and isinstance(value, (str, int)) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):
            return kind(value)  # YAML reads 1e-3 as text, and a command line everything
    if kind is Path and isinstance(value, (str, Path)) and can_be_a_path(value):
        return Path(os.path.expanduser(value))  # of an experiment file, where no shell does it
    if kind is str and isinstance(value, str) and value.startswith("~/"):  # a base: a folder, or a name on the hub
        return os.path.expanduser(value)
    if kind in (str, bool, int, float) and isinstance(value, kind) and isinstance(value, bool) == (kind is bool):
        return value
    expected = "the name of a file or folder" if kind is Path else getattr(kind, "__name__", kind)
    expected = f"one of {', '.join(map(str, arguments))}" if origin is Literal else expected
    raise UserError(f"{where}: expected {expected}, got {str(value)[:60]!r}")


@contextlib.contextmanager
def _told_of(where: str) -> Generator[None]:
    """Say in the errors of a dataclass where its values come from."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}" if where else str(error)) from None
