"""The one exception for mistakes that a user can mend."""

from __future__ import annotations

import re
from collections.abc import Callable


class UserError(Exception):
    """Something the user did or has on disk is wrong: one line saying what, where, and what to do.

    The command line prints it without a traceback; library callers can catch it.
    """


# Controls; and marks without width that turn the direction of what follows, part lines or hide in a name.
_UNSEEN = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f\\xad\\u061c\\u180e\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ufeff\\ufff9-\\ufffb"
    "\\U0001bca0-\\U0001bca3\\U0001d173-\\U0001d17a\\U000e0000-\\U000e007f]"
)


def one_line(text: str) -> str:
    """A message with characters that are not seen spelled (`\\n`, `\\x1b`, `\\u202e`): names of files may hold line
    breaks, commands to a terminal, and marks that let a name read as another."""
    return _UNSEEN.sub(lambda found: repr(found[0])[1:-1], text)


def failing(*checks: Callable[[], object]) -> list[str]:
    """A line for each check that is not passed."""
    lines = []
    for check in checks:
        try:
            check()
        except UserError as error:
            lines.append(str(error))
    return lines
