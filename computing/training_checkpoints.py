"""The checkpoints in the folder of a training of either stage: from which one it goes on, and which are kept.

Ours are called `checkpoint-STEP`; whatever else lies there, `checkpoint-best` too, is not touched.
"""

from __future__ import annotations

import fcntl
import re
import shutil
import sys
import zipfile
import zlib
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError
from transformers import TrainerState
from transformers.trainer import (
    OPTIMIZER_NAME,
    SCALER_NAME,
    SCHEDULER_NAME,
    TRAINER_STATE_NAME,
    TRAINING_ARGS_NAME,
)

from computing.meeting import gather, wait_for_others
from operating_room.errors import UserError
from operating_room.files.atomic import require_folder
from operating_room.files.locks import BUSY
from operating_room.files.raw_files import brief, read_bytes, visible
from operating_room.files.readers import parse_yaml, read_json
from operating_room.files.tensors import read_safetensors, require_stored
from operating_room.work.processes import is_first, machines, processes_here, share

CHECKPOINT = "checkpoint-"
_OF_WRITERS = ("Writer", "inline_container", "iostream")  # torch's writer of files has no exception of its own
_LATEST = "latest"  # DeepSpeed's file that names the folder of its own
_LOCK = ".lock"


@dataclass(frozen=True)
class Found:
    """The newest checkpoint that is whole, and what is wrong with newer ones, a line each."""

    path: Path | None = None
    left_out: list[str] = field(default_factory=list)


def numbered_checkpoints(out: Path) -> list[Path]:
    """The folders `checkpoint-STEP`, newest first."""
    found = [path for path in out.glob(f"{CHECKPOINT}*") if path.is_dir() and step_of(path) is not None]
    return sorted(found, key=lambda path: step_of(path) or 0, reverse=True)


def step_of(path: Path) -> int | None:
    """The number in the name of a checkpoint's folder; None if it is called otherwise."""
    number = path.name.removeprefix(CHECKPOINT)
    return int(number) if number != path.name and number.isascii() and number.isdigit() else None


def find_checkpoint(
    out: Path,
    deepspeed: bool = False,
    same_processes: bool = True,
    processes: int | None = None,
    lacks: Callable[[Path], str | None] = lambda _: None,
) -> Found:
    """The newest checkpoint in a folder that was written to its end, by every process, and is not damaged.

    Args:
        out: the folder of the training.
        deepspeed: whether DeepSpeed trains.
        same_processes: whether only as many processes can go on, since what is random belongs to each of them.
        processes: that would go on; None: those of this start.
        lacks: says what else is wrong with a checkpoint, if anything.

    Raises:
        UserError: there are checkpoints, but none that this training can go on from.
    """
    found = Found()
    reason = None
    for path in numbered_checkpoints(out):
        if _is_half_written(path):
            found.left_out.append(f"{path}: was not written to its end; left out")
            continue
        many = share().processes if processes is None else processes
        fault = _fault(path, deepspeed, same_processes, many) or lacks(path)
        if fault is None:
            return Found(path, found.left_out)
        reason = reason or fault
        found.left_out.append(f"{fault}; left out")
    if reason is not None:
        raise UserError(f"{reason}; no other checkpoint is whole: remove them to begin anew, or choose another folder")
    return found


def require_same_checkpoint(checkpoint: Path | None) -> None:
    """Before a training goes on: each process has looked for itself, where machines have disks of their own.

    All processes must call it, after they have met for the training.

    Raises:
        UserError: not all have found the same checkpoint, or none.
    """
    found = gather(None if checkpoint is None else checkpoint.name)
    newest = max(found, key=lambda name: -1 if name is None else step_of(Path(name)) or 0)
    if lacking := [rank for rank, name in enumerate(found) if name != newest]:
        raise UserError(
            f"{newest}: process {lacking[0]} does not find it whole on its disk; copy it to the same folder of every "
            "machine, or give a folder that all of them share"
        )


@contextmanager
def only_training_in(out: Path) -> Generator[None]:
    """Keep other trainings out of a folder: one that begins takes away what it finds half written.

    Of several processes the first one does. Those that read samples do not have the lock: they may live for seconds
    after a killed training. A folder that is made for this, and into which nothing comes, is removed.

    Raises:
        UserError: another one is running there, or the folder cannot be written.
    """
    if not is_first():
        yield
        return
    require_folder(out)
    is_new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    path = out / _LOCK
    with path.open("ab") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in BUSY:
                told = "another training is running in this folder; wait for it, end it or choose another folder"
                raise UserError(f"{out}: {told}") from error
            told = f"cannot be locked ({error.strerror}); start no second training in this folder"
            print(f"{out}: {told}", file=sys.stderr)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            if is_new:
                with suppress(OSError):
                    out.rmdir()


def require_begun(out: Path, mark: str) -> None:
    """Where no checkpoint is whole, others are cleared only if a training of ours has begun there, which leaves `mark`.

    Of another program, or copied without its state, such a folder may be all that somebody has of a model.

    Raises:
        UserError: there is some, and none has.
    """
    strange = next((path for path in numbered_checkpoints(out) if _is_half_written(path)), None)
    if strange is not None and not (out / mark).is_file():
        told = f"{strange}: is no whole checkpoint, and no training of this program has begun in {out} (no {mark})"
        raise UserError(f"{told}; move it away, or choose another folder")


def remove_half_written(out: Path) -> None:
    """Clear what killed trainings have left behind."""
    for path in numbered_checkpoints(out):
        if _is_half_written(path):
            shutil.rmtree(path, ignore_errors=True)


