"""The one exception for mistakes that a user can mend."""

from __future__ import annotations


class UserError(Exception):
    """Something the user did or has on disk is wrong: one line saying what, where, and what to do.

    The command line prints it without a traceback; library callers can catch it.
    """
