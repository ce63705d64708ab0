"""The machine that a command runs on: its devices, number formats, processors and memory.

The one file that asks for these. One process works on one GPU, or on the CPU if there is none: several GPUs are used by
several processes, which torchrun or `--gpus` starts. torch is imported inside the functions that need it.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from operating_room.errors import UserError
from operating_room.work import processes
from operating_room.work.containers import memory_limits
from operating_room.work.processes import share

if TYPE_CHECKING:
    import torch
    from transformers import TrainingArguments

_ON_CPU = "DefaultCPUAllocator: "
_FULL = (  # by others
    *("error: out of memory", "'out of memory'", _ON_CPU),  # the second is NCCL's
    *("_STATUS_ALLOC_FAILED", "ALLOCATION_FAILED", "CUFFT_ALLOC_FAILED"),  # cuBLAS and cuDNN, cuDNN 9, cuFFT
    "CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate",  # for which there was no room
)
PATIENCE = timedelta(days=30)  # of a process that waits for others; torchrun ends all when one fails


@dataclass(frozen=True)
class Gpu:
    """A GPU of this machine."""

    index: int
    name: str
    memory: int  # bytes in all
    capability: tuple[int, int]  # of CUDA; (9, 0) is Hopper
    bfloat16: bool  # in hardware


def gpus() -> list[Gpu]:
    """The GPUs that this process may use."""
    import torch

    found = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        capability = (properties.major, properties.minor)
        bfloat16 = torch.version.hip is not None or capability >= (8, 0)  # older ones only imitate it
        found.append(Gpu(index, properties.name, properties.total_memory, capability, bfloat16))
    return found


def require_gpus(wanted: int) -> None:
    """Each process has a GPU of its own; on a machine without any they share the processors.

    Raises:
        UserError: this machine has GPUs, but fewer.
    """
    if 0 < (found := len(gpus())) < wanted:
        raise UserError(f"{wanted} GPUs were asked for, this machine has {found}; ask for fewer")


def choose_device(wanted: str | None = None) -> torch.device:
    """The device of this process.

    Args:
        wanted: cpu, cuda (this process's GPU) or cuda:N; None is this process's GPU, or the CPU if there is none.

    Raises:
        UserError: there is no such device, or fewer GPUs than processes on this machine.
    """
    import torch

    if wanted == "cpu":
        return torch.device("cpu")
    count, other = len(gpus()), "choose another one, cpu always is"
    if wanted is None and not count:
        return torch.device("cpu")
    if wanted in (None, "cuda"):
        local = share().local_rank
        index = 0 if count == 1 else local  # some schedulers show each process only its own GPU, as number 0
        alone = f"process {local} of this machine has no GPU of its own; start as many processes as there are GPUs"
        reason = alone if count else other
    else:
        prefix, _, number = wanted.partition(":")
        index = int(number) if prefix == "cuda" and number.isdecimal() else -1
        reason = other
    if not 0 <= index < count:
        there = ", ".join(f"cuda:{gpu.index} {gpu.name}" for gpu in gpus()) or "none"
        raise UserError(f"device {wanted or 'cuda'}: cannot be used, the GPUs of this machine are: {there}; {reason}")
    return torch.device("cuda", index)


def leave_a_processor() -> None:
    """Compute on all processors but one, which is left to whoever works beside this process, such as a recorder.

    Threads that share their processors with others wait for the slowest of them at every step: two on two busy cores
    take several times as long as one.
    """
    import torch

    torch.set_num_threads(min(torch.get_num_threads(), max(1, processes.cpu_threads() - 1)))


def half_dtype(device: torch.device, wanted: str = "auto") -> torch.dtype:
    """The 16-bit format of a device: bfloat16 wherever the hardware has it, unless bfloat16 or float16 is wanted.

    Raises:
        UserError: the device lacks the format that is wanted.
    """
    import torch

    has_bfloat16 = device.type != "cuda" or gpus()[device.index or 0].bfloat16
    if wanted == "bfloat16" and not has_bfloat16:
        name = gpus()[device.index or 0].name
        raise UserError(f"{name} has no bfloat16; choose float16 or float32 (--dtype, --bf16 False, SOLVER.AMP.DTYPE)")
    if wanted == "float16" and device.type == "cpu":
        raise UserError("float16 needs a GPU; choose bfloat16 or float32 on a CPU")
    return torch.bfloat16 if has_bfloat16 and wanted != "float16" else torch.float16


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """Products and convolutions in `dtype`; None leaves all as it is."""
    import torch

    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def allow_tf32() -> None:
    """Float32 products on tensor cores (10 bits of mantissa); without effect on GPUs that have none and on a CPU."""
    import torch

    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")


def trainer_options(mixed: str) -> dict[str, Any]:
    """What transformers' TrainingArguments must be told of this machine.

    Args:
        mixed: "no", or the format of autocast: bfloat16, float16, or "auto", which is the best of the GPU,
            and float32 on a CPU, few of which are faster with less.

    Raises:
        UserError: the device lacks the format.
    """
    import torch

    device = choose_device()
    on_gpu = device.type == "cuda"
    if on_gpu and device.index != share().local_rank:  # accelerate would give DistributedDataParallel the latter
        os.environ["ACCELERATE_BYPASS_DEVICE_MAP"] = "true"
    dtype = None if mixed == "no" or (mixed == "auto" and not on_gpu) else half_dtype(device, mixed)
    return {
        "use_cpu": not on_gpu,
        "bf16": dtype == torch.bfloat16,
        "fp16": dtype == torch.float16,
        "ddp_backend": "gloo" if not on_gpu and share().processes > 1 else None,
        "dataloader_pin_memory": on_gpu,
        "ddp_timeout": int(PATIENCE.total_seconds()),
    }


def one_gpu(arguments: TrainingArguments) -> TrainingArguments:
    """Keep Trainer from splitting one process's batches over all GPUs of the machine (DataParallel)."""
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    return arguments


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Generator[None]:
    """Draw torch's own random numbers from `seed` inside, and go on outside as if nothing had been drawn.

    Args:
        device: where else than on the CPU numbers are drawn. Other GPUs are left alone: to ask one for its state would
            open a context on it in every process.
    """
    import torch

    on_gpu = device is not None and device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def random_state(device: torch.device) -> list[torch.Tensor]:
    """Where torch's own random numbers stand: on the CPU, and on a GPU, where other GPUs are left alone."""
    import torch

    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def go_on_randomly(states: Sequence[torch.Tensor], device: torch.device) -> None:
    """Go on from `random_state`; of another kind of device only the state of the CPU is known."""
    import torch

    torch.set_rng_state(states[0])
    if device.type == "cuda" and len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)


