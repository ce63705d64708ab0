"""Files of tensors: what is no model is refused by name, whatever its bytes are, and values must be numbers."""

from __future__ import annotations

import errno
import json
import os
import pickle
import stat
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from operating_room.errors import UserError
from operating_room.files.tensors import (
    check_numbers,
    is_finite,
    read_tensors,
    read_vector,
    write_pickle,
    write_safetensors,
)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({1: torch.zeros(2)}, "entry '1' is no named tensor"),
        ({"a": 3}, "entry 'a' is no named tensor"),
        ({"a": [torch.zeros(1)]}, "entry 'a' is no named tensor"),
        (torch.zeros(3), "something else than named tensors"),
        ([torch.zeros(3)], "something else than named tensors"),
        ({"a": torch.zeros(2, device="meta")}, "a is a tensor without data"),
        ({"a": torch.eye(2).to_sparse()}, "a is a tensor of the form torch.sparse_coo"),
        ({"a": torch.zeros(2, dtype=torch.complex64)}, "a is a tensor of the form torch.strided, torch.complex64"),
    ],
)
def test_what_is_no_model_is_named(tmp_path: Path, content: Any, problem: str) -> None:
    torch.save(content, tmp_path / "a.bin")
    with pytest.raises(UserError, match=problem) as error:
        read_tensors(tmp_path / "a.bin")
    assert str(tmp_path / "a.bin") in str(error.value)


def test_parameters_become_plain_tensors(tmp_path: Path) -> None:
    torch.save({"a": torch.nn.Parameter(torch.ones(2))}, tmp_path / "a.bin")
    tensor = read_tensors(tmp_path / "a.bin")["a"]
    assert type(tensor) is torch.Tensor
    assert not tensor.requires_grad


ODD_PICKLES = [
    b"\x80\x02.",
    b"\x80\x02]",
    b"(lp0\n.",
    b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
    pickle.dumps({"a": 1}),
    b"PK\x05\x06" + bytes(18),  # an empty zip
    b"\x1f\x8b" + bytes(30),
    b"",
]


@pytest.mark.parametrize("data", ODD_PICKLES)
@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_odd_bytes_are_one_sentence(tmp_path: Path, data: bytes, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data)
    with pytest.raises(UserError) as error:
        read_tensors(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@given(st.data())
def test_damaged_bytes_are_read_or_refused(data: st.DataObject) -> None:
    """Flips and cuts anywhere in real files; whatever still reads is named tensors."""
    suffix = data.draw(st.sampled_from([".bin", ".safetensors", "old"]))
    whole = bytearray(WHOLE[suffix])
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    kept = bytes(whole[: data.draw(st.integers(0, len(whole)))] if data.draw(st.booleans()) else whole)
    path = FOLDER / f"damaged{'.bin' if suffix == 'old' else suffix}"
    path.write_bytes(kept)
    try:
        tensors = read_tensors(path)
    except UserError:
        pass
    else:
        assert all(isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in tensors.items())


@pytest.fixture(autouse=True, scope="module")
def whole_files(tmp_path_factory: pytest.TempPathFactory) -> None:
    global FOLDER
    FOLDER = tmp_path_factory.mktemp("tensors")
    state = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}
    write_pickle(FOLDER / "a.bin", state)
    write_safetensors(FOLDER / "a.safetensors", state)
    torch.save(state, FOLDER / "old.bin", _use_new_zipfile_serialization=False)
    for suffix, name in ((".bin", "a.bin"), (".safetensors", "a.safetensors"), ("old", "old.bin")):
        WHOLE[suffix] = (FOLDER / name).read_bytes()
        assert torch.equal(read_tensors(FOLDER / name)["a"], state["a"])


FOLDER = Path()
WHOLE: dict[str, bytes] = {}


@pytest.mark.parametrize("data", [b"<html>not found</html>", pickle.dumps({"a": 1}), bytes(range(200, 256))])
def test_nobody_is_advised_to_run_what_is_inside(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"damaged, or not safe to read \(Unsupported operand \d+\)"):
        read_tensors(path)


