"""What goes wrong on the way to the model hub."""

from __future__ import annotations

import errno

import pytest

from computing.hub import hub_errors
from operating_room.errors import UserError


@pytest.mark.parametrize("kind", [ImportError, ValueError, Exception])
def test_a_proxy_that_the_hub_cannot_use_is_one_line(kind: type[Exception]) -> None:
    told = "Using SOCKS proxy, but the 'socksio' package is not installed."
    with pytest.raises(UserError, match="a/b: cannot be fetched from the model hub"), hub_errors("a/b"):
        raise kind(told)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EDQUOT, "Disk quota exceeded", "/home/me/.cache/huggingface/hub/x.incomplete"),
        RuntimeError(
            "Data processing error: File reconstruction error: IO Error: No space left on device (os error 28)"
        ),
    ],
)
def test_a_full_home_is_not_mended_by_another_connection(error: Exception) -> None:
    """A base of 13 GB in a home of 20 GB."""
    with pytest.raises(UserError, match=r"make room, or set HF_HOME to a folder on a larger disk$"), hub_errors("a/b"):
        raise error
