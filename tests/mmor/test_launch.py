"""Where the processes of several machines meet, and how those of one start end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mmor.launch import check_machines, divide, start_processes
from operating_room.errors import UserError
from operating_room.work.processes import Share


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


def test_processes_of_a_machine_meet_where_nobody_knows_its_name(tmp_path: Path) -> None:
    """They looked for it for ever, without a word."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, socket\nsocket.getfqdn = lambda *_: 'nowhere.invalid'\nif 'RANK' in os.environ:\n"
        "    import mmor.cli\n    from computing.meeting import gather\n"
        "    mmor.cli.app = lambda: print(gather(os.environ['RANK']), flush=True)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", "from mmor.launch import start_processes; start_processes(2)"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    # Both write into one pipe, the ends of their lines apart.
    assert "".join(ran.stdout.splitlines()) == "['0', '1']" * 2, ran.stderr


def test_what_a_killed_launcher_has_started_ends_with_it(tmp_path: Path) -> None:
    """It went on unseen, in sessions of its own, kept GPUs and the lock of the folder, and left a folder in /tmp."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    (tmp_path / "sitecustomize.py").write_text(
        "import os, time\nif 'RANK' in os.environ:\n    import mmor.cli\n"
        "    mmor.cli.app = lambda: (print('begun', flush=True), time.sleep(200))\n"
    )
    command = "scene-graph", "infer", "--model", "model", "--out", "p.json"
    with subprocess.Popen(
        [sys.executable, "-m", "mmor.cli", *command, "--gpus", "2"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}", "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["begun\n"] * 2
        process.kill()
        _, said = process.communicate(timeout=60)  # when all have closed their end
    assert "ended from outside, and they end with it; run the same command again" in said
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_who_waits_for_other_machines_can_be_ended(tmp_path: Path, sent: signal.Signals) -> None:
    """Ctrl-C was heard when they had met, or after 15 minutes; and a folder stayed behind in /tmp."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # where tests run in the background of a shell
    with socket.create_server(("127.0.0.1", 0)) as machine_0:  # which takes the call and says nothing
        port = machine_0.getsockname()[1]
        code = f"from mmor.launch import start_processes\nstart_processes(1, 2, 1, 'tcp://127.0.0.1:{port}')"
        with subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "TMPDIR": str(tmp_path)},
            stderr=subprocess.DEVNULL,
        ) as process:
            signal.signal(signal.SIGINT, before)
            machine_0.settimeout(100)
            with machine_0.accept()[0]:
                process.send_signal(sent)
                try:
                    assert process.wait(20) == -sent
                finally:
                    process.kill()
    assert not list(tmp_path.iterdir())


def test_ctrl_c_ends_one_of_several_at_once() -> None:
    """In the middle of a step they waited for each other, until the launcher killed them half a minute later."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # where tests run in the background of a shell
    code = """
import mmor.cli, sys
def app():
    print("begun", flush=True)
    try:
        sys.stdin.read()
    except KeyboardInterrupt:  # as typer does, and then Python leaves in order
        sys.exit(1)
mmor.cli.app = app
mmor.cli.main()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"RANK": "0", "WORLD_SIZE": "2", "PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        signal.signal(signal.SIGINT, before)  # it has its own by now
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == -signal.SIGINT


@pytest.mark.parametrize(
    ("of_all", "of_this"), [("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"), ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")]
)
def test_tasks_that_know_nothing_of_each_other_are_told(
    of_all: str, of_this: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`srun -n 4 mmor ...` did the whole work four times and said nothing."""
    monkeypatch.setenv(of_all, "4")
    for task, notes in (("0", 1), ("1", 0)):
        monkeypatch.setenv(of_this, task)
        assert divide(1) == Share()
        assert capsys.readouterr().err.count(f"note: each of 4 tasks ({of_all}=4, no RANK and WORLD_SIZE)") == notes
    monkeypatch.setenv(of_this, "0")
    assert divide(1, part="1/4") == Share(0, 4, together=False)  # divided already
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert divide(1) == Share(0, 4)
    assert not capsys.readouterr().err


@pytest.mark.parametrize("of_step", [{}, {"SLURM_STEP_NUM_TASKS": "1"}])
def test_the_script_of_a_job_with_several_tasks_is_one_run(
    of_step: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """So it is after `salloc -n 4`, too; on some clusters the shell there is a step of one task."""
    for name, value in {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", **of_step}.items():
        monkeypatch.setenv(name, value)
    assert divide(1) == Share()
    assert not capsys.readouterr().err
