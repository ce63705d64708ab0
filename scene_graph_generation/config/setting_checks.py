"""What numbers in settings may be; a dataclass asks in its `__post_init__`."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from operating_room.errors import UserError

MAX_PATH, MAX_NAME = 4096, 255  # bytes
LARGEST = 2**31 - 1  # no size, count or seed is larger


def check(settings: Any, expected: str, holds: Callable[[float], bool], *names: str) -> None:
    """These settings, unless None, must be numbers for which `holds` is true; NaN and infinity never are.

    Raises:
        UserError: one is not.
    """
    for name in names:
        value = getattr(settings, name)
        finite = value is None or isinstance(value, int) or math.isfinite(value)
        if not finite or (value is not None and not holds(value)):
            raise UserError(f"{name} is {str(value)[:60]}; expected {expected}")


def at_least(settings: Any, least: int, *names: str) -> None:
    """These integers must not be smaller.

    Raises:
        UserError: one is, or is too large for a 32-bit number.
    """
    check(settings, f"{least} to {LARGEST}", lambda value: least <= value <= LARGEST, *names)


def above_zero(settings: Any, *names: str) -> None:
    """These settings, unless None, must be positive.

    Raises:
        UserError: one is not.
    """
    check(settings, "a number above 0", lambda value: value > 0, *names)


def below_one(settings: Any, *names: str) -> None:
    """These settings must be shares that leave something.

    Raises:
        UserError: one is not.
    """
    check(settings, "0 or more and less than 1", lambda value: 0 <= value < 1, *names)


def can_be_a_path(name: str | Path) -> bool:
    """Whether a system could have a file of this name; an empty one, as of an unset variable, would be this folder."""
    try:
        text = os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return 0 < len(text) < MAX_PATH and b"\0" not in text and max(map(len, text.split(b"/"))) <= MAX_NAME


def divides(divisor: int, value: int, name: str, of: str) -> None:
    """A setting, called `name` in the error, must be a multiple of another, called `of`.

    Raises:
        UserError: it is not.
    """
    if value % divisor:
        raise UserError(f"{name} is {value}; it must be a multiple of {of}, {divisor}")