def free_memory(device: torch.device | None = None) -> int:
    """Bytes that can still be taken: of the GPU, or of main memory, where the limits of containers count."""
    if device is not None and device.type == "cuda":
        import torch

        # What torch keeps of tensors that are gone is free as well, for torch.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    return processes.free_memory()


def total_memory() -> int:
    """Bytes of main memory that this process could have at most: the machine's, or its container's."""
    import psutil

    return min([psutil.virtual_memory().total, *(limit for limit, _ in memory_limits())])


def is_full(error: RuntimeError) -> bool:
    """Whether a device had too little memory; only PyTorch's own allocator on a GPU has an exception for that."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _FULL)


def told_full(error: RuntimeError) -> str:
    """What PyTorch says of memory that is full, without its advice."""
    return str(error).strip().split("\n")[0].rpartition(_ON_CPU)[2].split(". ")[0]


def require_memory(needed: int, what: str, device: torch.device | None = None, advice: str = "") -> None:
    """Stop before something is begun that cannot end well.

    Args:
        needed: bytes.
        what: that needs them, the start of the message.
        advice: what to do instead, the end of the message.

    Raises:
        UserError: less is free.
    """
    free = free_memory(device)
    if needed > free:
        where = f"the GPU {device}" if device is not None and device.type == "cuda" else "this machine"
        told = f"{what} needs {needed / 1e9:.1f} GB, {where} has {free / 1e9:.1f} GB free"
        raise UserError(told + (f"; {advice}" if advice else ""))


@contextmanager
def watched_memory(device: torch.device) -> Generator[Callable[[], int]]:
    """Yield a function that says how many bytes more than at the start were taken at the worst moment so far.

    On a GPU that is counted by torch; in main memory it is sampled, so that a peak of some milliseconds can be missed.
    """
    import psutil
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield lambda: torch.cuda.max_memory_allocated(device) - before
        return
    process, done = psutil.Process(), Event()
    peak = before = process.memory_info().rss

    def sample() -> None:
        nonlocal peak
        while not done.wait(0.01):
            peak = max(peak, process.memory_info().rss)

    thread = Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield lambda: max(peak, process.memory_info().rss) - before
    finally:
        done.set()
        thread.join()


def wait_for(device: torch.device) -> None:
    """Return when the device has done all that it was given, so that a clock can be read."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def release_memory(device: torch.device) -> None:
    """Give back to the device what no tensor uses any more."""
    import torch

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
