"""What a number was computed with: version of the code, annotations, input files. No version control is needed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from hashlib import file_digest, sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from operating_room.errors import UserError
from operating_room.files.raw_files import read_bytes, visible
from operating_room.graphs.scene_graph import Sample
from operating_room.recordings.dataset import Dataset
from operating_room.work.progress import track

_SMALL = 1 << 14  # bytes of a file whose size tells little
PACKAGES = ("operating_room", "computing", "panoptic_segmentation", "scene_graph_generation", "mmor")


def installed_version() -> str:
    """Of mmor; a checkout that is only on the path has none."""
    try:
        return version("mmor")
    except PackageNotFoundError:
        return "not installed"


def code_version() -> dict[str, str]:
    """The installed version of mmor, and a fingerprint of its source files."""
    root = Path(__file__).parents[2]
    files = sorted(visible(path for package in PACKAGES for path in (root / package).rglob("*.py")))
    source = fingerprint(f"{path.relative_to(root)}\n{path.read_text('utf-8')}" for path in files)
    return {"mmor": installed_version(), "source": source}


def annotations_fingerprint(samples: Iterable[Sample]) -> str:
    """Of the true graphs of these samples."""
    return fingerprint(f"{sample.sample_id} {sorted(sample.triplets)}" for sample in samples)


def source_fingerprint(*patterns: str) -> str:
    """Of some of our source files (patterns from the root of the packages): what they make may differ once they do."""
    root = Path(__file__).parents[2]
    found = {pattern: sorted(visible(root.glob(pattern))) for pattern in patterns}
    if empty := [pattern for pattern in patterns if not found[pattern]]:
        raise FileNotFoundError(f"no source file {empty[0]} below {root}")
    files = [path for pattern in patterns for path in found[pattern]]
    return fingerprint(f"{path.relative_to(root)}\n{path.read_text('utf-8')}" for path in files)


def stamp(path: Path) -> str:
    """Size and time of a file, which tell whether its content is still the same without reading it.

    Raises:
        UserError: there is no such file, as at the end of a link that leads nowhere.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    return f"{stat.st_size} {stat.st_mtime_ns}"


def content_fingerprint(paths: Iterable[Path]) -> str:
    """Of the names and contents of files: the same after a copy, another one after any change, whatever its date says.

    Raises:
        UserError: one of them is not there or cannot be read.
    """

    def told() -> Iterator[str]:
        for path in paths:
            try:
                with path.open("rb") as file:
                    yield f"{path.name} {file_digest(file, 'sha256').hexdigest()}"
            except OSError as error:
                raise _unreadable(path, error) from error

    return fingerprint(told())


def _unreadable(path: Path, error: OSError) -> UserError:
    # Of a folder that is closed to this user, pathlib would raise once more.
    lost = os.path.islink(path) and not os.path.exists(path)
    told = "is a link to a file that is not there" if lost else f"cannot be read ({error.strerror})"
    return UserError(f"{path}: {told}; copy or link it again")


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def inputs_fingerprint(dataset: Dataset, samples: Sequence[Sample]) -> str:
    """Of the names and sizes of all files of these timepoints (their content is not read); a link to nothing has none.

    Raises:
        UserError: a take or timepoint is not on disk.
    """
    timepoints = (
        dataset.take(dataset.domain.find_take(sample.take_name)).timepoint(sample.frame_id)
        for sample in track(samples, "sizes of what is shown")
    )
    return fingerprint(
        f"{path.relative_to(dataset.root)} {_size(path)}"
        for timepoint in timepoints
        for _, _, path in timepoint.files_by_camera()
    )


def _told(path: Path) -> str | None:
    """The size of a file, of a small one its content; a link to nothing has neither."""
    size = _size(path)
    return str(size) if size is None or size > _SMALL else sha256(read_bytes(path)).hexdigest()


def shown_fingerprint(dataset: Dataset, samples: Sequence[Sample]) -> str:
    """As `inputs_fingerprint`, with the content of small files, what files of whole takes say, and the cameras shown.

    What a model has answered holds as long as it is the same: all vectors of sound have one size. Times of files are
    not looked at, which a copy of the dataset changes.

    Raises:
        UserError: a take or timepoint is not on disk.
    """

    def told() -> Iterator[str]:
        yield dataset.domain.digest
        for sample in track(samples, "content of what is shown"):
            timepoint = dataset.take(dataset.domain.find_take(sample.take_name)).timepoint(sample.frame_id)
            yield f"{timepoint.collection.slots} {timepoint.records}"
            for _, _, path in timepoint.files_by_camera():
                yield f"{path.relative_to(dataset.root)} {_told(path)}"

    return fingerprint(told())


def fingerprint(texts: Iterable[str]) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of the texts."""
    digest = sha256()
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()[:16]
