"""The one exception for mistakes that a user can mend."""

from __future__ import annotations

import re


class UserError(Exception):
    """Something the user did or has on disk is wrong: one line saying what, where, and what to do.

    The command line prints it without a traceback; library callers can catch it.
    """


def one_line(text: str) -> str:
    """A message with control characters spelled (`\\n`, `\\x1b`): names of files may hold line breaks and commands to a
    terminal."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: repr(found[0])[1:-1], text)
