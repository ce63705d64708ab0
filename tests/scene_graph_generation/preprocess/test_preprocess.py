"""Clips, embeddings, transcripts and small masks of a take."""

from __future__ import annotations

import json
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

from computing import machine
from computing.machine import Gpu
from operating_room.domain.collection import Take
from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.files.readers import read_audio
from operating_room.recordings.dataset import Dataset
from operating_room.work import progress
from scene_graph_generation.preprocess import transcripts
from scene_graph_generation.preprocess.audio import preprocess_audio
from scene_graph_generation.preprocess.embeddings import (
    ClapEncoder,
    as_published,
    as_trained,
    clap_encoder,
    mel_descriptor,
    mel_encoder,
    preprocess_audio_embeddings,
    scale_clip,
)
from scene_graph_generation.preprocess.masks import preprocess_masks
from scene_graph_generation.preprocess.transcripts import preprocess_transcripts
from tests.operating_room.published import mask_place, place
from tests.operating_room.tiny_dataset import picture, write, write_dataset

TAKE, ROOMLESS = mmor().find_take("001_PKA"), mmor().find_take("001_4DOR")
TIMES = ["000001", "000002", "000003"]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """The tiny dataset without anything that preprocessing writes."""
    write_dataset(tmp_path)
    for root in ("MM-OR_data", "4D-OR_data"):
        for path in (tmp_path / root).glob("*per_timepoint*"):
            shutil.rmtree(path)
    return Dataset(tmp_path)


def stored(dataset: Dataset, folder: str) -> list[str]:
    return sorted(path.name for path in (dataset.roots["MMOR"] / folder / TAKE.name).iterdir() if path.name[0] != ".")


def test_clips_last_two_seconds_and_are_written_once(dataset: Dataset) -> None:
    assert preprocess_audio(dataset, [TAKE, ROOMLESS]).require() == 3
    assert stored(dataset, "take_audio_per_timepoint") == [f"{time}.mp3" for time in TIMES]
    samples, rate = read_audio(place(dataset.roots["MMOR"], "audio", TAKE, time=TIMES[0]))
    assert len(samples) / rate == pytest.approx(2.0, abs=0.15)
    assert preprocess_audio(dataset, [TAKE]).require() == 0
    place(dataset.roots["MMOR"], "audio", TAKE, time=TIMES[1]).unlink()
    assert preprocess_audio(dataset, [TAKE]).require() == 1


def test_embeddings_are_made_without_clips(dataset: Dataset) -> None:
    assert preprocess_audio_embeddings(dataset, [TAKE, ROOMLESS], mel_encoder).require() == 3
    assert stored(dataset, "take_audio_embeddings_per_timepoint") == [f"{time}.pt" for time in TIMES]
    vector = torch.load(place(dataset.roots["MMOR"], "audio_embedding", TAKE, time=TIMES[0]), weights_only=True)
    assert vector.shape == (512,)
    assert not (dataset.roots["MMOR"] / "take_audio_per_timepoint").exists()
    assert preprocess_audio_embeddings(dataset, [TAKE], mel_encoder).require() == 0


def test_embeddings_are_the_same_from_recording_and_clips(dataset: Dataset) -> None:
    def vectors() -> torch.Tensor:
        preprocess_audio_embeddings(dataset, [TAKE], mel_encoder).require()
        paths = [place(dataset.roots["MMOR"], "audio_embedding", TAKE, time=time) for time in TIMES]
        stored = torch.stack([torch.load(path, weights_only=True) for path in paths])
        shutil.rmtree(paths[0].parent)
        return stored

    preprocess_audio(dataset, [TAKE]).require()
    from_recording = vectors()
    place(dataset.roots["MMOR"], "recording", TAKE).unlink()
    torch.testing.assert_close(vectors(), from_recording, rtol=1e-4, atol=1e-4)


def test_a_take_without_recording_is_passed_over(dataset: Dataset) -> None:
    place(dataset.roots["MMOR"], "recording", TAKE).unlink()
    assert preprocess_audio(dataset, [TAKE]).require() == 0
    assert preprocess_audio_embeddings(dataset, [TAKE], mel_encoder).require() == 0


