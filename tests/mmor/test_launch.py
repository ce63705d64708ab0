"""Where the processes of several machines meet."""

from __future__ import annotations

import socket

import pytest

from mmor.launch import check_machines, start_processes
from operating_room.errors import UserError


@pytest.mark.parametrize("url", ["tcp://host", "tcp://host:port", "tcp://host:0", "tcp://host:70000", "tcp://:29500"])
def test_a_place_to_meet_has_a_host_and_a_port(url: str) -> None:
    with pytest.raises(UserError, match="needs --dist-url tcp://HOST:PORT"):
        check_machines(2, 0, url)


def test_a_port_that_another_job_has_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with socket.create_server(("", 0)) as other:
        url = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(UserError, match=f"--dist-url {url}: the machines cannot meet there"):
            start_processes(1, 2, 0, url)
