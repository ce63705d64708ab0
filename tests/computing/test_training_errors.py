"""What trainings say when they cannot go on."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from torch.distributed import DistBackendError, DistNetworkError

from computing.training_errors import one_line_errors
from operating_room.errors import UserError

_KILLED = "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that it is out of shared memory."

_CLOSED = "[/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:25472. Check the logs."


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (UserError("Caught UserError in worker 0.\nTraceback:\n  File x\nerrors.UserError: a.png: damaged"), "a.png: "),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."),
            r"full \(CUDA out of memory\); .*SIZE",
        ),
        (
            RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported at some other call."),
            r"full \(CUDA error: out of memory\); .*SIZE",
        ),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            r"full \(CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate\(handle\)`\); .*SIZE",
        ),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
            r"full \(CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate\(handle\)`\); .*SIZE",
        ),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), r"full \(cuDNN error: .*SIZE"),
        (
            RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
            r"full \(cuDNN error: .*SIZE",
        ),
        (RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"), r"full \(cuFFT error: .*SIZE"),
        (
            DistBackendError(
                "NCCL error in: ProcessGroupNCCL.cpp:3356, unhandled cuda error, NCCL version 2.27.5\n"
                "ncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\nCuda failure 2 'out of memory'"
            ),
            r"full \(NCCL error in: ProcessGroupNCCL.*SIZE",
        ),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried "
                "to allocate 11258999068 bytes. Error code 12 (Cannot allocate memory)"
            ),
            r"^main memory is full \(can't allocate memory: you tried to allocate 11258999068 bytes\); .*SIZE",
        ),
        (OSError(errno.ENOSPC, "No space left on device", "out/log.jsonl"), "out/log.jsonl: No space left"),
        (OSError("Too many open files"), "^out: Too many open files"),
        (RuntimeError(_CLOSED), "^another process of this start has ended"),
        (
            DistBackendError("NCCL communicator was aborted on rank 1."),
            r"\(NCCL .* aborted on rank 1\.\): one has ended",
        ),
        (
            DistBackendError(
                "NCCL error: invalid usage\nDuplicate GPU detected : rank 1 and rank 0 both on CUDA device"
            ),
            r"do not reach each other \(NCCL error: invalid usage Duplicate GPU detected",
        ),
        (
            DistNetworkError("The server socket has failed to listen. port: 29500, message: address already in use"),
            r"do not reach each other \(.*address already in use\).*MASTER_PORT",
        ),
        (RuntimeError(_KILLED), "--shm-size.*lower READERS"),
        (RuntimeError("received 0 items of ancdata"), r"files open; .*ulimit -n\) or lower READERS"),
        (
            RuntimeError("Pin memory thread exited unexpectedly"),
            r"perhaps they .* files open \(ulimit -n\), or one was killed, by .* memory .*--shm-size.*lower READERS",
        ),
    ],
)
def test_what_a_user_can_mend_is_one_line(error: Exception, told: str) -> None:
    with pytest.raises(UserError, match=told) as caught, one_line_errors(Path("out"), "lower SIZE", "READERS"):
        raise error
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_a_fault_of_the_program_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="CUDA error: device-side assert"), one_line_errors(Path(), "", ""):
        raise RuntimeError("CUDA error: device-side assert triggered")
