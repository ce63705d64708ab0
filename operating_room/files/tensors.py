"""Files of named tensors, for both stages: safetensors and torch's pickles.

Nothing in a file is run: pickles are read with torch's allow-list of plain containers, numbers and tensors. Files are
mapped into memory where their form allows it, so that whoever converts the tensors one after the other never holds
them twice. A model's values must be numbers: one NaN makes every answer of a model empty, without an error anywhere.
"""

from __future__ import annotations

import os
import re
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from operating_room.errors import UserError
from operating_room.files.atomic import atomic_path, temporary_path
from operating_room.files.raw_files import is_utf8, require, utf8_path

if TYPE_CHECKING:
    from torch import Tensor


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors or `.bin` file.

    Raises:
        UserError: the file is missing, damaged, or holds anything but named tensors.
    """
    if not path.is_file():
        raise UserError(f"{path}: {'is a folder' if path.is_dir() else 'is missing'}; give the whole model again")
    return named_tensors(read_safetensors(path) if path.suffix == ".safetensors" else read_pickle(path), path)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """`read_tensors` of a safetensors file."""
    from safetensors.torch import load_file

    try:
        with utf8_path(path) as opened:
            return load_file(opened)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # a reader of strangers' bytes: whatever it stumbles over, the file is bad
        raise damaged(path, error) from error


def read_pickle(path: Path, allowed: list[Any] | None = None) -> Any:
    """What a file that torch saved holds.

    Args:
        allowed: further harmless functions and classes that it may name.

    Raises:
        UserError: it cannot be read, is damaged, or names something that is not allowed.
    """
    import torch

    try:
        packed = zipfile.is_zipfile(path)
        if packed:
            _require_unpacked(path)
        with utf8_path(path) as opened, torch.serialization.safe_globals(allowed or []):
            return torch.load(str(opened), map_location="cpu", weights_only=True, mmap=packed)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # as above; torch's unpickler lets IndexError, AssertionError and others through
        raise damaged(path, error) from error


def named_tensors(values: Any, path: Path) -> dict[str, Tensor]:
    """`values` as a mapping of names to ordinary tensors: dense, in memory, of plain numbers; `path` is for messages.

    Raises:
        UserError: it is anything else.
    """
    import torch

    if not isinstance(values, Mapping):
        raise UserError(f"{path}: holds something else than named tensors; give a model's weights")
    tensors = {}
    for name, tensor in values.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise UserError(f"{path}: entry {str(name)[:100]!r} is no named tensor; give a model's weights")
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized or tensor.is_complex():
            form = "without data" if tensor.is_meta else f"of the form {tensor.layout}, {tensor.dtype}"
            raise UserError(f"{path}: {name} is a tensor {form}; give a model with ordinary weights")
        tensors[name] = tensor.detach()
    return tensors


def read_vector(path: Path, width: int | None = None) -> Tensor:
    """The audio embedding of a file; float32, not the mapped file itself. Any width if none is asked for.

    Raises:
        UserError: the file is missing, damaged, holds something else, a vector of another length, or values that are no
            number.
    """
    import torch

    require(path, "`mmor scene-graph preprocess audio-embeddings`")
    try:
        stored = read_pickle(path)
        _require_checksums(path)
    except UserError as error:
        raise UserError(f"{path}: cannot be read as an audio embedding; delete it and preprocess again") from error
    try:
        vector = named_tensors({"embedding": stored}, path)["embedding"]
    except UserError:
        vector = torch.zeros(0)  # something else
    length = max(vector.shape, default=0)
    # A tensor may repeat its numbers: some bytes of a file that stand for gigabytes.
    repeats = vector.untyped_storage().nbytes() < vector.numel() * vector.element_size()
    if (
        not length
        or length != vector.numel()
        or repeats
        or not vector.is_floating_point()
        or width not in (None, length)
    ):
        wanted = "" if width is None else f" of {width} numbers"
        raise UserError(f"{path}: expected an audio embedding{wanted}; delete it and preprocess again")
    if not is_finite(vector):
        raise UserError(f"{path}: holds values that are no number; delete it and preprocess again")
    return vector.flatten().float().clone()


def _require_unpacked(path: Path) -> None:
    """torch packs nothing in its archives; what somebody has packed can be small and become gigabytes.

    Raises:
        UserError: something is packed.
    """
    with zipfile.ZipFile(path) as archive:
        packed = next((one.filename for one in archive.infolist() if one.compress_type != zipfile.ZIP_STORED), None)
    if packed is not None:
        raise UserError(f"{path}: {packed} is packed, which torch does not do; write it with torch.save")


def _require_checksums(path: Path) -> None:
    """The bytes of a file of torch's must be those that were written, which torch does not compare.

    Raises:
        UserError: they are others.
    """
    if not zipfile.is_zipfile(path):  # as torch wrote them before 1.6, without checksums
        return
    try:
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
    except Exception as error:  # as above
        raise damaged(path, error) from error
    if wrong is not None:
        raise UserError(f"{path}: {wrong} does not have its checksum")


def check_numbers(tensors: Mapping[str, Tensor], where: object) -> None:
    """Every floating-point value must be finite. Reads each tensor once and allocates nothing of its size.

    Raises:
        UserError: one is NaN or infinite; `where` names its source.
    """
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            raise UserError(
                f"{where}: {name} holds values that are no numbers (NaN or infinite), so the model can answer "
                "nothing; its training diverged or the file is damaged: use an earlier checkpoint, or copy it again"
            )


def is_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite; true for whole numbers."""
    import torch

    if not tensor.is_floating_point() or not tensor.numel():
        return True
    # Both ends are NaN if any value is. Forty times as fast as isfinite().all(), which fills a tensor of booleans.
    least, most = torch.aminmax(tensor if tensor.element_size() > 1 else tensor.float())
    return bool(torch.isfinite(least) & torch.isfinite(most))


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write contiguous tensors of main memory, without a second copy of them.

    Raises:
        UserError: the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save, save_file

    own = temporary_path(path)  # a folder: killed, safetensors leaves gigabytes under a name that nobody knows
    with atomic_path(path) as temporary:
        try:
            temporary.touch()
            mode = temporary.stat().st_mode
            if is_utf8(temporary):
                own.mkdir()
                save_file(dict(tensors), own / temporary.name, metadata)
                os.replace(own / temporary.name, temporary)
            else:
                temporary.write_bytes(save(dict(tensors), metadata))
            temporary.chmod(mode)  # it takes away what the user lets others do
            require_stored(temporary)
        except SafetensorError as error:  # how it reports a full disk
            raise OSError(str(error)) from error
        finally:
            shutil.rmtree(own, ignore_errors=True)


