"""The import as a whole: resumed, in parallel, by chunk; what it refuses, what it tells."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("h5py", reason="h5py is not installed (extra egoexor)")

import h5py
import numpy as np
import yaml

from operating_room.domain.domain import Domain, bundled
from operating_room.errors import UserError
from operating_room.importers.egoexor import importing
from operating_room.importers.egoexor.importing import import_egoexor
from operating_room.importers.egoexor.tables import RAW_ENTITIES, RAW_PREDICATES, SOURCES
from tests.operating_room.importers.tiny_egoexor import (
    files,
    split_rows,
    tiny_take,
    write_hq,
    write_legacy,
)


def test_take_yaml(tmp_path: Path) -> None:
    """The period comes from the sound, the picture size and the order of cameras from the file."""
    source = write_legacy(tmp_path / "miss_1.h5", [take := tiny_take("MISS", frames=4)])
    import_egoexor(source, tmp_path / "out", pictures="png")
    content = yaml.safe_load((tmp_path / "out/takes/MISS_1_1/take.yaml").read_text())
    assert list(content) == ["period", "frames", "pictures", "source"]
    assert content["period"] == pytest.approx(1 / 15)
    assert (content["frames"], content["pictures"]) == (4, "png")
    told = content["source"]
    assert (told["file"], told["group"], told["release"]) == ("miss_1.h5", "/data/MISS/1/take/1", "legacy")
    assert told["sources"] == list(take.cameras)
    assert (told["picture_size"], told["period_from"], told["colours"]) == ([32, 32], "sound", "true_rgb")
    assert told["written"]["pictures"] == 40


def test_takes_of_mmor_are_not_hidden(tmp_path: Path) -> None:
    (tmp_path / "4D-OR_data").mkdir()
    with pytest.raises(UserError, match="holds 4D-OR_data, which nothing would find any more"):
        import_egoexor(write_legacy(tmp_path / "miss_1.h5", [tiny_take("MISS", frames=4)]), tmp_path)
    assert not (tmp_path / "domain.yaml").exists()


@pytest.mark.parametrize(("period", "expected"), [(None, 1 / 15), (0.5, 0.5)])
def test_period_without_sound(tmp_path: Path, period: float | None, expected: float) -> None:
    take = tiny_take()
    take.arrays["audio/waveform"] = take.arrays["audio/snippets"] = None
    report = import_egoexor(write_legacy(tmp_path / "a.h5", [take]), tmp_path / "out", period=period)
    assert not report.notes
    assert "frames per second by the sound: no sound to tell: Ultrasound_1_1" in report.checklist
    content = yaml.safe_load((tmp_path / "out/takes/Ultrasound_1_1/take.yaml").read_text())
    assert content["period"] == expected
    assert content["source"]["period_from"] == "option"


@pytest.mark.parametrize(
    ("per_frame", "period", "notes"),
    [
        (3200, None, []),
        (8000, None, []),
        (4000, None, ["Ultrasound_1_1: 12.00 frames per second by its sound, neither 15 nor 6"]),
        (
            8000,
            1 / 15,
            ["Ultrasound_1_1: 6.00 frames per second by its sound, 15.00 as asked for; the sound is believed"],
        ),
    ],
)
def test_rate_by_the_sound(tmp_path: Path, per_frame: int, period: float | None, notes: list[str]) -> None:
    """Sections 1 and 11, point 11: documented are 15 frames per second, counted are about 6."""
    take = tiny_take(frames=3)
    take.arrays["audio/waveform"] = np.zeros((3 * per_frame, 2), np.float32)
    report = import_egoexor(write_legacy(tmp_path / "a.h5", [take]), tmp_path / "out", period=period)
    assert list(report.notes) == notes
    content = yaml.safe_load((tmp_path / "out/takes/Ultrasound_1_1/take.yaml").read_text())
    assert content["period"] == pytest.approx(per_frame / 48_000)


def test_first_contact(tmp_path: Path) -> None:
    """Section 11: every point of the checklist is answered."""
    us, miss = tiny_take("Ultrasound", 1, 1), tiny_take("MISS", 1, 1)
    other = tiny_take("MISS", 2, 1, frames=2)
    other.arrays["depth/values"] = np.zeros((2, 3), np.float16)
    rows = {
        "train": [*split_rows(us), ("MISS", 4, 1, 0)],
        "validation": split_rows(other)[:1],
        "test": split_rows(miss),
    }
    report = import_egoexor(write_legacy(tmp_path / "ab.h5", [us, miss, other], rows), tmp_path / "out")
    told = str(report)
    for line in (
        "release: legacy, 1 files, 3 takes",
        "takes: ab.h5: MISS_1_1, MISS_2_1, Ultrasound_1_1",
        "cameras: assistant, head_surgeon, circulator, or_light, simstation: Ultrasound_1_1",
        "pictures: 32 x 32 px: MISS_1_1, MISS_2_1, Ultrasound_1_1",
        "order of colours: no file says it; others have found: external cameras red first, all others blue first",
        "point clouds: 7 points in each frame, colours to 1: MISS_1_1, MISS_2_1",
        "point clouds: none: Ultrasound_1_1",
        "gaze of sources 1, 2, 3, to ",
        "hands of sources 1, 2, 3, 4: MISS_1_1",
        "audio: waveform and snippets: MISS_1_1, MISS_2_1, Ultrasound_1_1",
        "frames per second by the sound: 15.00: MISS_1_1, MISS_2_1, Ultrasound_1_1",
        "frames: 12 in 3 takes",
        "scene graphs: 6 of 12 frames (50.0%), 2.00 triplets each",
        "words in scene graphs: 5 entities of 36, 3 predicates of 22",
        "numbers in scene_graph: subject, predicate, object: MISS_1_1, MISS_2_1, Ultrasound_1_1",
        "splits: 2 train, 1 val, 1 test",
        "splits name takes that are not in these files: MISS_4_1",
        "takes in another split than others have reconstructed: MISS_4_1",
        "splits list 1 of the 2 frames of MISS_2_1; all are imported",
        "arrays that are not imported: depth/values [2, 3] of float16: MISS_2_1",
        "no exterior camera: Ultrasound_1_1",
        "MISS_2_1: 20 pictures, 0 black, 2 gaze",
    ):
        assert line in told, line


def test_splits(tmp_path: Path) -> None:
    """Only of imported takes; what somebody has written there stays, and a difference is told."""
    first, second, third = (tiny_take(number=number, frames=1) for number in (1, 2, 3))
    rows = {"train": [*split_rows(first), *split_rows(second)], "test": split_rows(third)}
    source, out = write_legacy(tmp_path / "a.h5", [first, second, third], rows), tmp_path / "out"
    import_egoexor(source, out, takes=["Ultrasound_1_1"])
    path = out / "splits.yaml"
    assert yaml.safe_load(path.read_text()) == {"train": ["Ultrasound_1_1"], "val": [], "test": []}
    path.write_text("# ours\nval: [Ultrasound_1_1]\nmine: [Ultrasound_1_1]\n")
    report = import_egoexor(source, out)
    assert report.notes == (f"{path}: has Ultrasound_1_1 in val, the split table in train; the file is left as it is",)
    assert yaml.safe_load(path.read_text()) == {
        "train": ["Ultrasound_1_2"],
        "val": ["Ultrasound_1_1"],
        "test": ["Ultrasound_1_3"],
        "mine": ["Ultrasound_1_1"],
    }
    before = path.read_bytes()
    import_egoexor(source, out)
    assert path.read_bytes() == before


def test_domain(tmp_path: Path) -> None:
    """The bundled one beside the takes, as published."""
    import_egoexor(write_legacy(tmp_path / "a.h5", [tiny_take(frames=1)]), tmp_path / "out")
    assert Domain.read(tmp_path / "out/domain.yaml") == bundled("egoexor")


def test_domain_of_a_file_that_knows_more(tmp_path: Path) -> None:
    """Section 3.3: the vocabulary of the file is preferred; what it has besides is told and goes into the domain."""
    take = tiny_take(frames=1)
    take.cameras = (*take.cameras[:4], "ceiling_1")
    source = write_legacy(
        tmp_path / "a.h5",
        [take],
        entities=(*RAW_ENTITIES, "Robot_arm"),
        predicates=(*RAW_PREDICATES, "drilling"),
        sources=SOURCES | {"ceiling_1": 14},
    )
    with h5py.File(source, "a") as file:
        frame = file["data/Ultrasound/1/take/1/annotations/frame_0"]
        del frame["rel_annotations"], frame["scene_graph"]
        frame["rel_annotations"] = np.array([[b"Robot_arm", b"drilling", b"patient"]])
        frame["scene_graph"] = np.array([[37, 23, 25]], np.float32)
    report = import_egoexor(source, tmp_path / "out")
    path = tmp_path / "out/domain.yaml"
    assert report.notes[-3:] == (
        f"{path}: entities that are not published: robot_arm",
        f"{path}: predicates that are not published: drilling",
        f"{path}: cameras that are not published: ceiling_1",
    )
    found, published = Domain.read(path), bundled("egoexor")
    assert found.language.entities == (*published.language.entities, "robot_arm")
    assert found.language.predicates == (*published.language.predicates, "drilling")
    assert found.language.prompted_entities == (*published.language.prompted_entities, "robot arm")
    assert found.collections[0].picture(found.find_take(take.name), "ceiling_1", "000000") == Path(
        "takes/Ultrasound_1_1/views/ceiling_1/000000.jpg"
    )
    assert (tmp_path / "out/takes/Ultrasound_1_1/views/ceiling_1/000000.jpg").exists()
    graph = json.loads((tmp_path / "out/takes/Ultrasound_1_1/graphs/000000.json").read_text())
    assert graph == [["robot_arm", "patient", "drilling"]]
    before = path.read_bytes()
    assert import_egoexor(source, tmp_path / "out").notes[-1] == report.notes[2]
    assert path.read_bytes() == before


def test_takes_without_a_split_are_told(tmp_path: Path) -> None:
    takes = [tiny_take(frames=1), tiny_take(number=2, frames=1)]
    report = import_egoexor(write_legacy(tmp_path / "a.h5", takes, {"train": split_rows(takes[0])}), tmp_path / "out")
    assert "takes without a split: Ultrasound_1_2" in report.checklist


def test_one_bad_take_costs_no_other(tmp_path: Path) -> None:
    good, bad = tiny_take(number=1), tiny_take(number=2)
    bad.arrays["eye_gaze/coordinates"] = np.zeros((3, 3, 3), np.float32)
    report = import_egoexor(write_legacy(tmp_path / "a.h5", [good, bad]), tmp_path / "out")
    assert list(report.imported) == ["Ultrasound_1_1"]
    assert "take/2/eye_gaze/coordinates: is [3, 3, 3]" in report.problems[0]
    assert not (tmp_path / "out/takes/Ultrasound_1_2").exists()


def test_damage_in_the_midst_of_pictures(tmp_path: Path) -> None:
    """A chunk that cannot be unpacked: found while importing, told with file and path, the other take is whole."""
    source = write_legacy(tmp_path / "a.h5", [tiny_take(number=1), tiny_take(number=2)])
    with h5py.File(source) as file:
        chunk = file["data/Ultrasound/1/take/1/frames/rgb"].id.get_chunk_info(1)
    data = bytearray(source.read_bytes())
    data[chunk.byte_offset + 200 : chunk.byte_offset + 300] = bytes(100)
    source.write_bytes(data)
    report = import_egoexor(source, tmp_path / "out")
    (problem,) = report.problems
    assert problem.startswith(f"{source}:/data/Ultrasound/1/take/1/frames/rgb: cannot be read (")
    assert list(report.imported) == ["Ultrasound_1_2"]
    assert not (tmp_path / "out/takes/Ultrasound_1_1/take.yaml").exists()


def test_chosen_takes(tmp_path: Path) -> None:
    source = write_legacy(tmp_path / "a.h5", [tiny_take(frames=1), tiny_take(number=2, frames=1)])
    assert list(import_egoexor(source, tmp_path / "out", takes=["Ultrasound_1_2"]).imported) == ["Ultrasound_1_2"]
    with pytest.raises(UserError, match="has no take MISS_1_1; it has Ultrasound_1_1, Ultrasound_1_2"):
        import_egoexor(source, tmp_path / "out", takes=["MISS_1_1"])
    rows = split_rows(take := tiny_take(number=12))
    source = write_legacy(tmp_path / "b.h5", [take, tiny_take()], {"train": rows[:1], "test": rows[1:]})
    with pytest.raises(UserError, match="has no take Ultrasound_1_2; it has Ultrasound_1_1"):
        import_egoexor(source, tmp_path / "out", takes=["Ultrasound_1_2"])
    with pytest.raises(UserError, match="splits: take Ultrasound_1_12 has frames in test and in train"):
        import_egoexor(source, tmp_path / "out", takes=["Ultrasound_1_12"])


def test_correction_of_the_second_release_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="whether the gaze of this release is corrected already is not known"):
        import_egoexor(write_hq(tmp_path / "a.h5", [tiny_take()]), tmp_path / "out", gaze="corrected")


@pytest.mark.parametrize("options", [{"workers": 0}, {"period": 0.0}, {"period": float("nan")}, {"period": -1.0}])
def test_options_out_of_range(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="import options out of range"):
        import_egoexor(tmp_path, tmp_path / "out", **options)


def test_several_processes_write_the_same(tmp_path: Path) -> None:
    source = write_legacy(tmp_path / "a.h5", [tiny_take("MISS", frames=3), tiny_take(frames=2)])
    import_egoexor(source, tmp_path / "one")
    import_egoexor(source, tmp_path / "two", workers=2)
    assert files(tmp_path / "one") == files(tmp_path / "two")


class Reads:
    """The bytes of each read of an array."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.by_array: dict[str, list[int]] = {}
        original = h5py.Dataset.__getitem__

        def counted(dataset: h5py.Dataset, *arguments: Any, **options: Any) -> Any:
            values = original(dataset, *arguments, **options)
            self.by_array.setdefault(dataset.name.split("take/1/")[-1], []).append(np.asarray(values).nbytes)
            return values

        monkeypatch.setattr(h5py.Dataset, "__getitem__", counted)


