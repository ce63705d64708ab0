"""Everything published that can be downloaded: where it is, where it goes, what it scores.

The repository's files are listed when they are asked for, not spelled here. Downloads resume, are checked against the
repository's checksum where it has one, and appear under their name only when they are whole.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import re
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from computing.hub import hub_errors
from operating_room.errors import UserError
from operating_room.files.atomic import clear_left, temporary_path
from operating_room.work.progress import track

REPOSITORY = "egeozsoy/MM-OR"
_VPQ = "paper, best of the three: MM-OR VPQ4 67.0, VPQ8 66.4; 4D-OR VPQ 71.8, VPQ4 69.8, VPQ8 69.2"
_F1 = "paper, all modalities: macro F1 0.529 on MM-OR (test), 0.901 on 4D-OR"
_BAD_ARCHIVE = (  # what zipfile and its decompressors raise, an encrypted member (RuntimeError) included
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, NotImplementedError, RuntimeError, ValueError, KeyError),
)
_STAGING = ".download-"  # and its name, below the target: what of an entry is not complete yet; several have one target


@dataclass(frozen=True)
class Published:
    """One thing that can be downloaded.

    `folder` and `pattern` (of the file name) choose its files in the repository. `target` is the folder they go to,
    seen from the place where `mmor` is run; None: the hub's own cache, where loading by name finds them.
    """

    name: str
    what: str
    repository: str = REPOSITORY
    folder: str = ""
    pattern: str = r".*"
    target: str | None = None
    size: str = "see list --files"
    metric: str = "none"


_BASE_FILES = r".*\.(json|safetensors|bin)|tokenizer\.model"
PUBLISHED = (
    Published(
        "segmenter-initial",
        "weights that segmenter training starts from (CTVIS on VIPSeg, Mask2Former zoo)",
        folder="panoptic_segmentation/mask2former",
        target="mask2former",
    ),
    *(
        Published(f"segmenter-{kind}", what, folder=folder, target=folder, metric=_VPQ)
        for kind, what, folder in (
            (
                "ctvis",
                "segmenter of single frames (CTVIS); its masks fed the paper's scene graphs",
                "output_CTVIS_R50_HybridOR_withsimstation",
            ),
            (
                "online",
                "segmenter with tracker (DVIS++ online)",
                "output_R50_HybridOR_temporal_online_withsimstation",
            ),
            (
                "offline",
                "segmenter with tracker and refiner (DVIS++ offline); looks into the future",
                "DVIS_Plus_Offline_R50_HybridOR_temporal_offline_52_reverseagu_withsimstation",
            ),
        )
    ),
    *(
        Published(
            f"scene-graph-{kind}", what, folder="checkpoints", pattern=pattern, target="checkpoints", metric=metric
        )
        for kind, what, pattern, metric in (
            ("base", "scene-graph model without memory", r"(?!.*(temporal|downstream)).*\.zip", _F1),
            ("temporal", "scene-graph model with memory", r"(?!.*downstream).*temporal.*\.zip", _F1),
            (
                "downstream",
                "answers of the three downstream tasks",
                r".*downstream.*\.zip",
                "not in the sources at hand",
            ),
        )
    ),
    Published(
        "llava-base",
        "language model that scene-graph models are fine-tuned from",
        repository="liuhaotian/llava-v1.5-7b",
        pattern=_BASE_FILES,
        size="about 13.5 GB",
    ),
    Published(
        "clip-base",
        "vision tower of the scene-graph models",
        repository="openai/clip-vit-large-patch14-336",
        pattern=_BASE_FILES,
        size="about 1.7 GB",
    ),
    Published(
        "clap-base",
        "audio encoder of the preprocessing",
        repository="laion/larger_clap_general",
        pattern=r".*\.(json|safetensors|bin|txt)",
        size="about 0.8 GB",
    ),
)


@dataclass(frozen=True)
class HubFile:
    """A file of a repository."""

    path: str
    size: int  # bytes
    sha256: str | None


def find_published(name: str) -> Published:
    """The entry of this name.

    Raises:
        UserError: there is none.
    """
    for entry in PUBLISHED:
        if entry.name == name:
            return entry
    raise UserError(f"{name}: nothing of this name is published; there are {', '.join(e.name for e in PUBLISHED)}")


def list_files(entry: Published) -> list[HubFile]:
    """Ask the hub which files belong to an entry.

    Raises:
        UserError: the hub cannot be reached, or has no such files any more.
    """
    import huggingface_hub

    with hub_errors(entry.repository):
        tree = list(huggingface_hub.HfApi().list_repo_tree(entry.repository, entry.folder or None, recursive=True))
    files = [
        HubFile(item.path, item.size, item.lfs.sha256 if item.lfs else None)
        for item in tree
        if isinstance(item, huggingface_hub.hf_api.RepoFile)
    ]
    chosen = [file for file in files if re.fullmatch(entry.pattern, PurePosixPath(file.path).name)]
    if not chosen:
        there = ", ".join(PurePosixPath(file.path).name for file in files[:5]) or "nothing"
        raise UserError(
            f"{entry.repository}/{entry.folder}: holds no file of {entry.name} any more (but {there}); "
            "look at its page and download by hand"
        )
    return chosen


def download(entry: Published, root: Path = Path()) -> list[Path]:
    """Download an entry below `root` and unpack its archives; what is there already is kept. Returns where things are.

    Raises:
        UserError: the hub cannot be reached, the disk is too small, a file was damaged on its way, another one is in
            its place, or an archive would write outside its folder.
    """
    import huggingface_hub

    files = list_files(entry)
    if entry.target is None:
        cache = Path(huggingface_hub.constants.HF_HUB_CACHE)
        there = [huggingface_hub.try_to_load_from_cache(entry.repository, file.path) for file in files]
        check_space(cache, sum(file.size for file, path in zip(files, there) if not isinstance(path, str)))
        with hub_errors(entry.repository):
            for file in track(files, entry.name):
                cached = huggingface_hub.hf_hub_download(entry.repository, file.path)
        return [Path(cached).parent]
    folder = root / entry.target
    finals = {file: folder / _below(file.path, entry.folder) for file in files}
    wanted = [file for file in files if not _is_there(finals[file], file)]
    # A training of the same configuration writes into this folder, too: its weights are nobody's to replace.
    if others := [finals[file] for file in wanted if not _is_archive(finals[file]) and finals[file].is_file()]:
        raise UserError(f"{others[0]}: is there already, and another file; move it away, or choose another --root")
    # An archive needs room for itself and for what comes out of it: weights hardly shrink.
    check_space(root, sum(file.size * (2 if _is_archive(finals[file]) else 1) for file in wanted))
    staging = folder / f"{_STAGING}{entry.name}"
    for file in track(wanted, entry.name):
        with hub_errors(entry.repository):
            fetched = Path(huggingface_hub.hf_hub_download(entry.repository, file.path, local_dir=staging))
        check_sum(fetched, file.sha256)
        final = finals[file]
        if _is_archive(final):
            extract(fetched, final.with_suffix(""))
            fetched.unlink()
        else:
            with _writing(final):
                final.parent.mkdir(parents=True, exist_ok=True)
                os.replace(fetched, final)
    shutil.rmtree(staging, ignore_errors=True)
    return [final.with_suffix("") if _is_archive(final) else final for final in finals.values()]


@contextmanager
def _writing(path: Path) -> Generator[None]:
    """Say in one line why `path` cannot be written."""
    try:
        yield
    except OSError as error:
        if path.is_dir() or (path.exists() and not path.is_file()):
            reason = "is in the way: move it, or choose another folder with --root"
        else:
            reason = f"cannot be written ({error.strerror or error}); check free space and permissions"
        raise UserError(f"{path}: {reason}") from error


def check_space(folder: Path, needed: int) -> None:
    """There must be `needed` bytes and a little more on the disk of `folder`.

    Raises:
        UserError: there are not.
    """
    existing = next((path for path in (folder, *folder.absolute().parents) if path.exists()), folder)
    if not existing.is_dir():
        raise UserError(f"{existing}: is no folder; choose another one with --root")
    free = shutil.disk_usage(existing).free
    if free < needed * 1.05:
        raise UserError(
            f"{existing}: {free / 1e9:.1f} GB are free, {needed * 1.05 / 1e9:.1f} GB are needed; make room or choose "
            "another folder"
        )


def check_sum(path: Path, sha256: str | None) -> None:
    """A file must have this checksum; one that has not is deleted. None: nothing is known.

    Raises:
        UserError: it has another.
    """
    if sha256 is None:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        path.unlink()
        raise UserError(
            f"{path.name}: was damaged on its way (another checksum than the repository says); run it again"
        )


def extract(archive: Path, folder: Path) -> None:
    """Unpack a zip to `folder`, which appears only when it is whole; one top folder inside the zip is left out.

    Raises:
        UserError: the archive is damaged, has a member that would land outside `folder` or is a link, or is too big.
    """
    if folder.is_file() or _has_content(folder):
        raise UserError(f"{folder}: is there already, and not overwritten; move it away to unpack {archive.name} again")
    clear_left(folder.parent)
    partial = temporary_path(folder)
    try:
        with zipfile.ZipFile(archive) as content:
            for member in content.infolist():
                _check_member(archive, member)
            members = [member for member in content.infolist() if not _is_of_macos(member)]
            check_space(folder.parent, sum(member.file_size for member in members))
            for member in track(members, f"unpacking {folder.name}"):
                content.extract(member, partial)
        if not partial.is_dir():
            raise UserError(f"{archive}: is empty; download it again")
        top = list(partial.iterdir())
        with _writing(folder):
            os.replace(top[0] if len(top) == 1 and top[0].is_dir() else partial, folder)
    except (*_BAD_ARCHIVE, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # bz2 has one without a number for bad data
            raise UserError(f"{folder}: cannot be written ({error.strerror}); check free space") from error
        raise UserError(f"{archive}: is damaged or no zip archive ({error}); delete it and download again") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_member(archive: Path, member: zipfile.ZipInfo) -> None:
    path = PurePosixPath(member.filename.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in "".join(path.parts[:1]):
        raise UserError(f"{archive}: would write outside its folder ({member.filename}); do not trust this archive")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise UserError(f"{archive}: holds a link ({member.filename}); do not trust this archive")


def _is_of_macos(member: zipfile.ZipInfo) -> bool:
    """What macOS adds to an archive: `__MACOSX` beside the top folder, `._name` beside files, `.DS_Store`."""
    *_, name = parts = PurePosixPath(member.filename.replace("\\", "/")).parts
    return "__MACOSX" in parts or name == ".DS_Store" or name.startswith("._")


def _below(path: str, folder: str) -> Path:
    """The path of a repository's file seen from `folder`; such a path must not leave it."""
    relative = PurePosixPath(path).relative_to(folder) if folder else PurePosixPath(path)
    if relative.is_absolute() or ".." in relative.parts:
        raise UserError(f"{path}: is no path inside its repository; do not trust it")
    return Path(*relative.parts)


def _is_archive(path: Path) -> bool:
    return path.suffix == ".zip"


def _is_there(final: Path, file: HubFile) -> bool:
    if _is_archive(final):
        return _has_content(final.with_suffix(""))
    return final.is_file() and final.stat().st_size == file.size


def _has_content(folder: Path) -> bool:
    """Whether a folder is there with something in it; one that cannot be listed is taken for such."""
    try:
        return folder.is_dir() and any(folder.iterdir())
    except OSError:
        return True
