"""Raw labels to samples, and these to the files of all takes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from operating_room.domain.collection import Take
from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.graphs.graph_files import load_samples
from operating_room.graphs.scene_graph import Triplet
from operating_room.recordings.conversion import changes_since, convert, label_files
from operating_room.recordings.dataset import Dataset
from operating_room.recordings.raw_labels import read_labels
from operating_room.recordings.take import RecordedTake
from tests.operating_room.tiny_dataset import write
from tests.operating_room.tiny_house import write_house, write_take

FOURDOR_TAKE, MMOR_TAKE = mmor().find_take("002_4DOR"), mmor().find_take("001_PKA")
FOURDOR_FOLDER = "4D-OR_data/export_holistic_take2_processed/relation_labels"
MMOR_FOLDER = "MM-OR_data/001_PKA/relation_labels"


def fourdor(*relations: list[Any], roles: dict[str, str] | None = None) -> dict[str, Any]:
    return {"rel_annotations": [[*r, "", "head"] for r in relations], "human_name_annotations": roles or {}}


def graph(path: Path, take: Take) -> set[tuple[str, ...]]:
    return set(read_labels(path, take, mmor()).triplets)


def test_fourdor_people_get_roles_and_implied_relations(tmp_path: Path) -> None:
    roles = {"human_0": "head-surgeon", "human_1": "none", "human_2": "circulating-nurse"}
    raw = fourdor(
        ["human_0", "Sawing", "Patient"],
        ["human_1", "CloseTo", "instrument-table"],
        ["human_7", "Touching", "Patient"],
        ["human_2", "Operating", "secondary_table"],
        roles=roles,
    )
    sample = read_labels(write(tmp_path / "000012.json", raw), FOURDOR_TAKE, mmor())
    assert (sample.take_name, sample.frame_id) == ("002_4DOR", "000012")
    assert list(sample.triplets) == [
        ("circulator", "instrument_table", "closeTo"),
        ("circulator", "secondary_table", "manipulating"),
        ("head_surgeon", "instrument", "holding"),
        ("head_surgeon", "operating_table", "closeTo"),
        ("head_surgeon", "patient", "sawing"),
        ("patient", "operating_table", "lyingOn"),
    ]


def test_mmor_short_names_are_spelled_out_and_no_instrument_is_added(tmp_path: Path) -> None:
    raw = {
        "rel_annotations": [
            ["Anest", "Touching", "ot"],
            ["Head-Surgeon", "cutting", "patient"],
            ["mps", "closeTo", "AE"],
        ]
    }
    assert graph(write(tmp_path / "000000.json", raw), MMOR_TAKE) == {
        ("anaesthetist", "operating_table", "touching"),
        ("head_surgeon", "patient", "cutting"),
        ("head_surgeon", "operating_table", "closeTo"),
        ("mps", "anesthesia_equipment", "closeTo"),
        ("patient", "operating_table", "lyingOn"),
    }


def test_existing_relation_to_the_table_is_not_doubled(tmp_path: Path) -> None:
    raw = {"rel_annotations": [["nurse", "touching", "operating_table"], ["patient", "closeTo", "nurse"]]}
    assert ("nurse", "operating_table", "closeTo") not in graph(write(tmp_path / "000000.json", raw), MMOR_TAKE)


def test_same_triplet_twice_collapses_but_two_predicates_for_a_pair_are_refused(tmp_path: Path) -> None:
    twice = [["nurse", "holding", "saw"], ["nurse", "Holding", "saw"]]
    assert graph(write(tmp_path / "000000.json", {"rel_annotations": twice}), MMOR_TAKE) == {
        ("nurse", "saw", "holding")
    }
    path = write(
        tmp_path / "000001.json", {"rel_annotations": [["nurse", "holding", "saw"], ["nurse", "touching", "saw"]]}
    )
    with pytest.raises(UserError, match=r"000001\.json: holding and touching between nurse and saw"):
        read_labels(path, MMOR_TAKE, mmor())


@pytest.mark.parametrize(
    "raw",
    [
        [],
        {},
        {"rel_annotations": 3},
        {"rel_annotations": ""},
        {"rel_annotations": {}},
        {"rel_annotations": ["abc"]},
        {"rel_annotations": [["nurse", "saw"]]},
        '"text"',
    ],
)
@pytest.mark.parametrize("take", [FOURDOR_TAKE, MMOR_TAKE])
def test_malformed_label_files_are_named(tmp_path: Path, raw: Any, take: Take) -> None:
    with pytest.raises(UserError, match=r"000000\.json: .*relation label file"):
        read_labels(write(tmp_path / "000000.json", _with_people(raw)), take, mmor())


def _with_people(raw: Any) -> Any:
    return {**raw, "human_name_annotations": {}} if isinstance(raw, dict) else raw


@pytest.mark.parametrize(
    ("take", "relation", "said"),
    [
        (MMOR_TAKE, ["head_surgeon", "Holding", "banana"], "'banana' is no entity"),
        (MMOR_TAKE, ["nruse", "Holding", "saw"], r"'nruse' is no entity \(is it nurse\?\)"),
        (MMOR_TAKE, ["nurse", "saw", "holding"], "'holding' is no entity, 'saw' is no predicate"),
        (FOURDOR_TAKE, ["human_0", "Touchin", "drape", "", ""], r"'touchin' is no predicate \(is it touching\?\)"),
    ],
)
def test_names_outside_the_tables_are_named(tmp_path: Path, take: Take, relation: list[str], said: str) -> None:
    """Fault 9: a misspelt name became an answer to learn."""
    path = write(tmp_path / "000000.json", {"rel_annotations": [relation], "human_name_annotations": {}})
    with pytest.raises(UserError, match=rf"000000\.json: the true relation .*{said}"):
        read_labels(path, take, mmor())


@pytest.mark.parametrize("raw", ["ot", "AE", "anest", "tool", "opertating_table", "Head-Surgeon"])
def test_spellings_met_in_labels_are_names(tmp_path: Path, raw: str) -> None:
    path = write(tmp_path / "000000.json", {"rel_annotations": [[raw, "CloseTo", "drape"]]})
    assert len(graph(path, MMOR_TAKE)) >= 1


@pytest.mark.parametrize("name", ["5", "00005", "x", "0000005 (copy)", "-00001"])
def test_label_files_are_named_after_a_frame(tmp_path: Path, name: str) -> None:
    """Fault 24: 5.json became frame 5, of which no prediction was found."""
    with pytest.raises(UserError, match=r"\.json: the name must be a frame id of six digits"):
        read_labels(write(tmp_path / f"{name}.json", {"rel_annotations": []}), MMOR_TAKE, mmor())


def test_own_takes_that_cannot_be_used_are_told(tmp_path: Path) -> None:
    """Fault 15: the index was there, and the name was the reason."""
    write(tmp_path / FOURDOR_FOLDER / "000000.json", fourdor())
    for name in ("OP 12", "knee_MMOR"):
        write(tmp_path / "MM-OR_data" / name / "relation_labels" / "000000.json", {"rel_annotations": []})
        write(tmp_path / "MM-OR_data" / name / "timestamp_to_pcd_and_frames_list.json", [["000000", {}]])
    problems = convert(Dataset(tmp_path), tmp_path / "out").problems
    assert [Path(problem.split(": ")[0]).name for problem in problems] == ["OP 12", "knee_MMOR"]
    assert all("because of its name" in problem and "index" not in problem for problem in problems)


def test_names_that_are_all_there_are_not_written_again(tmp_path: Path) -> None:
    write(tmp_path / MMOR_FOLDER / "000001.json", {"rel_annotations": [["nurse", "holding", "saw"]]})
    out = tmp_path / "out"
    out.mkdir()
    (out / "classes.txt").write_text("drape\ninstrument\nnurse\nsaw")
    (out / "relationships.txt").write_text("touching")
    written = convert(Dataset(tmp_path), out).written
    assert (out / "classes.txt").read_text() == "drape\ninstrument\nnurse\nsaw"
    assert (out / "relationships.txt").read_text() == "holding"
    assert [path.name for path in written[3:]] == ["relationships.txt"]


def test_007_is_thinned_by_position_and_shared_folders_are_kept_apart(tmp_path: Path) -> None:
    for frame in (0, 2, 4, 6, 8):
        write(tmp_path / f"007_TKA/relation_labels/{frame:06d}.json", {"rel_annotations": []})
    assert [path.stem for path in label_files(RecordedTake(tmp_path, mmor().find_take("007_TKA"), mmor()))] == [
        "000000",
        "000006",
    ]
    write(tmp_path / "012_PKA/relation_labels_012_2_PKA/000003.json", {"rel_annotations": []})
    assert not label_files(RecordedTake(tmp_path, mmor().find_take("012_1_PKA"), mmor()))
    assert [path.stem for path in label_files(RecordedTake(tmp_path, mmor().find_take("012_2_PKA"), mmor()))] == [
        "000003"
    ]


def test_convert_writes_splits_and_names_and_reports_bad_files(tmp_path: Path) -> None:
    write(tmp_path / FOURDOR_FOLDER / "000000.json", fourdor(["human_0", "Touching", "drape"]))
    write(tmp_path / MMOR_FOLDER / "000001.json", {"rel_annotations": [["nurse", "holding", "saw"]]})
    write(tmp_path / MMOR_FOLDER / "000002.json", {"rel_annotations": [["nurse"]]})
    (tmp_path / MMOR_FOLDER / "000003.json").write_bytes(b'{"rel_anno')
    write(
        tmp_path / "MM-OR_data/013_PKA/relation_labels/000000.json",
        {"rel_annotations": [["mps", "scanning", "monitor"]]},
    )
    result = convert(Dataset(tmp_path), tmp_path / "out")
    assert [path.name for path in result.written] == [
        *("relationships_train.json", "relationships_validation.json", "relationships_test.json"),
        *("classes.txt", "relationships.txt"),
    ]
    assert [Path(problem.split(": ")[0]).name for problem in result.problems] == ["000002.json", "000003.json"]
    train, validation, test = (load_samples(path) for path in result.written[:3])
    assert [sample.sample_id for sample in train] == ["001_PKA_MMOR_000001"]
    assert validation == []
    assert [sample.triplets for sample in test] == [(Triplet("circulator", "drape", "touching"),)]
    names = (tmp_path / "out/classes.txt").read_text().split("\n")
    assert names == ["circulator", "drape", "instrument", "monitor", "mps", "nurse", "saw"]  # the short clip included
    assert (tmp_path / "out/relationships.txt").read_text() == "holding\nscanning\ntouching"


def test_takes_without_labels_on_disk_stay_in_files_that_are_there(tmp_path: Path) -> None:
    """Who put the published files beside some of the takes lost the graphs of all others."""
    write(tmp_path / MMOR_FOLDER / "000001.json", {"rel_annotations": [["nurse", "holding", "saw"]]})
    (tmp_path / "MM-OR_data/003_TKA").mkdir()
    takes = ("001_4DOR", "001_PKA_MMOR", "003_TKA_MMOR", "002_PKA_MMOR")
    old = [{"take_name": name, "frame_id": "000007", "relationships": []} for name in takes]
    write(tmp_path / "relationships_train.json", old)
    result = convert(Dataset(tmp_path), tmp_path)
    ids = [sample.sample_id for sample in load_samples(tmp_path / "relationships_train.json")]
    assert ids == ["001_4DOR_000007", "001_PKA_MMOR_000001", "003_TKA_MMOR_000007"]  # 002_PKA is of another split
    (note,) = result.notes
    assert note.endswith("relationships_train.json: takes without labels on disk stay in it: 001_4DOR, 003_TKA_MMOR")

    (tmp_path / "relationships_train.json").write_text('[{"take_name": "001_4D')
    (note,) = convert(Dataset(tmp_path), tmp_path).notes
    assert note.startswith(f"{tmp_path / 'relationships_train.json'}: ")
    assert note.endswith("; it is written anew, from what is on disk")
    assert len(load_samples(tmp_path / "relationships_train.json")) == 1


def test_a_take_in_a_split_of_another_name_only_is_told(tmp_path: Path) -> None:
    """Its labels would be in no file, and it is none of one's own either."""
    root = write_house(tmp_path)
    write_take(root / "takes" / "night")
    write(root / "splits.yaml", "train: [soup]\nval: [stew]\nhard: [stew]\ndark: [night]\n")
    (problem,) = convert(Dataset(root), root).problems
    assert problem.startswith(f"{root / 'splits.yaml'}: take night is in dark and in none of train, val and test, so")
    write(root / "splits.yaml", "train: [soup]\nval: [stew]\nhard: [stew]\n")
    assert not convert(Dataset(root), root).problems
    assert {sample.take_name for sample in load_samples(root / "relationships_own.json")} == {"night"}