def keep_newest(out: Path, count: int, step: int) -> None:
    """Remove all but the newest checkpoints up to the one of `step`, which was written now.

    What has a higher number was damaged when the training went on from one before: it takes no place from whole ones.
    All processes must call it. Each machine's first one removes, once all have written: without a shared disk the
    others have parts of each checkpoint, those of DeepSpeed as large as the model.
    """
    wait_for_others()
    if share().local_rank:
        return
    reached = [path for path in numbered_checkpoints(out) if (step_of(path) or 0) <= step]
    for path in reached[count:]:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def written_or_removed(path: Path) -> Generator[None]:
    """Say in one line that a checkpoint cannot be written, and take away what there is of it.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    try:
        yield
        # Others come here while the first one is still writing, under hidden names.
        for weights in visible(path.glob("*.safetensors")) if is_first() else ():
            require_stored(weights)
    except (OSError, RuntimeError, SafetensorError, UserError) as error:
        if isinstance(error, RuntimeError) and not any(word in str(error) for word in _OF_WRITERS):
            raise
        shutil.rmtree(path, ignore_errors=True)
        if isinstance(error, UserError):
            raise
        reason = str(error).strip().split("\n")[0][:120]
        raise UserError(f"{path}: cannot be written ({reason}); check free space and permissions") from error


def last_state(out: Path) -> TrainerState | None:
    """How far the training in a folder had come, by its newest checkpoint that tells."""
    for path in numbered_checkpoints(out):
        with suppress(UserError):
            return read_state(path)
    return None


def _is_half_written(path: Path) -> bool:
    """Whether the training was stopped in the middle of it: the state is written last."""
    try:
        read_state(path)
    except UserError:
        return True
    return False


def read_state(path: Path) -> TrainerState:
    """What Trainer has written about a checkpoint.

    Raises:
        UserError: it is missing or damaged.
    """
    file = path / TRAINER_STATE_NAME
    try:
        # With its own reader: a gradient that overflows, as it may in float16, stands there as Infinity or NaN.
        state = TrainerState.load_from_json(str(file))
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{file}: is missing or damaged ({brief(error)})") from error
    if not isinstance(state.global_step, int) or not isinstance(state.epoch, (int, float, type(None))):
        raise UserError(f"{file}: is damaged (it names no step)")
    return state


def _fault(path: Path, deepspeed: bool, same_processes: bool, processes: int) -> str | None:
    """What is wrong with a checkpoint, if anything."""
    states = ["rng_state.pth"] if processes == 1 else [f"rng_state_{rank}.pth" for rank in range(processes)]
    there = {file.name for file in path.glob("rng_state*.pth")}
    if not same_processes:
        states = [state for state in states if state in there]
    elif processes == share().processes and machines() > 1 and there == _states_of_this_machine():
        states = sorted(there)  # those of the others lie on the disks of their machines
    elif there and there != set(states):  # more, too: half of the processes would look at the samples in other steps
        lacking = [state for state in states if state not in there]
        ended = f" (or one was ended before it had written {', '.join(lacking)})" if there < set(states) else ""
        return f"{path}: is of another number of processes than {processes}; use as many{ended}"
    if deepspeed != (path / _LATEST).is_file():
        return f"{path}: is of a training {'without' if deepspeed else 'with'} DeepSpeed, this one is not"
    weights = visible([*path.glob("*.safetensors"), *path.glob("*.bin")])
    weights = [file for file in weights if file.name != TRAINING_ARGS_NAME]
    if not weights:
        return f"{path}: holds no weights"
    pickles = [path / state for state in states] + [file for file in weights if file.suffix == ".bin"]
    pickles += [*path.glob(SCALER_NAME), path / SCHEDULER_NAME]  # the first of float16 only
    try:
        pickles += _of_deepspeed(path, processes) if deepspeed else [path / OPTIMIZER_NAME]
        for file in weights:
            if file.suffix == ".safetensors":
                read_safetensors(file)
        # Of model, tokenizer and domain; a power cut leaves small files empty.
        for file in visible(path.glob("*.json")):
            if file.name != TRAINER_STATE_NAME:
                read_json(file)
        for file in visible(path.glob("*.yaml")):
            parse_yaml(read_bytes(file), str(file))
    except UserError as error:
        return str(error)
    return next((fault for file in pickles if (fault := _fault_of_pickle(file)) is not None), None)


def _states_of_this_machine() -> set[str]:
    """What is random of the processes of this start that run here, each in a file."""
    first = share().rank - share().local_rank
    return {f"rng_state_{rank}.pth" for rank in range(first, first + processes_here())}


def _of_deepspeed(path: Path, processes: int) -> list[Path]:
    """What DeepSpeed writes, as far as it is needed: the weights, and each process's part of the optimiser.

    Raises:
        UserError: the file that names the folder of these is damaged.
    """
    name = read_bytes(path / _LATEST).decode("utf-8", "replace").strip()
    if re.fullmatch(r"\w+", name, re.ASCII) is None:
        raise UserError(f"{path / _LATEST}: is damaged (it names no folder)")
    folder = path / name
    found = sorted(visible(folder.glob("*optim_states.pt")))
    missing = [folder / f"optim_states.pt of process {rank}" for rank in range(len(found), processes)]
    return [*(sorted(visible(folder.glob("*model_states.pt"))) or [folder / "model_states.pt"]), *found, *missing]


def _fault_of_pickle(path: Path) -> str | None:
    """What is wrong with a file that torch saved: it is a zip archive, whose parts have checksums."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except FileNotFoundError:
        return f"{path}: is missing"
    except (OSError, zipfile.BadZipFile, zlib.error, ValueError, NotImplementedError, EOFError, RuntimeError) as error:
        return f"{path}: damaged ({error})"
    return None if damaged is None else f"{path}: damaged ({damaged} has another checksum)"
