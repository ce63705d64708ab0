"""What this machine has: versions, GPUs, extras and what each is for, memory, disk, data."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from computing.machine import Gpu, free_memory, gpus, total_memory
from operating_room.errors import UserError
from operating_room.recordings.dataset import Dataset
from operating_room.work.processes import cpu_threads

_PACKAGES = ("mmor", "torch", "transformers", "accelerate", "peft", "safetensors", "numpy")
_EXTRAS = {  # package -> (extra, what it is for)
    "bitsandbytes": (
        "quant",
        "4 bits: the published scene-graph training on a GPU of 48 GB, inference on one of 12 GB",
    ),
    "deepspeed": ("deepspeed", "--deepspeed of the published scene-graph training: optimiser shared by several GPUs"),
    "wandb": ("wandb", "--report_to wandb: following a training in a browser"),
    "faster-whisper": ("asr", "transcripts from sound; the published transcripts need none"),
    "h5py": ("egoexor", "import of EgoExOR's files; nothing else needs it"),
    "spconv": ("spconv", "faster point clouds on a GPU; plain PyTorch gives the same"),
    "flash-attn": ("flash", "faster point clouds on a GPU; plain PyTorch gives the same"),
}


@dataclass(frozen=True)
class Extra:
    """An optional package."""

    package: str
    version: str | None  # None: not installed
    extra: str
    purpose: str


@dataclass(frozen=True)
class Environment:
    """This machine as the software sees it."""

    system: str
    python: str
    versions: dict[str, str]
    cuda: str | None  # that torch was built for
    gpus: list[Gpu]
    extras: list[Extra]
    processors: int
    memory: int  # bytes
    free_memory: int
    free_disk: int  # bytes, where the command runs
    data: str  # one line about the data folder


def look(data: Path) -> Environment:
    """Look at this machine."""
    return Environment(
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        versions={name: _version(name) or "not installed" for name in _PACKAGES},
        cuda=torch.version.cuda or torch.version.hip,
        gpus=gpus(),
        extras=[Extra(name, _extra_version(name), extra, what) for name, (extra, what) in _EXTRAS.items()],
        processors=cpu_threads(),
        memory=total_memory(),
        free_memory=free_memory(),
        free_disk=shutil.disk_usage(Path.cwd()).free,
        data=_data(data),
    )


def lines(found: Environment) -> list[str]:
    """The environment for people."""
    told = [
        f"{found.system}, Python {found.python}",
        ", ".join(f"{name} {number}" for name, number in found.versions.items()),
        f"{found.processors} processors, {found.memory / 1e9:.1f} GB of memory ({found.free_memory / 1e9:.1f} free), "
        f"{found.free_disk / 1e9:.0f} GB of disk free",
    ]
    for gpu in found.gpus:
        formats = "bfloat16, float16" if gpu.bfloat16 else "float16 only"
        told.append(f"GPU {gpu.index}: {gpu.name}, {gpu.memory / 1e9:.1f} GB, {formats}")
    if not found.gpus:
        built = f"torch is built for CUDA {found.cuda}" if found.cuda else "torch is a build for the CPU"
        told.append(f"no GPU ({built})")
    for extra in found.extras:
        state = extra.version or f'not installed, pip install "mmor[{extra.extra}]"'
        told.append(f"{extra.package}: {state} ({extra.purpose})")
    if offline := os.environ.get("HF_HUB_OFFLINE"):
        told.append(f"HF_HUB_OFFLINE={offline}: nothing is fetched from the model hub")
    return [*told, f"data: {found.data}"]


def _data(folder: Path) -> str:
    try:
        takes = Dataset(folder).takes()
    except UserError as error:
        return str(error)
    return f"{folder.resolve()}: {len(takes)} takes; mmor data check {folder} says what is in them"


def _version(package: str) -> str | None:
    if package == "torch":
        return torch.__version__  # with the build (+cpu, +cu130), which what pip wrote down may lack
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _extra_version(package: str) -> str | None:
    """spconv's name carries the version of CUDA."""
    names = (
        (package, *(f"{package}-cu{number}" for number in ("126", "124", "121", "120", "118")))
        if (package == "spconv")
        else (package,)
    )
    return next((found for name in names if (found := _version(name))), None)
