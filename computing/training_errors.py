"""What both trainings say when they cannot go on, in one line each."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from computing.machine import is_full, told_full
from computing.meeting import APART, ENDED
from computing.training_checkpoints import numbered_checkpoints
from operating_room.errors import UserError
from operating_room.files.raw_files import brief

_HANDED_OVER = ("ancdata", "Too many open files")  # a tensor without a file to come in
_TAKES_OVER = "Pin memory thread exited"  # by what, this error does not say
_SHARED = "of shared memory in a container (docker run --shm-size=8g)"


@contextmanager
def one_line_errors(out: Path, smaller: str, readers: str) -> Generator[None]:
    """Say what the machine could not do, and what a process that reads samples complained of.

    Args:
        out: the folder of the training.
        smaller: what to do where a step needs more memory than the GPU has.
        readers: the setting with the number of processes that read samples.

    Raises:
        UserError: whatever went wrong that a user can mend; a fault of the program is raised as it is.
    """
    try:
        yield
    except UserError as error:  # torch puts the traceback of the other process around it
        raise UserError(str(error).strip().rpartition("UserError: ")[2]) from error
    except OSError as error:
        reason = error.strerror or str(error).strip().split("\n")[0]
        raise UserError(f"{error.filename or out}: {reason}; check free space and permissions") from error
    except RuntimeError as error:
        if is_full(error):
            whose = "main" if "CPUAllocator" in str(error) else "the GPU's"
            told = f"{whose} memory is full ({told_full(error)}); see what --dry-run says: {smaller}"
            raise UserError(told) from error
        if (alone := _told_alone(error)) is not None:
            raise UserError(alone) from error
        if any(words in str(error) for words in _HANDED_OVER):
            told = "readers hand over more samples than this process may have files open"
            raise UserError(f"{told}; raise that number (ulimit -n) or lower {readers}") from error
        if _TAKES_OVER in str(error):
            told = "what takes samples over from the processes that read them has ended (why, may stand above)"
            files = "hand over more than this process may have files open (ulimit -n)"
            killed = f"or one was killed, by lack of memory or {_SHARED}"
            raise UserError(f"{told}: perhaps they {files}, {killed}; lower {readers}") from error
        if "DataLoader worker" not in str(error):
            raise
        told = "a process that reads samples was killed, by lack of memory perhaps, or"
        raise UserError(f"{told} {_SHARED}; lower {readers}") from error


def _told_alone(error: RuntimeError) -> str | None:
    """What to say where processes of one start have lost each other; None of any other error."""
    from torch import distributed

    if not distributed.is_available():
        return None
    if isinstance(error, distributed.DistError):  # NCCL's also tell of two processes on one GPU, or of no network
        return APART.format(brief(error))
    return ENDED if "gloo/transport" in str(error) else None


def diverged(out: Path, step: int, how: str, rate: str) -> UserError:
    """What to tell a user whose training has diverged.

    Args:
        out: the folder of the training.
        step: the one that is being done, from 1.
        how: it shows.
        rate: the setting of the learning rate.
    """
    kept = next(iter(numbered_checkpoints(out)), None)
    told = f"{out}: training diverged at step {step}: {how}; lower the learning rate ({rate}) and choose another folder"
    return UserError(told + (f"; {kept.name} is from before" if kept else ""))
