"""Files, takes, cameras, tables and splits of EgoExOR, and everything that can be wrong with them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("h5py", reason="h5py is not installed (extra egoexor)")

import h5py
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from operating_room.errors import UserError
from operating_room.importers.egoexor.source import Tables, find_recordings, read_cameras
from operating_room.importers.egoexor.tables import (
    EXPECTED_SPLITS,
    GAZE_IS_OFF,
    RAW_ENTITIES,
    RAW_PREDICATES,
    SOURCES,
    SWAPPED,
)
from operating_room.importers.egoexor.words import language
from tests.operating_room.importers.tiny_egoexor import (
    MISS,
    split_rows,
    tiny_take,
    write_hq,
    write_legacy,
    write_splits,
)


def problem(source: Path) -> str:
    """The only thing that is wrong with a file beside a good one."""
    write_legacy(source.with_name("good.h5"), [tiny_take(number=9)])
    found = find_recordings(source.parent)
    assert [take.name for take in found.takes] == ["Ultrasound_1_9"]
    (told,) = found.problems
    assert "\n" not in told
    return told


# Facts.


def test_sources_have_the_published_numbers() -> None:
    """Section 3.1."""
    expected = "head_surgeon assistant circulator anesthetist or_light microscope external_1 external_2 external_3"
    names = [*expected.split(), "external_4", "external_5", "simstation", "ultrasound"]
    assert {name: number for number, name in enumerate(names, 1)} | {"blank": -1} == SOURCES


def test_words_have_the_published_numbers() -> None:
    """Section 3.2: 37 entities, 23 predicates, with the spellings of the files."""
    assert (len(RAW_ENTITIES), len(RAW_PREDICATES)) == (37, 23)
    for number, name in ((0, "anaesthetist"), (17, "microcope"), (24, "operation_table"), (36, "vertebrae")):
        assert RAW_ENTITIES[number] == name
    for number, name in ((0, "anesthasing"), (4, "closeTo"), (15, "lyingOn"), (22, "wearing")):
        assert RAW_PREDICATES[number] == name
    assert list(RAW_ENTITIES) == sorted(RAW_ENTITIES)


def test_canonical_words_are_36_and_22() -> None:
    """Section 3.3: the names of the domain, each of which a file has a word for."""
    entities = {word: language().entity_name(word) for word in RAW_ENTITIES}
    predicates = {word: language().predicate_name(word) for word in RAW_PREDICATES}
    assert len(set(entities.values())) == 36
    assert len(set(predicates.values())) == 22
    assert set(entities.values()) == set(language().entities)
    assert set(predicates.values()) == set(language().predicates)
    assert {word: name for word, name in (entities | predicates).items() if word != name} == {
        "operation_table": "operating_table",
        "anaesthetist": "anesthetist",
        "microcope": "microscope",
        "closeTo": "closeto",
        "lyingOn": "lyingon",
        "checking": "looking",
        "anesthasing": "anaesthetising",
    }


def test_channel_orders() -> None:
    """Section 4: which cameras change red and blue for true colours, as the published training and evaluation did."""
    ego = {"head_surgeon", "assistant", "circulator", "anesthetist"}
    assert SWAPPED["true_rgb"] == ego | {"microscope", "or_light", "simstation", "ultrasound"}
    assert SWAPPED["as_trained"] == ego | {"simstation", "ultrasound"}
    assert SWAPPED["as_evaluated"] == set(SOURCES) - {"blank"}


def test_gaze_is_off_in_33_pairs_of_role_and_take() -> None:
    """Section 6."""
    assert len(GAZE_IS_OFF) == 7 + 10 + 10 + 6
    for pair in (("assistant", "Ultrasound_2_6"), ("anesthetist", "MISS_2_4"), ("circulator", "MISS_3_4")):
        assert pair in GAZE_IS_OFF
    for pair in (("anesthetist", "MISS_1_4"), ("assistant", "Ultrasound_5_1"), ("head_surgeon", "Ultrasound_2_1")):
        assert pair not in GAZE_IS_OFF


def test_expected_splits_are_26_8_and_7_takes() -> None:
    """Section 2.1."""
    splits = list(EXPECTED_SPLITS.values())
    assert [splits.count(name) for name in ("train", "val", "test")] == [26, 8, 7]
    assert {name for name in EXPECTED_SPLITS if EXPECTED_SPLITS[name] == "test" and name.startswith("MISS")} == {
        "MISS_1_1",
        "MISS_2_2",
        "MISS_3_6",
    }


# What is found.


def test_legacy_file(tmp_path: Path) -> None:
    """Section 1: the root data and the group take."""
    takes = [tiny_take("MISS", 1, 2), tiny_take("Ultrasound", 5, 14)]
    found = find_recordings(write_legacy(tmp_path / "egoexor.h5", takes))
    assert found.release == "legacy"
    assert [(take.name, take.group) for take in found.takes] == [
        ("MISS_1_2", "/data/MISS/1/take/2"),
        ("Ultrasound_5_14", "/data/Ultrasound/5/take/14"),
    ]
    assert not found.problems
    assert not found.splits


def test_hq_file_takes_the_splits_of_the_first_release(tmp_path: Path) -> None:
    """Section 1: procedures, phases, takes; no splits of its own, so splits.h5 beside it is applied by name."""
    take = tiny_take("MISS", 2, 1)
    source = write_hq(tmp_path / "miss_2.h5", [take])
    with h5py.File(tmp_path / "splits.h5", "w") as file:
        write_splits(file, {"validation": split_rows(take)})
    found = find_recordings(source)
    assert found.release == "hq"
    assert found.takes[0].group == "/procedures/MISS/phases/2/takes/1"
    assert found.splits == {"MISS_2_1": "val"}


def test_folder_with_a_procedure_in_two_files(tmp_path: Path) -> None:
    """Section 1.1: Ultrasound/5 is in ultrasound_5_14 and ultrasound_5_58."""
    for name, number in (("ultrasound_5_14", 4), ("ultrasound_5_58", 5)):
        write_legacy(tmp_path / f"{name}.h5", [tiny_take("Ultrasound", 5, number)])
    found = find_recordings(tmp_path)
    assert [take.name for take in found.takes] == ["Ultrasound_5_4", "Ultrasound_5_5"]
    assert len(found.files) == 2


def test_what_macos_leaves_beside_copied_files_is_none_of_them(tmp_path: Path) -> None:
    write_legacy(tmp_path / "miss_1.h5", [tiny_take()])
    (tmp_path / "._miss_1.h5").write_bytes(b"\x00\x05\x16\x07")
    assert find_recordings(tmp_path).problems == ()


def test_splits_inside_the_file_in_any_order(tmp_path: Path) -> None:
    """Section 2.1: rows are frames, shuffled; validation is called val here."""
    takes = [tiny_take(number=number) for number in (1, 2, 3)]
    rows = {"train": split_rows(takes[0])[::-1], "validation": split_rows(takes[1]), "test": split_rows(takes[2])}
    found = find_recordings(write_legacy(tmp_path / "all.h5", takes, rows))
    assert found.splits == {"Ultrasound_1_1": "train", "Ultrasound_1_2": "val", "Ultrasound_1_3": "test"}
    assert found.split_frames["Ultrasound_1_1"] == takes[0].frames


def test_other_vocabulary_of_the_file_counts_and_is_told(tmp_path: Path) -> None:
    """Section 3.3: the file's own tables are preferred."""
    source = write_legacy(tmp_path / "a.h5", [tiny_take()], entities=(*RAW_ENTITIES, "robot"), predicates=("hugging",))
    found = find_recordings(source)
    tables = found.tables[source]
    assert tables.entities[37] == "robot"
    assert tables.predicates == {0: "hugging"}
    entity, predicate = found.notes
    assert "37 is robot, published nowhere" in entity
    assert "0 is hugging, published anesthasing; 1 is not there, published applying" in predicate


