"""Where the processes of a start meet: they wait for each other, and say to each other what they have found.

torch is imported inside the functions that need it.
"""

from __future__ import annotations

import atexit
import gc
import os
import socket
import sys
from collections.abc import Generator
from contextlib import contextmanager
from threading import Timer
from typing import TypeVar

from computing.machine import PATIENCE, choose_device
from operating_room.errors import UserError
from operating_room.files.raw_files import brief
from operating_room.work import processes
from operating_room.work.processes import share

Value = TypeVar("Value")
ENDED = (
    "another process of this start has ended, by lack of memory perhaps; run the same command again: what has been "
    "done is kept"
)
APART = (
    "the processes of this start do not reach each other ({}): one has ended, or MASTER_ADDR and MASTER_PORT are not "
    "where they can meet; start them again"
)
WAITING = (
    "waiting for the other processes of this start ({} in all), which may have much to do; if one of them has failed, "
    "end this one, too: only torchrun would do that"
)
_UNTOLD_S = 300.0  # without a word, before the others are there


def meet() -> None:
    """Join the other processes of a training on CPUs: for these, transformers would wait half an hour at most.

    Where there are none, nothing in the environment tells of any afterwards.

    Raises:
        UserError: they were not started by a launcher that says where to meet, or cannot.
    """
    if share().processes == 1:
        processes.forget_others()
        return
    _require_place()
    # Where a cluster has not said it, each process on a GPU would be alone for accelerate: as many trainings.
    os.environ.setdefault("LOCAL_RANK", str(share().local_rank))
    if choose_device().type == "cpu":
        _say_threads()
        _join()


def _say_threads() -> None:
    """Where nobody knows how many cores there are, as in some containers: accelerate would divide that number."""
    import psutil
    import torch

    if psutil.cpu_count(logical=False) is None and "OMP_NUM_THREADS" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = str(processes.own_threads())
        torch.set_num_threads(processes.own_threads())


def wait_for_others() -> None:
    """Return when every process of this start has come here, however long one of them takes.

    Raises:
        UserError: they were not started by a launcher that says where to meet, or one of them has ended.
    """
    if share().processes == 1:
        return
    from torch import distributed

    with _meeting():
        distributed.barrier()


def gather(value: Value) -> list[Value]:
    """What each process of this start brings here, in their order; returns when all have come.

    Args:
        value: of this process; it can be pickled.

    Raises:
        UserError: see `wait_for_others`.
    """
    processes = share().processes
    if processes == 1:
        return [value]
    from torch import distributed

    brought = [value] * processes
    with _meeting():
        distributed.all_gather_object(brought, value)
    return brought


def from_first(value: Value) -> Value:
    """What the first process of this start says here; the others wait for it.

    Raises:
        UserError: see `wait_for_others`.
    """
    if share().processes == 1:
        return value
    from torch import distributed

    said = [value]
    with _meeting():
        distributed.broadcast_object_list(said, src=0)
    return said[0]


def require_one_format(own: str, advice: str) -> None:
    """All processes of a training compute in one number format; on a GPU that lacks it, "auto" takes another.

    Gradients that are scaled for float16 would be summed up with those that are not, without an error anywhere.

    Args:
        own: the format of this process.
        advice: what to do where they differ.

    Raises:
        UserError: they differ; every process is told.
    """
    found = gather(own)
    if any(other != found[0] for other in found):
        told = ", ".join(f"{name} (process {found.index(name)})" for name in dict.fromkeys(found))
        raise UserError(f"the GPUs of this start are of several kinds and would compute in {told}; {advice}")


def part() -> None:
    """After the last step of a training on GPUs, in every process: end the group that accelerate has begun for it.

    Left to the end of the program each process would warn of it, and might wait there for one that is gone. Not to be
    called after an error: NCCL would wait for all others, which are in the middle of a step.
    """
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized() and distributed.get_backend() == "nccl":
        distributed.destroy_process_group()


@contextmanager
def _meeting() -> Generator[None]:
    """Where processes talk to each other; one that has ended is told instead of what it does to a connection."""
    _join()
    try:
        yield
    except RuntimeError as error:  # NCCL, which begins here in a training on GPUs, also tells of other things
        raise UserError(ENDED if "gloo/transport" in str(error) else APART.format(brief(error))) from error


def _join() -> None:
    from torch import distributed

    if distributed.is_initialized():
        return
    _require_place()
    told = Timer(_UNTOLD_S, print, (WAITING.format(share().processes),), {"file": sys.stderr, "flush": True})
    told.daemon = True
    if "TORCHELASTIC_RUN_ID" not in os.environ:  # else torchrun would have ended this one, too
        told.start()
    try:
        distributed.init_process_group("gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise UserError(APART.format(brief(error))) from error
    finally:
        told.cancel()
    atexit.register(_leave)


def _require_place() -> None:
    """Somebody has said where the processes of this start meet."""
    place = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT", "")
    if not place[0] or not place[1].isdecimal():
        told = ", ".join(f"{name}={value or ''}" for name, value in zip(("MASTER_ADDR", "MASTER_PORT"), place))
        raise UserError(f"RANK and WORLD_SIZE are set, but not where processes meet ({told}); start with torchrun")
    if processes.processes_here() == share().processes:
        try:
            socket.getaddrinfo(place[0], int(place[1]))
        except socket.gaierror:
            # `torchrun --standalone` names this machine; where nobody knows that name they would wait for ever.
            os.environ["MASTER_ADDR"] = "127.0.0.1"


def _leave() -> None:
    """End the threads of the group, which would else be ended by C++, and the process with them."""
    from torch import distributed

    if distributed.is_initialized():
        gc.collect()  # a trainer's model holds the group, in a cycle, until the interpreter is half gone
        distributed.destroy_process_group()
