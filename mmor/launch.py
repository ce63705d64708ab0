"""A command of this program in several processes: started once per GPU, on one machine or several, or as jobs."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from threading import Thread
from typing import TypeVar

from computing.machine import gpus, require_gpus
from computing.meeting import gather
from operating_room.errors import UserError
from operating_room.files.raw_files import brief
from operating_room.work.processes import Share, array_share, cpu_threads, is_started, share, tasks_apart

Result = TypeVar("Result")
_AGAIN = "run the same command again: what has been done is kept"


def divide(gpus: int, part: str | None = None, device: str | None = None) -> Share | None:
    """The share of this process in the work of a command; None if it has started others that have done it all.

    Args:
        gpus: processes to start, unless this is one of several already.
        part: `I/N` of an array of jobs.
        device: that was asked for.

    Raises:
        UserError: these contradict each other.
    """
    if part is not None:
        if gpus > 1 or is_started():
            raise UserError("--part is the work of one process; leave out --part, or --gpus and torchrun")
        return array_share(part)
    own = share()
    if ":" in (device or "") and max(gpus, own.processes) > 1:
        raise UserError(f"--device {device}: each of several processes has a GPU of its own; leave out --device")
    note_tasks("or give each a share with --part I/N")
    if gpus == 1 or is_started():
        return own
    start_processes(gpus)
    return None


def note_tasks(or_else: str = "") -> None:
    """Say that srun or mpirun has started this several times, where each of these does the whole work.

    That may be meant, with other arguments for each.
    """
    if (tasks := tasks_apart()) is not None and tasks.is_first:
        advice = f"to divide one work start it once, with --gpus or torchrun (docs/processes.md) {or_else}"
        print(f"note: each of {tasks.told} does all that it is told to do; {advice.rstrip()}", file=sys.stderr)


def do_share(own: Share, work: Callable[[], Result]) -> Result | None:
    """Do this process's share; what that gives where all of it is to be collected, else None.

    Of processes that run together the first one collects, once all have done theirs; jobs of an array do not.

    Args:
        own: share of this process.
        work: does it.

    Raises:
        UserError: a process could not do its share: told by the one that collects.
    """
    if own.is_whole:
        return work()
    if not own.together:
        work()
        return None
    result, problem = None, None
    try:
        result = work()
    except UserError as error:
        problem = str(error)
    problems = [told for told in gather(problem) if told is not None]
    if own.rank > 0:
        return None
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))
    return result


def check_machines(machines: int, machine: int, url: str) -> None:
    """What `start_processes` is asked for holds together.

    Raises:
        UserError: several machines have no address, or this one has no place among them.
    """
    place = re.fullmatch(r"tcp://.+:(\d{1,5})", url)
    if machines > 1 and (place is None or not 0 < int(place[1]) < 65536):
        raise UserError(f"--num-machines {machines} needs --dist-url tcp://HOST:PORT of the first machine")
    if not 0 <= machine < machines:
        places = f"0 to {machines - 1}" if machines > 1 else "0; give --num-machines on each"
        raise UserError(f"--machine-rank {machine}: of {machines} machines it is {places}")


def start_processes(per_machine: int, machines: int = 1, machine: int = 0, url: str = "auto") -> None:
    """Run the present command line in `per_machine` processes on each machine, and return when all are done.

    If one fails, this process ends with its exit code; after ctrl-C and other signals with the shell's code for these.

    Args:
        per_machine: GPUs to use on this machine; without a GPU, processes on the CPU.
        machines: on each the same command is started, with its own `machine`.
        machine: number of this one, from 0.
        url: `tcp://HOST:PORT` of machine 0, which all machines reach; "auto" on a single machine.

    Raises:
        UserError: there are fewer GPUs, or the machines cannot meet.
    """
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    require_gpus(per_machine)
    os.environ.setdefault("OMP_NUM_THREADS", "1" if gpus() else str(max(1, cpu_threads() // per_machine)))
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the processes say what is wrong
    listens = signal.getsignal(signal.SIGINT)
    if listens is signal.default_int_handler:  # which waits for torch while the machines meet, up to 15 minutes
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        config = LaunchConfig(
            min_nodes=machines,
            max_nodes=machines,
            nproc_per_node=per_machine,
            logs_specs=DefaultLogsSpecs(os.devnull),  # a folder would stay behind whenever this is ended from outside
            run_id="mmor",
            rdzv_backend="static" if machines > 1 else "c10d",
            rdzv_endpoint=url.removeprefix("tcp://") if machines > 1 else "localhost:0",  # any free port
            rdzv_configs={"rank": machine, "timeout": 900},
            # Else the processes meet under this machine's name, and wait for ever where nobody knows that.
            local_addr=None if machines > 1 else "localhost",
            max_restarts=0,
        )
        elastic_launch(config, sys.executable)("-m", "mmor.cli", *sys.argv[1:])
    except SignalException as error:
        print(f"error: interrupted (signal {int(error.sigval)}); {_AGAIN}", file=sys.stderr)
        raise SystemExit(128 + error.sigval) from None
    except DistError as error:
        told = f"the machines cannot meet there ({brief(error)})"
        raise UserError(f"--dist-url {url}: {told}; give a free port of machine 0, which all machines reach") from error
    except ChildFailedError as error:
        _, first = error.get_first_failure()
        if first.exitcode < 0:
            told = f"by lack of memory perhaps; {_AGAIN}"
            print(f"error: a process was ended from outside (signal {-first.exitcode}), {told}", file=sys.stderr)
        raise SystemExit(abs(first.exitcode) or 1) from None
    finally:
        signal.signal(signal.SIGINT, listens)


def follow_launcher() -> None:
    """Where what has started this process and others ends, end it, too: nobody else would, in a session of its own.

    Ctrl-C ends it at once, as SIGTERM does: on their way out processes in the middle of a step wait for each other.
    """
    if is_started() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(1)
    with suppress(OSError):  # nobody may be there to read it
        if share().rank == 0:
            told = "error: what has started this process and others was ended from outside, and they end with it"
            print(f"{told}; {_AGAIN}", file=sys.stderr, flush=True)
    os._exit(1)


def is_first_to_say(message: str) -> bool:
    """Whether no other process of this start has met the same mistake yet: all of them meet the user's.

    The launcher's own store counts, which outlives every process; without one, each process speaks.
    """
    if not is_started() or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return True
    from torch.distributed import TCPStore

    try:
        place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        return TCPStore(*place, is_master=False, timeout=timedelta(seconds=10)).add(f"said {message}", 1) == 1
    except (KeyError, ValueError, RuntimeError):
        return True