def test_a_header_that_promises_more_than_there_is(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(UserError, match="damaged"):
        read_tensors(tmp_path / "a.safetensors")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_no_numbers_are_seen(dtype: torch.dtype, value: float) -> None:
    for place in (0, 500, 999):
        values = torch.ones(1000)
        assert is_finite(values.to(dtype))
        values[place] = value
        odd = values.to(dtype)
        assert is_finite(odd) == bool(odd.float().isfinite().all())
        if dtype != torch.float8_e4m3fn:  # which has no infinity
            with pytest.raises(UserError, match=r"x\.bin: weight holds values that are no numbers"):
                check_numbers({"weight": odd}, "x.bin")


@pytest.mark.parametrize(
    "stored",
    [torch.zeros(1).expand(1_000_000), torch.zeros(4).as_strided((6,), (0,)), torch.zeros(2, 3), torch.zeros(())],
)
def test_what_is_no_vector_though_it_has_the_numbers_of_one(tmp_path: Path, stored: torch.Tensor) -> None:
    """The first has 1.3 kB as a file, and would have gigabytes in memory."""
    torch.save(stored, tmp_path / "a.pt")
    for width in (None, stored.numel()):
        with pytest.raises(UserError, match="expected an audio embedding"):
            read_vector(tmp_path / "a.pt", width)


def test_a_vector_that_is_not_there_is_not_called_damaged(tmp_path: Path) -> None:
    """Whoever trained with another --data than the samples were made of was told to delete a file that is not there."""
    with pytest.raises(UserError, match=r"a\.pt: no such file; `mmor .* audio-embeddings` makes it"):
        read_vector(tmp_path / "a.pt")


def test_every_flipped_bit_of_a_vector_is_seen(tmp_path: Path) -> None:
    vector, path = torch.linspace(-1, 1, 64), tmp_path / "a.pt"
    torch.save(vector, path)
    whole = path.read_bytes()
    first = whole.index(vector.numpy().tobytes())
    for place in range(first, first + vector.nbytes, 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        with pytest.raises(UserError, match=r"a\.pt: .*preprocess again"):
            read_vector(path)


def test_a_vector_may_lie_in_a_row(tmp_path: Path) -> None:
    torch.save(torch.arange(6.0)[None], tmp_path / "a.pt")
    assert read_vector(tmp_path / "a.pt", 6).tolist() == [0, 1, 2, 3, 4, 5]


def test_whole_numbers_and_nothing_are_fine() -> None:
    check_numbers({"a": torch.ones(3, dtype=torch.int64), "b": torch.zeros(0), "c": torch.tensor(True)}, "x")


@pytest.mark.parametrize("write", [write_pickle, write_safetensors])
def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path: Path, write: Any) -> None:
    """A full disk: both libraries report it in their own way."""
    resource = pytest.importorskip("resource", reason="a limit on files needs POSIX")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(UserError, match=r"b\.bin: cannot be written") as error:
            write(tmp_path / "b.bin", {"a": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_no_library_loads_code_from_a_hub(tmp_path: Path) -> None:
    """With the package `kernels` installed, bitsandbytes would fetch and run code as soon as it is imported."""
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text(
        f"from pathlib import Path\nPath({str(tmp_path / 'imported')!r}).touch()\n"
        f"def get_kernel(*a, **k): Path({str(tmp_path / 'fetched')!r}).touch(); raise ImportError\n"
    )
    program = (
        "import operating_room, importlib.util, transformers\n"
        "from transformers.integrations import hub_kernels\n"
        "assert not hub_kernels._kernels_enabled\n"
        "assert importlib.util.find_spec('kernels') is None\n"
        "try:\n    import bitsandbytes\nexcept ImportError:\n    pass\n"
        "try:\n    import kernels\nexcept ImportError:\n    print('hidden')\n"
    )
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", ""), os.getcwd()])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "hidden\n", done.stderr
    assert "kernels" not in done.stderr
    assert not (tmp_path / "imported").exists()
    assert not (tmp_path / "fetched").exists()


def test_weights_are_as_readable_as_their_user_has_it(tmp_path: Path) -> None:
    for mask, mode in ((0o022, 0o644), (0o077, 0o600), (0o002, 0o664)):
        before = os.umask(mask)
        try:
            write_safetensors(tmp_path / "a.safetensors", {"a": torch.zeros(2)})
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "a.safetensors").stat().st_mode) == mode


def test_files_in_a_folder_of_an_old_disk_are_read_and_written(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"L\xe9")  # é in Latin-1, no UTF-8
    folder.mkdir()
    write_safetensors(folder / "a.safetensors", {"a": torch.arange(3.0)})
    assert read_tensors(folder / "a.safetensors")["a"].tolist() == [0, 1, 2]
    write_pickle(folder / "a.pt", torch.arange(3.0))
    assert read_vector(folder / "a.pt", 3).tolist() == [0, 1, 2]
    write_pickle(folder / "a.bin", {"a": torch.arange(3.0)})
    assert read_tensors(folder / "a.bin")["a"].tolist() == [0, 1, 2]


def test_a_small_file_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path: Path) -> None:
    write_pickle(tmp_path / "a.pt", torch.zeros(512))
    with zipfile.ZipFile(tmp_path / "a.pt") as whole, zipfile.ZipFile(tmp_path / "b.pt", "w") as packed:
        for name in whole.namelist():
            kind = zipfile.ZIP_DEFLATED if name.endswith("data.pkl") else zipfile.ZIP_STORED
            packed.writestr(name, whole.read(name) + bytes(kind << 23), kind)
    assert (tmp_path / "b.pt").stat().st_size < 1e6
    tracemalloc.start()
    with pytest.raises(UserError, match="cannot be read as an audio embedding"):
        read_vector(tmp_path / "b.pt")
    with pytest.raises(UserError, match=r"data\.pkl is packed, which torch does not do"):
        read_tensors(tmp_path / "b.pt")
    assert tracemalloc.get_traced_memory()[1] < 30e6
    tracemalloc.stop()


