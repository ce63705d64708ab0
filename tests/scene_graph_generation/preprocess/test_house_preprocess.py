"""Preprocessing and samples of another room, in the house layout: time is that of the period, sound is flac."""

from __future__ import annotations

import io
from pathlib import Path
from random import Random

import numpy as np
import pytest
import soundfile

from operating_room.doctor.checkup import check
from operating_room.domain.collection import Take
from operating_room.errors import UserError
from operating_room.files.readers import read_audio, read_json, read_label_mask
from operating_room.graphs.scene_graph import Sample
from operating_room.recordings.dataset import Dataset
from scene_graph_generation.preprocess.audio import preprocess_audio
from scene_graph_generation.preprocess.embeddings import mel_encoder, preprocess_audio_embeddings
from scene_graph_generation.preprocess.masks import preprocess_masks
from scene_graph_generation.preprocess.overlay import overlay
from scene_graph_generation.preprocess.transcripts import preprocess_transcripts
from scene_graph_generation.samples.records import SampleOptions, training_records
from scene_graph_generation.samples.sample_modalities import choose_modalities
from tests.operating_room.tiny_dataset import write
from tests.operating_room.tiny_house import FRAMES, write_house

RATE = 8000  # Hz


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    root = write_house(tmp_path / "Kitchen_data")
    wave = np.arange(3 * RATE, dtype=np.float64) / (4 * RATE)  # tells where a clip was cut out
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, RATE, format="FLAC")
    for take in ("soup", "stew"):
        write(root / "takes" / take / "sound.flac", buffer.getvalue())
        write(root / "takes" / take / "transcript.srt", "1\n00:00:00,000 --> 00:00:01,000\nstir it\n")
    return Dataset(root)


def takes(dataset: Dataset) -> list[Take]:
    return dataset.choose(["soup"])


def test_everything_is_made_and_checked(dataset: Dataset, tmp_path: Path) -> None:
    chosen = takes(dataset)
    folder = tmp_path / "Kitchen_data/takes/soup"
    assert preprocess_audio(dataset, chosen).require() == FRAMES
    start, _ = read_audio(folder / "audio" / "000003.flac")  # at 1.5 s: from 0.5 s to 2.5 s
    assert (len(start), start[0, 0]) == (2 * RATE, pytest.approx(0.5 / 4, abs=1e-3))
    assert preprocess_transcripts(Dataset(tmp_path / "Kitchen_data"), chosen).require() == FRAMES
    texts = [read_json(folder / "transcripts" / f"{frame:06d}.json")["text"] for frame in range(FRAMES)]
    assert texts == ["", "", "stir it", "stir it"]  # half a second apart
    assert preprocess_audio_embeddings(Dataset(tmp_path / "Kitchen_data"), chosen, mel_encoder).require() == FRAMES
    assert preprocess_masks(Dataset(tmp_path / "Kitchen_data"), chosen, None, as_predictions=True).require() == FRAMES
    assert read_label_mask(folder / "masks" / "000000_0.png").shape == (32, 32)
    report = check(Dataset(tmp_path / "Kitchen_data"), ["soup"])
    assert all("masks of take soup" in finding.message for finding in report.findings)  # one camera of two has some


def test_sound_that_no_clip_can_hold_costs_its_take(dataset: Dataset, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros((3 * RATE, 10)), RATE, format="WAV")  # ten microphones; flac has room for eight
    write(tmp_path / "Kitchen_data/takes/soup/sound.flac", buffer.getvalue())
    made = preprocess_audio(dataset, dataset.choose(["soup", "stew"]))
    (problem,) = made.problems
    assert "soup/sound.flac: its sound does not fit into clips of flac" in problem
    assert made.written == FRAMES
    assert not list((tmp_path / "Kitchen_data/takes/soup/audio").glob("*.flac"))


def test_samples_have_what_this_room_can_have(dataset: Dataset) -> None:
    modalities = choose_modalities(None, dataset.domain)
    assert {"AZURE", "EGO", "GAZE", "HANDS", "PC"} <= set(modalities)
    assert not {"ROBOTLOG", "ROBOTMETA", "TRACKINGMETA", "TRACKERCAM"} & set(modalities)
    samples = [Sample("soup", f"{frame:06d}", ()) for frame in range(2)]
    options = SampleOptions(permutations=1, modalities=modalities)
    record = next(iter(training_records(dataset, samples, options, Random(0))))
    assert record["image"] == [f"takes/soup/views/{c}/000000.jpg" for c in ("glasses", "ceiling", "door", "screen")]
    assert record["gaze"] == "takes/soup/gaze/000000.npy"
    assert record["pc"] == "takes/soup/clouds/000000.npz"
    assert record["conversations"][0]["value"].startswith("<image>\nEntities: [cook, helper, pan, stove].")


@pytest.mark.parametrize("folder", ["", "beside", "takes/soup"])
def test_a_folder_inside_of_the_room_is_refused(dataset: Dataset, folder: str) -> None:
    before = set(dataset.root.rglob("*"))
    with pytest.raises(UserError, match="is the dataset itself, or in it; leave out --out"):
        overlay(dataset, dataset.root / folder)
    assert set(dataset.root.rglob("*")) == before  # and a dataset within a dataset is not begun


def test_data_and_out_the_wrong_way_round_are_told(dataset: Dataset, tmp_path: Path) -> None:
    """What was made in the one came into the other as links to it."""
    made = overlay(dataset, tmp_path / "beside")
    assert preprocess_transcripts(made, takes(made)).require() == FRAMES
    before = set(dataset.root.rglob("*"))
    with pytest.raises(UserError, match="are --data and --out the wrong way round"):
        overlay(made, dataset.root)
    assert set(dataset.root.rglob("*")) == before
    overlay(made, tmp_path / "third")  # beside both


def test_a_folder_beside_reads_as_the_room_itself(dataset: Dataset, tmp_path: Path) -> None:
    made = overlay(dataset, tmp_path / "beside")
    assert preprocess_transcripts(made, takes(made)).require() == FRAMES
    assert not (tmp_path / "Kitchen_data/takes/soup/transcripts").exists()
    again = Dataset(tmp_path / "beside")
    assert again.domain == dataset.domain
    assert [take.name for take in again.takes()] == ["soup", "stew"]
    assert again.take(takes(again)[0]).timepoints[2].one("transcript") is not None


@pytest.mark.parametrize("step", ["audio", "audio_embeddings"])
def test_16_bit_numbers_that_are_stored_as_floats_are_in_no_clip(dataset: Dataset, tmp_path: Path, step: str) -> None:
    """They were told once they were in all clips, and the second run took these for good and said nothing."""
    root, buffer = tmp_path / "Kitchen_data", io.BytesIO()
    soundfile.write(buffer, np.sin(np.arange(3 * RATE)) * 20_000, RATE, format="WAV", subtype="FLOAT")
    write(root / "takes" / "soup" / "sound.flac", buffer.getvalue())
    for _ in range(2):
        again = Dataset(root)
        made = (
            preprocess_audio(again, takes(again))
            if step == "audio"
            else preprocess_audio_embeddings(again, takes(again), mel_encoder)
        )
        assert "has samples up to" in " ".join(made.problems)
        assert not [*(root / "takes" / "soup").glob(f"{step}/[0-9]*")]
