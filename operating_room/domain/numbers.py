"""How file names spell a time stamp, a position or a frame number (data specification, section 1)."""

from __future__ import annotations

from typing import Any

_DIGITS = 6
_MOST = 10**9  # no camera counts that far; a larger number is damage


def file_number(value: Any) -> str:
    """A time stamp, position or frame number as file names spell it: six digits or more.

    Args:
        value: a whole number, as JSON number (17 or 17.0) or as text with or without leading zeros.

    Raises:
        ValueError: it is none, negative, or beyond any counter.
    """
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= len(str(_MOST)):
        return value.zfill(_DIGITS)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _MOST and value == int(value):
        return f"{int(value):0{_DIGITS}d}"
    raise ValueError(value)