def test_damaged_table_is_told_and_replaced(tmp_path: Path) -> None:
    source = write_legacy(tmp_path / "a.h5", [tiny_take()])
    with h5py.File(source, "a") as file:
        del file["metadata/vocabulary/entity"]
        file["metadata/vocabulary/entity"] = np.arange(3)
        del file["metadata/sources"]
    found = find_recordings(source)
    assert found.tables[source] == Tables()
    absent, damaged = sorted(found.notes, key=lambda note: "entity" in note)
    assert absent == f"{source}:/metadata/sources/sources: is not there; the published table is used"
    assert damaged.startswith(f"{source}:/metadata/vocabulary/entity: must be rows of name, id")


# What is wrong.


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.h5: no such file or folder"):
        find_recordings(tmp_path / "nothing.h5")
    with pytest.raises(UserError, match=r"has no \.h5 file"):
        find_recordings(tmp_path)


def test_without_h5py(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_legacy(tmp_path / "a.h5", [tiny_take()])
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match=r'pip install "mmor\[egoexor\]"'):
        find_recordings(source)


def test_pointer_of_git_lfs(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n")
    assert "a.h5: is a pointer of Git LFS" in problem(tmp_path / "a.h5")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a zip", b"\x89HDF\r\n\x1a\n"])
def test_no_hdf5(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.h5").write_bytes(content)
    told = problem(tmp_path / "a.h5")
    assert told.startswith(f"{tmp_path / 'a.h5'}: ")
    assert "download it again" in told


@given(share=st.floats(0.01, 0.999))
def test_cut_off_file_costs_itself(tmp_path_factory: pytest.TempPathFactory, share: float) -> None:
    """Whatever the length at which a download stopped."""
    folder = tmp_path_factory.mktemp("cut")
    path = write_legacy(folder / "a.h5", [tiny_take(frames=2)])
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UserError) as error:
        find_recordings(path)
    assert str(error.value).startswith(f"{path}: is cut off")


def test_other_hdf5(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["weights"] = np.zeros(3)
    assert problem(tmp_path / "a.h5") == (
        f"{tmp_path / 'a.h5'}:/: is no file of EgoExOR, which has data, procedures or splits; it has weights"
    )


def test_two_releases_are_not_mixed(tmp_path: Path) -> None:
    """Section 1: the authors' merge tool refuses it, too."""
    write_legacy(tmp_path / "a.h5", [tiny_take()])
    write_hq(tmp_path / "b.h5", [tiny_take(number=2)])
    with pytest.raises(UserError, match=r"a\.h5 is of the legacy release and .*b\.h5 is of the hq release"):
        find_recordings(tmp_path)


def test_same_take_in_two_files_costs_it(tmp_path: Path) -> None:
    write_legacy(tmp_path / "a.h5", [tiny_take(), tiny_take(number=2)])
    write_legacy(tmp_path / "b.h5", [tiny_take()])
    found = find_recordings(tmp_path)
    assert [take.name for take in found.takes] == ["Ultrasound_1_2"]
    (told,) = found.problems
    assert f"{tmp_path / 'a.h5'}:/data/Ultrasound/1/take/1 and {tmp_path / 'b.h5'}" in told
    assert "Ultrasound_1_1 is there twice" in told


@pytest.mark.parametrize("name", ["01", "x", "..", "1\n2", "-1"])
def test_name_that_is_no_take(tmp_path: Path, name: str) -> None:
    write_legacy(tmp_path / "a.h5", [tiny_take()])
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file.move("data/Ultrasound/1/take/1", f"data/Ultrasound/1/take/{name}")
    assert "is no take: a name and two numbers are expected" in problem(tmp_path / "a.h5")


def test_names_that_are_no_text(tmp_path: Path) -> None:
    """As damage leaves them: h5py gives bytes for one, and fails at the other."""
    write_legacy(tmp_path / "a.h5", [tiny_take()])
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["data/Ultrasound"].create_group(b"\xff\xfe")
    assert "data/Ultrasound: has the name b'\\xff\\xfe', which is no text" in problem(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        write_splits(file, {"train": split_rows(tiny_take())})
    data = (tmp_path / "a.h5").read_bytes()
    (tmp_path / "a.h5").write_bytes(data.replace(b"take_id", b"ta\xcce_id"))
    assert problem(tmp_path / "a.h5").startswith(f"{tmp_path / 'a.h5'}:/splits/train: cannot be read (")


def test_links_out_of_the_file_are_not_followed(tmp_path: Path) -> None:
    """A file from strangers may name any other file of this machine."""
    write_legacy(tmp_path / "secret.h5x", [tiny_take()])
    for name, link in (
        ("external", h5py.ExternalLink("secret.h5x", "/data/Ultrasound/1/take/1")),
        ("soft", h5py.SoftLink("/data/Ultrasound/1/take/2")),
        ("lost", h5py.SoftLink("/nowhere")),
    ):
        folder = tmp_path / name
        folder.mkdir()
        path = write_legacy(folder / "a.h5", [tiny_take(number=2)])
        with h5py.File(path, "a") as file:
            file["data/Ultrasound/1/take/1"] = link
        found = find_recordings(path)
        assert [take.name for take in found.takes] == ["Ultrasound_1_2"]
        (told,) = found.problems
        assert told.startswith(f"{path}:/data/Ultrasound/1/take/1: is a link to another place, which is not followed")


@pytest.mark.parametrize("place", ["data/MISS", "data/Ultrasound/0", "data/Ultrasound/2/take"])
def test_a_link_above_takes_costs_no_take_beside_it(tmp_path: Path, place: str) -> None:
    path = write_legacy(tmp_path / "a.h5", [tiny_take(number=2, frames=1), tiny_take("Ultrasound", 3, 1, frames=1)])
    with h5py.File(path, "a") as file:
        file[place] = h5py.ExternalLink("b.h5", "/data")
    found = find_recordings(path)
    assert [take.name for take in found.takes] == ["Ultrasound_1_2", "Ultrasound_3_1"]
    (told,) = found.problems
    assert told.startswith(f"{path}:/{place}: is a link to another place")


def test_frame_in_two_splits_costs_its_take(tmp_path: Path) -> None:
    takes = [tiny_take(), tiny_take(number=2)]
    rows = {"train": split_rows(takes[0]), "test": [*split_rows(takes[1]), split_rows(takes[0])[3]]}
    found = find_recordings(write_legacy(tmp_path / "a.h5", takes, rows))
    assert [take.name for take in found.takes] == ["Ultrasound_1_2"]
    assert found.problems == (
        "splits: frame 3 of take Ultrasound_1_1 is in test and in train; each take belongs to one split",
    )


def test_take_in_two_splits(tmp_path: Path) -> None:
    rows = split_rows(take := tiny_take())
    found = find_recordings(
        write_legacy(tmp_path / "a.h5", [take, tiny_take(number=2)], {"train": rows[:2], "validation": rows[2:]})
    )
    assert "take Ultrasound_1_1 has frames in train and in val" in found.problems[0]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (np.zeros(3), "must be rows of surgery_type, procedure_id, take_id, frame_id; it has float64"),
        (
            np.zeros(2, [("surgery_type", "f4"), ("procedure_id", "i4"), ("take_id", "i4"), ("frame_id", "i4")]),
            "its column surgery_type is float32",
        ),
    ],
)
def test_splits_of_another_form(tmp_path: Path, values: np.ndarray, told: str) -> None:
    with h5py.File(tmp_path / "splits.h5", "w") as file:
        file["splits/train"] = values
    assert told in problem(tmp_path / "splits.h5")


def test_unknown_split(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "splits.h5", "w") as file:
        write_splits(file, {"holdout": split_rows(tiny_take())})
    assert "splits/holdout: is no known split; known are train, validation, test" in problem(tmp_path / "splits.h5")


# Cameras.


def cameras(tmp_path: Path, **attributes: object) -> tuple[str, ...]:
    """What `read_cameras` makes of the attributes of a take."""
    with h5py.File(tmp_path / "cameras.h5", "w") as file:
        file.create_group("sources").attrs.update(attributes)
        return read_cameras(file, SOURCES)


@given(order=st.permutations(MISS), as_bytes=st.booleans())
def test_cameras_in_the_order_of_the_take(
    tmp_path_factory: pytest.TempPathFactory, order: list[str], as_bytes: bool
) -> None:
    """Section 2: each take has its own order, as text or bytes."""
    names = {f"source_{i}": np.bytes_(name) if as_bytes else name for i, name in enumerate(order)}
    assert cameras(tmp_path_factory.mktemp("order"), source_count=len(order), **names) == tuple(order)


@pytest.mark.parametrize(
    ("attributes", "told"),
    [
        ({"source_count": 2, "source_0": "assistant"}, "source_count is 2, but source_1 is missing or no text"),
        ({"source_count": 1, "source_0": 5}, "source_0 is missing or no text"),
        ({"source_count": 1, "source_0": "assistant", "source_1": "simstation"}, "is 1, but source_1 is there too"),
        ({"source_count": 1, "source_0": "../../etc"}, "camera '../../etc' is in no table of sources"),
        ({"source_count": 2, "source_0": "assistant", "source_1": "assistant"}, "camera assistant is there twice"),
        ({"source_0": "assistant"}, "source_count is None, not 1 to 64"),
        ({"source_count": 1_000_000_000}, "source_count is 1000000000, not 1 to 64"),
        ({"source_count": "two"}, "sources: cannot be read"),
    ],
)
def test_wrong_cameras(tmp_path: Path, attributes: dict[str, object], told: str) -> None:
    with pytest.raises(UserError) as error:
        cameras(tmp_path, **attributes)
    assert told in str(error.value)
    assert f"{tmp_path / 'cameras.h5'}:/sources" in str(error.value)