@pytest.mark.parametrize("chunk", [1, 4, 10])
def test_no_array_is_ever_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    """Section 2: by chunk, each once; no read is larger than a chunk, or READ_BYTES where chunks are small."""
    take = tiny_take("MISS", frames=20)
    take.chunk = chunk
    source = write_legacy(tmp_path / "a.h5", [take])
    most = 100_000
    monkeypatch.setattr("operating_room.importers.egoexor.hdf5.READ_BYTES", most)
    reads = Reads(monkeypatch)
    import_egoexor(source, tmp_path / "out")
    for name, sizes in reads.by_array.items():
        values = take.arrays.get(name)
        if values is None:
            continue
        assert max(sizes) <= max(most, chunk * values[0].nbytes), name
        if values.nbytes > most and 2 * chunk <= take.frames:
            assert max(sizes) < values.nbytes
    rgb = take.arrays["frames/rgb"]
    assert rgb is not None
    assert sum(reads.by_array["frames/rgb"]) == rgb.nbytes


def test_chunks_of_single_cameras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a block of rows of all cameras is too large, cameras are read one after the other, if packed so."""
    take = tiny_take("MISS", frames=4)
    source = write_legacy(tmp_path / "a.h5", [take])
    with h5py.File(source, "a") as file:
        place = "data/MISS/1/take/1/frames/rgb"
        del file[place]
        file.create_dataset(place, data=take.arrays["frames/rgb"], chunks=(2, 1, 32, 32, 3))
    import_egoexor(source, tmp_path / "at_once", pictures="png")
    monkeypatch.setattr("operating_room.importers.egoexor.hdf5.READ_BYTES", 10_000)
    reads = Reads(monkeypatch)
    import_egoexor(source, tmp_path / "one_by_one", pictures="png")
    assert set(reads.by_array["frames/rgb"]) == {2 * 32 * 32 * 3}
    name = "takes/MISS_1_1/views/external_5/000003.png"
    assert (tmp_path / "at_once" / name).read_bytes() == (tmp_path / "one_by_one" / name).read_bytes()


def test_too_little_memory_is_told_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Section 2: chunks of the second release hold 10 frames of all cameras, half a GB."""
    monkeypatch.setattr(importing, "free_memory", lambda: 1000)
    with pytest.raises(UserError, match=r"reading some needs 0\.3 GB, and 0\.0 GB are free"):
        import_egoexor(write_legacy(tmp_path / "a.h5", [tiny_take()]), tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.jpg"))


def test_fewer_processes_where_memory_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importing, "free_memory", lambda: 450_000_000)
    import_egoexor(write_legacy(tmp_path / "a.h5", [tiny_take()]), tmp_path / "out", workers=3)
    assert "note: 1 processes instead of 3: 0.3 GB each, 0.5 GB are free" in capsys.readouterr().err


@pytest.fixture(autouse=True)
def no_open_files() -> Iterator[None]:
    """Every HDF5 file is closed again."""
    yield
    assert h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE) == 0
