"""EgoExOR files of some kB that state what no disk holds: refused by name, before anything is counted or read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("h5py", reason="h5py is not installed (extra egoexor)")

import h5py

from operating_room.errors import UserError
from operating_room.importers.egoexor import source, takes
from operating_room.importers.egoexor.hdf5 import BadRecording
from operating_room.importers.egoexor.source import Tables, find_recordings
from operating_room.importers.egoexor.takes import inspect_take
from tests.operating_room.importers.tiny_egoexor import SPLIT_ROW, tiny_take, write_legacy

TAKE = "data/Ultrasound/1/take/1"


def _changed(path: Path, change: Callable[[h5py.File], Any]) -> Path:
    write_legacy(path, [tiny_take(frames=2)])
    with h5py.File(path, "a") as file:
        change(file)
    return path


def _never_more_than(calls: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that fails when it is called more often: nobody waits for ever in a test."""
    left = [calls]

    def counted(*arguments: Any) -> Any:
        left[0] -= 1
        assert left[0] >= 0, f"more than {calls} calls"
        return function(*arguments)

    return counted


def test_a_split_of_billions_of_rows_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def change(file: h5py.File) -> None:
        file.create_dataset("splits/train", (10**12,), SPLIT_ROW, chunks=(1000,))

    path = _changed(tmp_path / "a.h5", change)
    monkeypatch.setattr(source, "text", _never_more_than(10_000, source.text))
    (problem,) = find_recordings(path).problems
    assert "a.h5:/splits/train: has 1000000000000 rows, more than " in problem


@pytest.mark.parametrize(
    ("name", "shape", "told"),
    [
        ("frames/rgb", (2_000_000, 5, 32, 32, 3), "2000000 frames, a take has 1000000 at most"),
        ("audio/waveform", (10**12, 2), "20833333 s of sound, a take has 86400 at most"),
    ],
)
def test_a_take_longer_than_any(name: str, shape: tuple[int, ...], told: str, tmp_path: Path) -> None:
    """take.yaml would be refused after days of work: ids of frames have six digits."""

    def change(file: h5py.File) -> None:
        for other in ("eye_gaze", "eye_gaze_depth", "hand_tracking", "audio"):
            del file[TAKE][other]
        if name in file[TAKE]:
            del file[TAKE][name]
        file[TAKE].create_dataset(name, shape, "u1" if name == "frames/rgb" else "f4", chunks=(1, *shape[1:]))

    (take,) = find_recordings(_changed(tmp_path / "a.h5", change)).takes
    with pytest.raises(BadRecording, match=told):
        inspect_take(take, Tables())


def test_groups_that_lead_to_themselves_are_looked_into_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def change(file: h5py.File) -> None:
        odd = file[TAKE].create_group("odd")
        for number in range(40):
            odd[f"again_{number}"] = odd  # a hard link: 40 ^ 4 paths

    (take,) = find_recordings(_changed(tmp_path / "a.h5", change)).takes
    monkeypatch.setattr(takes, "member", _never_more_than(1000, takes.member))
    assert inspect_take(take, Tables()).others == ()


def test_takes_that_are_all_one_are_not_counted_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def change(file: h5py.File) -> None:
        take = file["data/Ultrasound/1/take"]
        for number in range(2, 30):
            take[str(number)] = take["1"]
            file[f"data/Ultrasound/{number}"] = file["data/Ultrasound/1"]
        for number in range(30):
            file[f"data/Surgery-{number}"] = file["data/Ultrasound"]

    path = _changed(tmp_path / "a.h5", change)
    monkeypatch.setattr(source, "StoredTake", _never_more_than(12_000, source.StoredTake))
    with pytest.raises(UserError, match=r"a\.h5:/data: has more than 10000 takes"):
        find_recordings(path)
