"""A take as a FiftyOne folder: its files against the documented form. FiftyOne itself needs a database."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from mmor import cli
from operating_room.files.readers import read_json, read_label_mask, read_picture
from tests.operating_room.tiny_dataset import MMOR_NAME, write_dataset
from tests.operating_room.tiny_house import write_house

RUN = CliRunner()


def export(root: Path, out: Path, *arguments: str) -> Path:
    """Run the command."""
    result = RUN.invoke(cli.app, ["export", "fiftyone", *arguments, "--data", str(root), "--out", str(out)])
    assert result.exit_code == 0, result.output
    return Path(result.output.strip())


def test_samples_point_to_pictures_and_masks(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "data")
    folder = export(root, tmp_path / "out", MMOR_NAME)
    metadata, samples = read_json(folder / "metadata.json"), read_json(folder / "samples.json")["samples"]
    assert metadata["media_type"] == "image"
    assert "version" not in metadata  # by which its reader knows that fields are to be found in the samples
    assert metadata["info"]["mask_targets"]["5"] == "patient"
    assert len(samples) == 3 * 10
    for sample in samples:
        height, width, _ = read_picture(Path(sample["filepath"])).shape
        assert sample["metadata"] == {"_cls": "ImageMetadata", "width": width, "height": height}
        assert "train" in sample["tags"]
    masked = [sample for sample in samples if "ground_truth" in sample]
    assert len(masked) == 18
    for sample in masked:
        assert sample["ground_truth"]["_cls"] == "Segmentation"
        assert set(np.unique(read_label_mask(Path(sample["ground_truth"]["mask_path"])))) == {0, 5, 10}
    first = samples[0]
    assert (first["take"], first["frame_id"], first["seconds"], first["speech"]) == (
        MMOR_NAME,
        "000000",
        1.0,
        "the saw",
    )
    (label,) = [each for each in first["graph"]["classifications"] if each["label"] == "holding"]
    assert (label["subject"], label["object"]) == ("nurse", "saw")


def test_speech_that_was_not_prepared_is_that_of_the_subtitles(tmp_path: Path) -> None:
    """It was left out, without a word."""
    root = write_dataset(tmp_path / "data")

    def speech(out: str) -> list[str]:
        samples = read_json(export(root, tmp_path / out, MMOR_NAME) / "samples.json")["samples"]
        return [sample["speech"] for sample in samples[::10]]

    assert speech("prepared") == ["the saw"] * 3
    shutil.rmtree(root / "MM-OR_data" / "take_transcripts_per_timepoint")
    assert speech("raw") == ["the saw", "the saw thank you", "the saw thank you"]


def test_pictures_can_be_copied(tmp_path: Path) -> None:
    root = write_house(tmp_path / "kitchen")
    folder = export(root, tmp_path / "out", "soup", "--pictures")
    samples = read_json(folder / "samples.json")["samples"]
    copied = [folder / sample["filepath"] for sample in samples]
    assert len(set(copied)) == 16
    assert all(path.is_file() for path in copied)
    assert samples[-1]["seconds"] == 1.5


def test_fiftyones_own_reader_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its database: it makes samples of the folder, which are stored afterwards."""
    monkeypatch.setenv("FIFTYONE_DO_NOT_TRACK", "1")
    pytest.importorskip("fiftyone", reason="FiftyOne is not installed")
    from fiftyone.utils.data.importers import FiftyOneDatasetImporter

    root = write_dataset(tmp_path / "data")
    reader = FiftyOneDatasetImporter(str(export(root, tmp_path / "out", MMOR_NAME)))
    assert reader._is_legacy_format_data()
    with reader._to_legacy_importer() as samples:
        found = list(samples)
    assert len(found) == 30
    masked = [sample for sample in found if sample.has_field("ground_truth")]
    assert len(masked) == 18
    assert set(np.unique(masked[0]["ground_truth"].get_mask())) == {0, 5, 10}
    assert "holding" in {each.label for each in found[0]["graph"].classifications}