def require_stored(path: Path) -> None:
    """What was written is on the disk: safetensors does not look at what closing the file says.

    A network disk that is full, or a quota, refuses there what it has taken before.

    Raises:
        OSError: it is not.
    """
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def write_pickle(path: Path, value: Any) -> None:
    """Write `value` as torch does; the same value always gives the same bytes.

    Raises:
        UserError: the file cannot be written.
    """
    with atomic_path(path) as temporary:
        save_pickle(temporary, value)


def save_pickle(path: Path, value: Any) -> None:
    """`write_pickle` to a temporary name, of who renames several files together.

    Raises:
        OSError: it cannot be written.
    """
    import torch

    try:
        with path.open("wb") as file:  # given a path, torch writes the temporary name into the file
            torch.save(value, file)
    except RuntimeError as error:  # how it reports a full disk
        raise OSError(str(error).splitlines()[0]) from error


def damaged(path: Path, error: Exception) -> UserError:
    """What to say of a file that a parser stumbled over."""
    reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
    # torch's message is a page long, and its first line advises to run whatever is inside.
    if forbidden := re.search(r"GLOBAL (\S+)", str(error)):
        reason = f"it wants to call {forbidden[1]}"
    elif found := re.search(r"WeightsUnpickler error:\s*(.+)", str(error)):
        reason = found[1][:120]
    return UserError(f"{path}: damaged, or not safe to read ({reason}); copy it again")
