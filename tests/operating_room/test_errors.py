"""One line is one line, and all of it is seen."""

from __future__ import annotations

import sys
import unicodedata

import pytest
import typer

from mmor.cli.options import finish, tell_notes
from operating_room.errors import one_line


def test_marks_that_nobody_sees_are_spelled() -> None:
    """A name with U+202E is read backwards on a terminal: gnp.exe for exe.png."""
    assert one_line("take\u202egnp.exe\u2069, a\u200fb\u200bc\ufeff\u2028d\x1b[31m") == (
        r"take\u202egnp.exe\u2069, a\u200fb\u200bc\ufeff\u2028d\x1b[31m"
    )
    hidden = {chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) in ("Cc", "Zl", "Zp")}
    hidden |= {chr(code) for code in (0x200E, *range(0x202A, 0x202F), *range(0x2066, 0x206A))}
    assert all(one_line(mark) == repr(mark)[1:-1] for mark in hidden)


def test_words_of_any_language_stay_as_they_are() -> None:
    words = "Säge, 手术刀, منشار ٣, ножовка, מסור, é"
    assert one_line(words) == words


def test_notes_and_problems_of_a_command_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    tell_notes(["a\u202eb"])
    with pytest.raises(typer.Exit):
        finish(["c\x1b[2Jd", "one\nother"])
    assert capsys.readouterr().err.splitlines() == [
        r"note: a\u202eb",
        r"error: c\x1b[2Jd",
        "error: one",
        "error: other",
    ]
