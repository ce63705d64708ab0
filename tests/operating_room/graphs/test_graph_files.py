"""Files of samples and of predictions."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest

from mmor.live.live import LiveSecond
from operating_room.errors import UserError
from operating_room.graphs.graph_files import load_predictions, load_samples, save_predictions, save_samples
from operating_room.graphs.scene_graph import Triplet
from tests.operating_room.graphs import random_samples
from tests.operating_room.tiny_dataset import write


@pytest.mark.parametrize("frame_id", [17, 17.0, "17", "000017", "0017"])
def test_frame_ids_have_one_spelling(tmp_path: Path, frame_id: object) -> None:
    record = {"take_name": "001_PKA_MMOR", "frame_id": frame_id, "relationships": [["nurse ", " saw", "holding "]]}
    (sample,) = load_samples(write(tmp_path / "relationships_test.json", [record]))
    assert (sample.frame_id, sample.position) == ("000017", 17)
    assert sample.triplets == (Triplet("nurse", "saw", "holding"),)
    with pytest.raises(UserError, match="001_PKA_MMOR_000017 is there 2 times"):
        load_samples(write(tmp_path / "relationships_test.json", [record, record | {"frame_id": "017"}]))


@pytest.mark.parametrize("frame_id", ["1e3", "../../../x", "frame_7", "-1", "000001\n", "\uff11", ""])
def test_frame_ids_that_are_no_number_are_named_by_who_needs_one(tmp_path: Path, frame_id: str) -> None:
    """Fault 53."""
    record = {"take_name": "001_PKA_MMOR", "frame_id": frame_id, "relationships": []}
    (sample,) = load_samples(write(tmp_path / "relationships_test.json", [record]))
    with pytest.raises(UserError, match="frame_id must be a position in the take's index") as error:
        _ = sample.position
    assert "\n" not in str(error.value)


def test_samples_round_trip_plain_and_packed(tmp_path: Path) -> None:
    samples = random_samples(20, 0)
    save_samples(tmp_path / "relationships_test.json", samples)
    assert load_samples(tmp_path / "relationships_test.json") == samples
    packed = tmp_path / "relationships_test.json.gz"
    packed.write_bytes(gzip.compress((tmp_path / "relationships_test.json").read_bytes()))
    assert load_samples(packed) == samples


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'[{"take_name": "a"}]', b"[{", b"\xff\xfe"])
def test_bad_sample_files_are_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "relationships_test.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"relationships_test\.json"):
        load_samples(path)


def test_missing_file_folder_and_double_sample_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent"):
        load_samples(tmp_path / "absent.json")
    with pytest.raises(UserError, match="folder"):
        load_samples(tmp_path)
    save_samples(tmp_path / "double.json", random_samples(2, 0, ("001_4DOR",)) * 2)
    with pytest.raises(UserError, match="001_4DOR_000000 is there 2 times"):
        load_samples(tmp_path / "double.json")


def test_predictions_are_stored_in_published_order(tmp_path: Path) -> None:
    predictions = {"001_PKA_MMOR_000000": [Triplet("head surgeon", "patient", "cutting")], "001_PKA_MMOR_000001": []}
    path = tmp_path / "scan_relations.json"
    save_predictions(path, predictions)
    assert json.loads(path.read_text())["001_PKA_MMOR_000000"] == [["head surgeon", "cutting", "patient"]]
    assert load_predictions(path) == predictions
    for content in ("[]", '{"a": 1}', '{"a": ["abc"]}', '{"a": [["b", "c", 3]]}'):
        path.write_text(content)
        with pytest.raises(UserError, match=r"scan_relations\.json"):
            load_predictions(path)


@pytest.mark.parametrize(
    ("graph", "told"),
    [
        ([["patient", "lyingOn", "operating_table"], ["nurse", "closeTo"]], "['nurse', 'closeTo']"),
        ([["nurse", "closeTo", 3]], "['nurse', 'closeTo', 3]"),
        ([["nurse", "closeTo", "patient", "patient"]], "['nurse', 'closeTo', 'patient', 'patient']"),
        (["nurse,closeTo,patient"], "nurse,closeTo,patient"),
        ("<SG> nurse,patient,closeTo; </SG>", "<SG> nurse,patient,closeTo; </SG>"),
        (None, "None"),
    ],
)
def test_a_bad_prediction_is_named(tmp_path: Path, graph: object, told: str) -> None:
    path = tmp_path / "graphs.json"
    path.write_text(json.dumps({"004_PKA_MMOR_000000": [], "004_PKA_MMOR_000001": graph}))
    expected = f"{path}: 004_PKA_MMOR_000001 has {told!r}; predictions map sample ids to lists of"
    with pytest.raises(UserError, match=re.escape(expected)):
        load_predictions(path)


def test_predictions_are_an_object(tmp_path: Path) -> None:
    path = tmp_path / "graphs.json"
    path.write_text('["004_PKA_MMOR_000000"]')
    with pytest.raises(UserError, match="predictions map sample ids to lists of"):
        load_predictions(path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"task": "scene_graph", "about": {}, "samples": {}}, "holds scores that `evaluate` wrote"),
        ({"windows": {}, "vpq": 3.0}, "holds scores that `evaluate` wrote"),
        ({"annotations": []}, "holds masks"),
        ([{"take_name": "004_PKA", "frame_id": "000001", "relationships": []}], "holds annotated samples"),
    ],
)
def test_other_files_than_predictions_are_told_by_what_they_hold(tmp_path: Path, content: object, told: str) -> None:
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"predictions.json: {told}; give the file that"):
        load_predictions(path)


def test_live_answers_are_told_from_predictions(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    second = LiveSecond("001_PKA", "000001", 1.0, (), "", (), (), {}, 0.0, 0).to_json()
    for seconds in (1, 2):  # a single line is JSON
        path.write_text(f"{second}\n" * seconds)
        with pytest.raises(UserError, match=r"holds what `mmor live` answered.*`mmor view --live`"):
            load_predictions(path)
    path.write_text('{"004_PKA": []\n')
    with pytest.raises(UserError, match="is not valid JSON"):
        load_predictions(path)
    with pytest.raises(UserError, match=re.escape(str(tmp_path))):
        load_predictions(tmp_path)
