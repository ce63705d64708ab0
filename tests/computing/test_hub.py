"""What goes wrong on the way to the model hub."""

from __future__ import annotations

import pytest

from computing.hub import hub_errors
from operating_room.errors import UserError


@pytest.mark.parametrize("kind", [ImportError, ValueError, Exception])
def test_a_proxy_that_the_hub_cannot_use_is_one_line(kind: type[Exception]) -> None:
    told = "Using SOCKS proxy, but the 'socksio' package is not installed."
    with pytest.raises(UserError, match="a/b: cannot be fetched from the model hub"), hub_errors("a/b"):
        raise kind(told)
