"""What a number was computed with: version of the code, annotations, input files. No version control is needed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from operating_room.dataset import Dataset
from operating_room.scene_graph import Sample
from operating_room.takes import find_take

PACKAGES = ("operating_room", "panoptic_segmentation", "scene_graph_generation", "mmor")


def code_version() -> dict[str, str]:
    """The installed version of mmor, and a fingerprint of its source files."""
    root = Path(__file__).parents[1]
    files = sorted(path for package in PACKAGES for path in (root / package).rglob("*.py"))
    try:
        installed = version("mmor")
    except PackageNotFoundError:
        installed = "not installed"
    return {"mmor": installed, "source": fingerprint(f"{p.relative_to(root)}\n{p.read_text('utf-8')}" for p in files)}


def annotations_fingerprint(samples: Iterable[Sample]) -> str:
    """Of the true graphs of these samples."""
    return fingerprint(f"{sample.sample_id} {sorted(sample.triplets)}" for sample in samples)


def inputs_fingerprint(dataset: Dataset, samples: Sequence[Sample]) -> str:
    """Of the names and sizes of all files of these timepoints (their content is not read).

    Raises:
        UserError: a take or timepoint is not on disk.
    """
    timepoints = (dataset.take(find_take(sample.take_name)).timepoint(sample.frame_id) for sample in samples)
    return fingerprint(
        f"{path.relative_to(dataset.root)} {path.stat().st_size}"
        for timepoint in timepoints
        for _, path in timepoint.files()
    )


def fingerprint(texts: Iterable[str]) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of the texts."""
    digest = sha256()
    for text in texts:
        digest.update(text.encode("utf-8") + b"\0")
    return digest.hexdigest()[:16]