def test_clips_hold_just_the_samples_of_their_window(dataset: Dataset) -> None:
    whole, rate = read_audio(place(dataset.roots["MMOR"], "recording", TAKE))
    preprocess_audio(dataset, [TAKE]).require()
    for time, start, end in ((TIMES[0], 0, 2), (TIMES[1], 1, 3), (TIMES[2], 2, 3)):
        clip, _ = read_audio(place(dataset.roots["MMOR"], "audio", TAKE, time=time))
        np.testing.assert_allclose(clip, whole[start * rate : end * rate], atol=1e-6)


def test_causal_clips_end_at_their_second(dataset: Dataset) -> None:
    preprocess_audio(dataset, [TAKE], causal=True).require()
    lengths = {}
    for time in TIMES:
        samples, rate = read_audio(place(dataset.roots["MMOR"], "audio", TAKE, time=time))
        lengths[time] = len(samples) / rate
    assert lengths == {"000001": 1.0, "000002": 2.0, "000003": 2.0}


def test_a_second_that_no_sound_can_be_before_is_not_asked_for_again(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CLAP was loaded, and the recording read, each time: a take with second 0 was never done."""
    seconds = place(dataset.roots["MMOR"], "seconds", TAKE)
    write(seconds, seconds.read_text().replace('"1"', '"0"'))
    assert preprocess_audio(dataset, [TAKE], causal=True).require() == 2
    assert preprocess_audio_embeddings(dataset, [TAKE], mel_encoder, causal=True).require() == 2
    settings = dataset.roots["MMOR"] / "take_audio_embeddings_per_timepoint" / TAKE.name / ".settings.json"
    settings.write_text(settings.read_text().replace("mel descriptor", str(ClapEncoder("nowhere", False))))
    again = preprocess_audio_embeddings(dataset, [TAKE], ClapEncoder("nowhere", False), causal=True)
    assert (again.written, again.problems) == (0, ())


def test_clips_of_two_windows_are_not_mixed(dataset: Dataset) -> None:
    preprocess_audio(dataset, [TAKE]).require()
    place(dataset.roots["MMOR"], "audio", TAKE, time=TIMES[1]).unlink()
    (problem,) = preprocess_audio(dataset, [TAKE], causal=True).problems
    assert "published window, not causal window" in problem


def test_a_take_without_list_of_seconds_has_them_in_its_index(dataset: Dataset) -> None:
    place(dataset.roots["MMOR"], "seconds", TAKE).unlink()
    assert preprocess_audio(dataset, [TAKE]).require() == 3


def test_seconds_are_sorted_by_number(dataset: Dataset) -> None:
    write(place(dataset.roots["MMOR"], "seconds", TAKE), {"timestamps": {"10": {}, "9": {}, "100": {}}})
    assert list(Dataset(dataset.root).take(TAKE).seconds) == [9, 10, 100]


def tone(hertz: float, rate: int, channels: int = 1) -> np.ndarray:
    wave = np.sin(2 * np.pi * hertz * np.arange(2 * rate) / rate).astype(np.float32)
    return np.repeat(wave[:, None], channels, axis=1)


def test_the_descriptor_tells_pitch_and_time_apart() -> None:
    low, high = (mel_descriptor(tone(hertz, 16_000), 16_000).reshape(64, 8) for hertz in (200, 4000))
    assert low.mean(1).argmax() < 15 < 40 < high.mean(1).argmax()
    late = tone(1000, 16_000)
    late[:16_000] = 0
    loud = mel_descriptor(late, 16_000).reshape(64, 8).max(0).values
    assert loud[:3].max() < loud[5:].min() - 1


def test_the_descriptor_hardly_depends_on_rate_and_channels() -> None:
    reference = mel_descriptor(tone(1000, 16_000), 16_000)
    other = mel_descriptor(tone(1000, 48_000, channels=2), 48_000)
    assert (reference - other).reshape(64, 8).mean(1)[reference.reshape(64, 8).mean(1) > 0].abs().max() < 0.3
    assert torch.isfinite(mel_descriptor(np.zeros((10, 1), np.float32), 16_000)).all()


def tiny_clap(folder: Path) -> str:
    torch.manual_seed(0)
    audio = {"patch_embeds_hidden_size": 16, "hidden_size": 128, "depths": [1, 1, 1, 1], "num_attention_heads": [1] * 4}
    text = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "vocab_size": 9,
    }
    config = ClapConfig(audio_config={**audio, "enable_fusion": False}, text_config=text, projection_dim=512)
    ClapModel(config).save_pretrained(folder)
    ClapFeatureExtractor(truncation="rand_trunc").save_pretrained(folder)
    return str(folder)


def test_clap_reads_a_local_folder_in_batches(dataset: Dataset, tmp_path: Path) -> None:
    encoder = clap_encoder(tiny_clap(tmp_path / "clap"))
    clips = [tone(440, 16_000), tone(880, 16_000)]
    together = encoder(clips, 16_000)
    assert together.shape == (2, 512)
    torch.testing.assert_close(together, torch.cat([encoder([clip], 16_000) for clip in clips]), rtol=1e-4, atol=1e-5)
    published = clap_encoder(encoder.name, published_feeding=True)
    assert not torch.allclose(published(clips, 16_000), together, atol=1e-3)
    assert preprocess_audio_embeddings(dataset, [TAKE], encoder).require() == 3
    place(dataset.roots["MMOR"], "audio_embedding", TAKE, time=TIMES[0]).unlink()
    (problem,) = preprocess_audio_embeddings(dataset, [TAKE], published).problems
    assert "fed with mono at 48 kHz" in problem


def test_clap_hears_the_same_in_stereo_and_at_another_rate() -> None:
    reference = as_trained(tone(1000, 48_000), 48_000)
    assert reference.shape == (96_000,)
    for rate, channels in ((44_100, 2), (16_000, 1), (48_000, 2)):
        heard = as_trained(tone(1000, rate, channels), rate)
        np.testing.assert_allclose(heard[2000:-2000], reference[2000:-2000], atol=0.01)


def test_published_feeding_interleaves_integers() -> None:
    fed = as_published(np.array([[0.5, -1.0], [0.25, 1.0]], np.float32), 44_100)
    assert fed.tolist() == [16384, -32768, 8192, 32767]


def test_clap_without_hub_is_one_sentence() -> None:
    with pytest.raises(UserError, match="choose the audio encoder mel"):
        clap_encoder("nobody/nothing")


def test_transcripts_know_what_was_said_by_then(dataset: Dataset) -> None:
    assert preprocess_transcripts(dataset, [TAKE, ROOMLESS]).require() == 3
    texts = [
        json.loads(place(dataset.roots["MMOR"], "transcript", TAKE, time=time).read_text())["text"] for time in TIMES
    ]
    assert texts == ["the saw", "the saw thank you", "the saw thank you"]
    assert preprocess_transcripts(dataset, [TAKE]).require() == 0


def masks(dataset: Dataset, take: Take, time: str = "000001") -> dict[int, int]:
    """Number -> largest label of the masks that are read."""
    timepoint = next(t for t in Dataset(dataset.root).take(take).timepoints if t.time == time)
    found = timepoint.several("masks").items()
    return {int(number): int(np.asarray(Image.open(path)).max()) for number, path in found}


def test_annotated_masks_have_their_own_name_unless_asked(dataset: Dataset) -> None:
    assert preprocess_masks(dataset, [TAKE, ROOMLESS], None).require() == 3 * 3 + 3 * 3
    assert masks(dataset, TAKE) == {}
    assert place(dataset.roots["MMOR"], "masks_from_annotation", TAKE, time="000001", number=0).is_file()
    assert preprocess_masks(dataset, [TAKE], None, as_predictions=True).require() == 9
    assert masks(dataset, TAKE) == {0: 10, 1: 10, 2: 10}


def test_a_missing_camera_shifts_no_other_mask(dataset: Dataset) -> None:
    mask_place(dataset.roots["MMOR"], TAKE, "4", "000100").unlink()
    preprocess_masks(dataset, [TAKE], None, as_predictions=True)
    assert masks(dataset, TAKE) == {0: 10, 2: 10}


def test_interpolated_masks_fill_gaps(dataset: Dataset) -> None:
    path = mask_place(dataset.roots["MMOR"], TAKE, "4", "000100")
    path.rename(mask_place(dataset.roots["MMOR"], TAKE, "4", "000100", interpolated=True))
    preprocess_masks(dataset, [TAKE], None, as_predictions=True)
    assert masks(dataset, TAKE) == {0: 10, 1: 10, 2: 10}


def write_prediction(folder: Path, video: str, stem: str, entity: str) -> None:
    pixels = np.zeros((48, 64, 4), np.uint8)
    pixels[10:30, 10:30] = (*mmor().labels.by_entity[entity].color, 255)
    write(folder / video / f"{stem}.png", picture("PNG", pixels))


def test_predicted_masks_of_whole_and_split_videos(
    dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predictions = tmp_path / "pan_pred"
    write_prediction(predictions, "001_PKA_1", "camera01_colorimage-000100", "nurse")
    write_prediction(predictions, "001_PKA_5_part0", "camera05_colorimage-000100", "drill")
    write_prediction(predictions, "001_PKA_5_part1", "camera05_colorimage-000101", "saw")
    write_prediction(predictions, "001_PKA_simstation2", "camera02_000202", "patient")
    write_prediction(predictions, "001_4DOR_2", "camera02_colorimage-000200", "patient")
    assert preprocess_masks(dataset, [TAKE, ROOMLESS], predictions).require() == 5
    # Fault: what a prediction that was stopped had not written yet was missing without a word.
    said = capsys.readouterr().err
    assert "001_4DOR: 1 of 3 timepoints have a predicted mask; the others stay without" in said
    # Fault: so was the video of a camera, where another one of that timepoint had come further.
    assert "camera04_colorimage-000100.jpg: has no predicted mask where another camera" in said
    label = {entity: mmor().labels.by_entity[entity].label for entity in ("nurse", "drill", "saw", "patient")}
    assert masks(dataset, TAKE, "000001") == {0: label["nurse"], 2: label["drill"]}
    assert masks(dataset, TAKE, "000002") == {2: label["saw"]}
    assert masks(dataset, TAKE, "000003") == {1: label["patient"]}  # a station camera stands in
    assert masks(dataset, ROOMLESS, "000000") == {1: label["patient"]}


def test_a_missing_predictions_folder_is_named(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        preprocess_masks(dataset, [TAKE], tmp_path / "nowhere")


def test_sound_is_scaled_as_published_for_egoexor_or_as_it_was_meant() -> None:
    """egoexor.md, section 9: the published maximum is over the channels, not over time."""
    samples = np.array([[0.5, -0.25], [0.0, 0.0], [0.1, 0.2]], np.float32)
    assert scale_clip(samples, None) is samples
    np.testing.assert_allclose(scale_clip(samples, "published"), [[1, -0.5], [0, 0], [0.5, 1]])
    np.testing.assert_allclose(scale_clip(samples, "peak"), [[1, -1], [0, 0], [0.2, 0.8]], rtol=1e-6)
    assert not scale_clip(np.zeros((4, 2), np.float32), "peak").any()
    names = {str(ClapEncoder("clap", False, scaling)) for scaling in (None, "published", "peak")}
    assert len(names) == 3  # vectors of one are never mixed with those of another


def test_each_process_recognises_speech_on_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them loaded the model onto the first GPU."""
    loaded: list[dict[str, int]] = []
    module = types.ModuleType("faster_whisper")
    module.WhisperModel = lambda name, **options: loaded.append(options)  # ty: ignore[missing-attribute]
    monkeypatch.setitem(sys.modules, "faster_whisper", module)
    cards = [Gpu(index, "Large", 1 << 40, (9, 0), True) for index in range(4)]
    monkeypatch.setattr(machine, "gpus", lambda: cards)
    for rank in (0, 3):
        for name, value in (("RANK", rank), ("WORLD_SIZE", 4), ("LOCAL_RANK", rank)):
            monkeypatch.setenv(name, str(value))
        transcripts._load_whisper(f"of process {rank}")
    assert loaded == [{}, {"device_index": 3}]


def test_a_single_long_take_says_how_far_it_is(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--take ONE` of 10,000 seconds was silent until it was done, an hour later."""
    monkeypatch.setattr(progress, "_FIRST", 0.0)
    monkeypatch.setattr(progress, "_SELDOM", 0.0)
    assert preprocess_transcripts(dataset, [TAKE], workers=8).require() == 3
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == [f"transcripts 0/1, files {n}" for n in (1, 2, 3)]