def test_what_a_network_disk_refuses_at_the_end_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """safetensors does not look at what closing a file says: a model beyond the quota passed for a whole one."""

    def refuse(_: int) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "fsync", refuse)
    (tmp_path / "model.safetensors").write_bytes(b"before")
    with pytest.raises(
        UserError, match=r"model\.safetensors: cannot be written \(Disk quota exceeded\); check free space"
    ):
        write_safetensors(tmp_path / "model.safetensors", {"a": torch.zeros(3)})
    assert (tmp_path / "model.safetensors").read_bytes() == b"before"
    assert len(list(tmp_path.iterdir())) == 1


def test_weights_that_a_killed_process_was_writing_are_cleared(tmp_path: Path) -> None:
    """Each training that was preempted then left a file of gigabytes, .tmp2UoeyX, which nobody knew and removed."""
    lines = (
        "import os, pathlib, safetensors.torch, sys, torch",
        "from operating_room.files.tensors import write_safetensors",
        "def killed(tensors, path, metadata=None):",
        "    pathlib.Path(path).with_name('.tmp2UoeyX').write_bytes(bytes(9))",
        "    os._exit(9)",
        "safetensors.torch.save_file = killed",
        "write_safetensors(pathlib.Path(sys.argv[1]), {'a': torch.zeros(3)})",
    )
    path = tmp_path / "model.safetensors"
    assert subprocess.run([sys.executable, "-c", "\n".join(lines), str(path)], check=False).returncode == 9
    assert list(tmp_path.iterdir())
    write_safetensors(path, {"a": torch.ones(3)})
    assert list(tmp_path.iterdir()) == [path]
