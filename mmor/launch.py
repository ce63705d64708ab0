"""Start a command of this program once per GPU, on one machine or several."""

from __future__ import annotations

import logging
import os
import sys
from datetime import timedelta

from computing.machine import gpus
from operating_room.errors import UserError
from operating_room.work.processes import cpu_threads, is_started


def start_processes(per_machine: int, machines: int = 1, machine: int = 0, url: str = "auto") -> None:
    """Run the present command line in `per_machine` processes on each machine, and return when all are done.

    If one fails, this process ends with its exit code.

    Args:
        per_machine: GPUs to use on this machine; without a GPU, processes on the CPU.
        machines: on each the same command is started, with its own `machine`.
        machine: number of this one, from 0.
        url: `tcp://HOST:PORT` of machine 0, which all machines reach; "auto" on a single machine.

    Raises:
        UserError: there are fewer GPUs, or several machines without an address.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    found = len(gpus())
    if 0 < found < per_machine:
        raise UserError(f"{per_machine} GPUs were asked for, this machine has {found}; ask for fewer")
    if machines > 1 and not url.startswith("tcp://"):
        raise UserError(f"--num-machines {machines} needs --dist-url tcp://HOST:PORT of the first machine")
    if not 0 <= machine < machines:
        raise UserError(f"--machine-rank {machine}: of {machines} machines it is 0 to {machines - 1}")
    os.environ.setdefault("OMP_NUM_THREADS", "1" if found else str(max(1, cpu_threads() // per_machine)))
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the processes say what is wrong
    config = LaunchConfig(
        min_nodes=machines,
        max_nodes=machines,
        nproc_per_node=per_machine,
        run_id="mmor",
        rdzv_backend="static" if machines > 1 else "c10d",
        rdzv_endpoint=url.removeprefix("tcp://") if machines > 1 else "localhost:0",  # any free port
        rdzv_configs={"rank": machine, "timeout": 900},
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "mmor.cli", *sys.argv[1:])
    except ChildFailedError as error:
        _, first = error.get_first_failure()
        raise SystemExit(abs(first.exitcode) or 1) from None


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