def test_convert_accepts_the_folder_of_one_dataset(tmp_path: Path) -> None:
    write(tmp_path / MMOR_FOLDER / "000001.json", {"rel_annotations": []})
    written = convert(Dataset(tmp_path / "MM-OR_data"), tmp_path / "out").written
    assert [sample.sample_id for sample in load_samples(written[0])] == ["001_PKA_MMOR_000001"]


def test_convert_without_labels_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds neither"):
        convert(Dataset(tmp_path), tmp_path / "out")
    write(tmp_path / MMOR_FOLDER / "000001.json", [])
    with pytest.raises(UserError, match=r"the first of 1 problems.*000001\.json"):
        convert(Dataset(tmp_path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folders_of_no_published_take_are_reported(tmp_path: Path) -> None:
    write(tmp_path / FOURDOR_FOLDER / "000000.json", fourdor())
    write(tmp_path / "4D-OR_data/export_holistic_take11_processed/relation_labels/000000.json", fourdor())
    write(tmp_path / "MM-OR_data/900_PKA/relation_labels/000000.json", {"rel_annotations": []})
    problems = convert(Dataset(tmp_path), tmp_path / "out").problems
    assert [Path(problem.split(": ")[0]).name for problem in problems] == [
        "export_holistic_take11_processed",
        "900_PKA",
    ]


def test_converting_again_reads_what_it_wrote(tmp_path: Path) -> None:
    root = write_house(tmp_path / "kitchen")
    for graph in (root / "takes").rglob("graphs/*.json"):
        write(graph, [])
    for _ in range(2):
        assert convert(Dataset(root), tmp_path).problems == []
    assert (tmp_path / "classes.txt").read_text() == ""


def test_names_of_a_file_with_a_byte_order_mark_are_there_too(tmp_path: Path) -> None:
    """As Notepad saves it: its first name was taken for missing, and the names of few takes replaced those of all."""
    write(tmp_path / MMOR_FOLDER / "000001.json", {"rel_annotations": [["nurse", "holding", "saw"]]})
    out = tmp_path / "out"
    out.mkdir()
    content = b"\xef\xbb\xbfinstrument\r\nnurse\r\nsaw\r\nscalpel\r\n"
    (out / "classes.txt").write_bytes(content)
    convert(Dataset(tmp_path), out)
    assert (out / "classes.txt").read_bytes() == content


def test_fewer_labels_than_before_are_told(tmp_path: Path) -> None:
    """A take that is copied to the half replaced all of its samples in the published file, without a word."""
    for frame in range(3):
        write(tmp_path / MMOR_FOLDER / f"{frame:06d}.json", {"rel_annotations": []})
    before = [{"take_name": "001_PKA_MMOR", "frame_id": f"{k:06d}", "relationships": []} for k in range(800)]
    write(tmp_path / "relationships_train.json", before)
    (note,) = convert(Dataset(tmp_path), tmp_path).notes
    assert "relationships_train.json: had 800 timepoints of 001_PKA_MMOR, 3 have usable labels on disk" in note
    assert not convert(Dataset(tmp_path), tmp_path).notes  # as many as before


def test_labels_and_splits_that_changed_since_are_told(tmp_path: Path) -> None:
    """Samples and scores of a room were made of what labels said when they were converted, without a word."""
    root = write_house(tmp_path / "room")
    convert(Dataset(root), root)
    path = root / "relationships_train.json"

    def changes() -> str | None:
        return changes_since(Dataset(root), "train", path, load_samples(path))

    def correct(label: Path, graph: list[list[str]]) -> None:
        write(label, graph)
        later = path.stat().st_mtime_ns + 10**9
        os.utime(label, ns=(later, later))

    labels = root / "takes" / "soup" / "graphs"
    correct(labels / "000000.json", json.loads((labels / "000000.json").read_text("utf-8")))
    assert changes() is None  # saved again, as it was
    correct(labels / "000000.json", [["helper", "stove", "beside"]])
    assert changes() == "has other labels of soup than are in their folders now"
    convert(Dataset(root), root)
    (labels / "000001.json").unlink()
    assert changes() == "has other labels of soup than are in their folders now"
    convert(Dataset(root), root)
    assert changes() is None
    write_take(root / "takes" / "broth")
    write(root / "splits.yaml", "train: [broth]\nval: [stew]\ntest: [soup]\n")
    assert changes() == "lacks broth; has soup, not of train any more"
    convert(Dataset(root), root)
    assert changes() is None
    write(root / "splits.yaml", "val: [stew]\n")
    assert changes() is None  # nobody knows which takes are meant
