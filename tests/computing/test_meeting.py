"""Where the processes of a start meet, and who is alone."""

from __future__ import annotations

import gc
import os
import socket
import threading
import weakref
from types import SimpleNamespace

import psutil
import pytest
import torch
from accelerate import DistributedType, PartialState
from torch import distributed
from torch.distributed import DistBackendError
from torch.nn.parallel import DistributedDataParallel

from computing import meeting
from operating_room.errors import UserError
from operating_room.work import processes
from tests.computing.machines import have, start


def test_processes_that_no_launcher_started_cannot_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    meeting.meet()  # alone there is nobody to wait for
    start(monkeypatch, 0, 2)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UserError, match="start with torchrun"):
        meeting.meet()
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    for port in (None, "some"):
        monkeypatch.delenv("MASTER_PORT", raising=False) if port is None else monkeypatch.setenv("MASTER_PORT", port)
        for gpus in (0, 2):  # whose processes transformers lets meet
            have(monkeypatch, gpus)
            with pytest.raises(UserError, match=rf"MASTER_PORT={port or ''}\); start with torchrun"):
                meeting.meet()


def test_processes_meet_where_nobody_knows_how_many_cores_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in some containers: accelerate ended with a traceback, since it divides that number by their number."""
    start(monkeypatch, 0, 2)
    have(monkeypatch, 0)
    monkeypatch.setattr(meeting, "_join", lambda: None)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    set_to: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    meeting.meet()
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: None)
    meeting.meet()
    assert (os.environ["OMP_NUM_THREADS"], set_to) == ("3", [])
    monkeypatch.delenv("OMP_NUM_THREADS")
    meeting.meet()
    assert (os.environ["OMP_NUM_THREADS"], set_to) == (str(processes.own_threads()), [processes.own_threads()])


def test_processes_of_one_machine_meet_where_nobody_knows_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after `torchrun --standalone`: they waited for each other under that name without end."""

    def unknown(*_: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    start(monkeypatch, 0, 2)
    have(monkeypatch, 0)
    monkeypatch.setattr(meeting, "_join", lambda: None)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setenv("MASTER_PORT", "29500")
    for here, place in (("2", "127.0.0.1"), ("1", "box")):  # the latter is on another machine, and may be known soon
        monkeypatch.setenv("LOCAL_WORLD_SIZE", here)
        monkeypatch.setenv("MASTER_ADDR", "box")
        meeting.meet()
        assert os.environ["MASTER_ADDR"] == place


def test_a_place_where_others_are_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    start(monkeypatch, 0, 2)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", str(other.getsockname()[1]))
        with pytest.raises(UserError, match=r"do not reach each other \(.*in use.*MASTER_PORT"):
            meeting.meet()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (DistBackendError("NCCL error\nDuplicate GPU detected : rank 0 and rank 1 both on CUDA"), "Duplicate GPU"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB"), "CUDA out of memory"),
        (RuntimeError("[/gloo/transport/tcp/pair.cc:553] Connection closed by peer"), "^another process of this"),
    ],
)
def test_what_keeps_processes_apart_where_they_first_meet(
    monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    """That is the question whether all have found the same checkpoint, before a training begins."""

    def fail(*_: object, **__: object) -> None:
        raise error

    start(monkeypatch, 0, 2)
    monkeypatch.setattr(meeting, "_join", lambda: None)
    for function in ("all_gather_object", "broadcast_object_list", "barrier"):
        monkeypatch.setattr(distributed, function, fail)
    meetings = (lambda: meeting.gather(None), lambda: meeting.from_first(None), meeting.wait_for_others)
    for meet in meetings:
        with pytest.raises(UserError, match=told) as caught:
            meet()
        assert "\n" not in str(caught.value)


def test_processes_of_one_training_compute_in_one_format(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside an A100 with bfloat16 a V100 took float16, and scaled its gradients by 65536 before they were summed."""
    meeting.require_one_format("bfloat16", "")  # alone
    found = ["bfloat16", "bfloat16"]
    monkeypatch.setattr(meeting, "gather", lambda _: found)
    meeting.require_one_format("bfloat16", "")
    found[1:] = ["float16", "float16"]
    for own in ("bfloat16", "float16"):  # all are told, so that nobody waits
        told = r"several kinds .* bfloat16 \(process 0\), float16 \(process 1\); choose float16"
        with pytest.raises(UserError, match=told):
            meeting.require_one_format(own, "choose float16")


@pytest.mark.parametrize("by", ["torchrun", "hand"])
def test_who_waits_long_for_others_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], by: str
) -> None:
    """One that failed before it came leaves the others waiting, where no torchrun ends them."""
    start(monkeypatch, 0, 3)
    for name, value in (("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    if by == "torchrun":
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setattr(meeting, "_UNTOLD_S", 0.0)

    def nobody_comes(*_: object, **__: object) -> None:
        for thread in threading.enumerate():
            if isinstance(thread, threading.Timer):
                thread.join()
        raise RuntimeError("nobody came")

    monkeypatch.setattr(torch.distributed, "init_process_group", nobody_comes)
    with pytest.raises(UserError, match="do not reach each other"):
        meeting.wait_for_others()
    assert ("waiting for the other processes of this start (3 in all)" in capsys.readouterr().err) == (by == "hand")


def test_what_holds_the_group_in_a_cycle_is_gone_before_the_group_is() -> None:
    """Seen once, after a training of two processes had ended well: "terminate called without an active exception"."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    parallel = DistributedDataParallel(torch.nn.Linear(2, 2))
    parallel.__dict__["trainer"] = SimpleNamespace(model=parallel)  # a cycle, as of a trainer
    held = weakref.ref(parallel)
    gc.disable()
    try:
        del parallel
        meeting._leave()
    finally:
        gc.enable()
    assert held() is None
    assert not distributed.is_initialized()


def test_processes_without_a_local_rank_are_several_for_accelerate_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some clusters say RANK and WORLD_SIZE alone: on GPUs each process was a training of its own, in one folder."""
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOCAL_RANK", "")
    monkeypatch.delenv("LOCAL_RANK")  # so that what is set now is undone afterwards
    have(monkeypatch, 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    meeting.meet()
    found = PartialState._prepare_backend(object.__new__(PartialState), cpu=False, sagemaker_dp=False, backend=None)
    assert found == ("nccl", DistributedType.MULTI_GPU)


@pytest.mark.parametrize(
    "said",
    [
        {"LOCAL_RANK": "0"},
        {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"},
        {"WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"},
        {"PMI_SIZE": "4", "PMI_RANK": "0"},
        {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"},
    ],
)
@pytest.mark.parametrize("cpu", [True, False])
def test_one_process_is_alone_for_accelerate_too(
    monkeypatch: pytest.MonkeyPatch, said: dict[str, str], cpu: bool
) -> None:
    """Scripts of clusters, srun and mpirun say so much: a training waited for ever, or ended with a traceback."""
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: not cpu)
    meeting.meet()
    found = PartialState._prepare_backend(object.__new__(PartialState), cpu=cpu, sagemaker_dp=False, backend=None)
    assert found == (None, DistributedType.NO)
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # so that what is set now is undone afterwards
        if not os.environ[name]:
            monkeypatch.delenv(name)
    processes.join_alone()
    assert processes.share() == processes.ALL


def test_a_job_of_one_task_is_told_all_that_deepspeed_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clusters set RANK=0 and WORLD_SIZE=1 for it; DeepSpeed then asked MPI for the rest, with a traceback."""
    for name in ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("MASTER_PORT", "12345")
    processes.join_alone()
    assert {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"} <= os.environ.keys()
    assert os.environ["MASTER_PORT"] == "12345"  # as the cluster has said
