"""The processes that a command runs in, and the processors that it may use; asks no GPU (see `computing.machine`)."""

from __future__ import annotations

import math
import os
import re
import resource
import signal
import socket
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

from operating_room.errors import UserError
from operating_room.work.containers import memory_limits, processor_limits


class Share(NamedTuple):
    """Which of how many processes this is, over all machines and on this one."""

    rank: int = 0
    processes: int = 1
    local_rank: int = 0
    together: bool = True  # they run at the same time and can wait for each other; the jobs of an array do not

    @property
    def is_whole(self) -> bool:
        """Whether the work is not divided: this process does all of it."""
        return self.processes == 1 and self.together


ALL = Share()
# By these accelerate knows that there are others; MPI's and srun's ways of saying so, too.
_OF_OTHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
# How srun and MPI tell a process how many they have started, and which of them it is. In the script of a job and after
# salloc, where a command runs once however many tasks were asked for, SLURM_NTASKS is there but not the first of these.
_TASKS = (
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("PMI_SIZE", "PMI_RANK"),
    ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
)


class Tasks(NamedTuple):
    """Processes that srun or mpirun has started, and that know nothing of each other."""

    told: str
    is_first: bool  # this one, which speaks for all


def share() -> Share:
    """This process's place among those that torchrun, DeepSpeed or `--gpus` has started; alone without them.

    Raises:
        UserError: the environment variables of such a start contradict each other.
    """
    if not is_started():
        return Share()
    found = {name: os.environ.get(name, "0") for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    try:
        rank, processes, local = (int(value) for value in found.values())
    except ValueError:
        rank, processes, local = -1, 0, 0
    if not 0 <= rank < processes or local < 0:
        told = ", ".join(f"{name}={value}" for name, value in found.items())
        raise UserError(f"the environment has {told}, which is no place among several processes; start with torchrun")
    return Share(rank, processes, local)


def array_share(part: str) -> Share:
    """The place of one of several jobs that do not know of each other, such as an array of a cluster.

    Args:
        part: `3/8` is the third of eight.

    Raises:
        UserError: it has another form.
    """
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", part)
    number, jobs = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= number <= jobs:
        raise UserError(f"--part {part}: write I/N, where I is 1 to N: --part 3/8 is the third of eight")
    return Share(number - 1, jobs, together=False)


def deal(loads: Sequence[int], share: Share) -> list[int]:
    """Which items are this process's, in their order: the heaviest goes first, each to whom has least so far."""
    dealt = [0] * share.processes
    own = []
    for item in sorted(range(len(loads)), key=lambda item: -loads[item]):
        process = dealt.index(min(dealt))
        dealt[process] += loads[item]
        if process == share.rank:
            own.append(item)
    return sorted(own)


def is_started() -> bool:
    """Whether this process is one of several that were started together.

    Clusters set WORLD_SIZE=1, sometimes with RANK=0, for a job of one task: that alone is no start by torchrun.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return True
    return "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


def tasks_apart() -> Tasks | None:
    """What srun or mpirun says of several processes without saying who of them is RANK in WORLD_SIZE."""
    for of_all, of_this in _TASKS:
        tasks = os.environ.get(of_all, "")
        if tasks.isdecimal() and int(tasks) > 1 and not is_started():
            return Tasks(f"{tasks} tasks ({of_all}={tasks}, no RANK and WORLD_SIZE)", os.environ.get(of_this) == "0")
    return None


def forget_others() -> None:
    """Of a training that is alone: take away what srun, mpirun or the script of a cluster say of other processes.

    They do in jobs of one process, too, and accelerate would wait for processes that never come, or miss where to meet.
    """
    if not is_started():
        for name in _OF_OTHERS:
            os.environ.pop(name, None)


def join_alone() -> None:
    """What a launcher would say to the only process of a training; DeepSpeed asks MPI for it otherwise."""
    if is_started():
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in alone.items():
        os.environ.setdefault(name, value)  # a cluster may have said some of it


@contextmanager
def ended_as_by_ctrl_c() -> Generator[None]:
    """systemd, containers, clusters and closed terminals end a program so; Python would leave without clearing up."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    before = {number: does for number, does in before.items() if does != signal.SIG_IGN}  # as nohup has it
    for number in before:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, does in before.items():
            signal.signal(number, does)


def is_running(process: int) -> bool:
    """Whether a process of this host is still there."""
    import psutil

    return psutil.pid_exists(process)


def is_first() -> bool:
    """Whether this process is the only one or the first of several: the one that speaks."""
    return share().rank == 0


def cpu_threads() -> int:
    """Processors that this process may use: its affinity and the quota of its container count."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([count, *(math.ceil(limit) for limit in processor_limits())]))


def processes_here() -> int:
    """Processes of this start on this machine."""
    beside = os.environ.get("LOCAL_WORLD_SIZE", "1") if is_started() else "1"
    return max(1, int(beside) if beside.isdecimal() else 1)


def machines() -> int:
    """Of this start, each with as many processes."""
    return max(1, share().processes // processes_here())


def allow_open_files() -> None:
    """Let this process have as many files open as the system lets it have: 1024, the usual, are too few.

    Processes that read samples hand over each tensor as an open file. With a GPU all batches that are ready are taken
    from them at once, elsewhere those that are ready before a slow one: thousands of tensors.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS calls it unlimited and refuses that
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def own_threads() -> int:
    """Processors for this process where several of the same start divide those of the machine."""
    return max(1, cpu_threads() // processes_here())


def free_memory() -> int:
    """Bytes of main memory that can still be taken, where the limits of containers count."""
    import psutil

    free = psutil.virtual_memory().available
    return max(0, min([free, *(limit - used for limit, used in memory_limits())]))
