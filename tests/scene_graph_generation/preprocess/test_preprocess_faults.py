"""Preprocessing when something goes wrong: bad input, a killed process, a full disk, two runs at once."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.files import atomic as files
from operating_room.files.readers import read_json
from operating_room.recordings.dataset import Dataset
from operating_room.recordings.masks import PREDICTION_ORIGIN
from operating_room.recordings.modalities import BY_NAME
from scene_graph_generation.preprocess import run
from scene_graph_generation.preprocess.audio import preprocess_audio
from scene_graph_generation.preprocess.embeddings import mel_encoder, preprocess_audio_embeddings
from scene_graph_generation.preprocess.masks import preprocess_masks
from scene_graph_generation.preprocess.run import Outcome, half_copied
from scene_graph_generation.preprocess.transcripts import preprocess_transcripts
from tests.operating_room.published import place
from tests.operating_room.tiny_dataset import label_picture, picture, sound, write

FORK = get_context("fork")
TAKE, OTHER = mmor().find_take("001_PKA"), mmor().find_take("002_PKA")


def clips(root: Path) -> Outcome:
    return preprocess_audio(Dataset(root), [TAKE, OTHER])


def embeddings(root: Path) -> Outcome:
    return preprocess_audio_embeddings(Dataset(root), [TAKE, OTHER], mel_encoder)


def transcripts(root: Path) -> Outcome:
    return preprocess_transcripts(Dataset(root), [TAKE, OTHER])


def masks(root: Path) -> Outcome:
    return preprocess_masks(Dataset(root), [TAKE, OTHER], None, as_predictions=True)


STEPS = {"audio": clips, "audio_embedding": embeddings, "transcript": transcripts, "masks": masks}
FILES = {"audio": 6, "audio_embedding": 6, "transcript": 6, "masks": 18}


def whole_files(root: Path, modality: str) -> int:
    """How many files of a modality there are, after looking into each."""
    paths = [
        path
        for take in (TAKE, OTHER)
        for timepoint in Dataset(root).take(take).timepoints
        for name, _, path in timepoint.files_by_camera()
        if name == modality
    ]
    check = BY_NAME[modality].check
    assert check is not None
    for path in paths:
        check(path, TAKE, mmor())
    return len(paths)


def leftovers(root: Path) -> list[Path]:
    return [path for path in root.rglob("*per_timepoint*/*/.*") if ".partial" in path.name]


def kill_at_write(step: Callable[[Path], Outcome], root: Path, number: int) -> None:
    """Run a step in this process and end it by SIGKILL after that many files, one more being half written."""
    replace, done = os.replace, [0]

    def dying(source: str, target: str) -> None:
        if done[0] == number:
            os.truncate(source, os.path.getsize(source) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        done[0] += "settings" not in str(target)
        replace(source, target)

    files.os.replace = dying  # ty: ignore[invalid-assignment]  # in a process of its own
    step(root)


@pytest.mark.parametrize("modality", STEPS)
def test_a_killed_step_is_continued(root: Path, modality: str) -> None:
    process = FORK.Process(target=kill_at_write, args=(STEPS[modality], root, 4))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert whole_files(root, modality) == 4
    assert STEPS[modality](root).require() == FILES[modality] - 4
    assert whole_files(root, modality) == FILES[modality]
    assert STEPS[modality](root).require() == 0


@pytest.mark.parametrize("modality", STEPS)
def test_a_full_disk_is_one_sentence_and_leaves_nothing_broken(
    root: Path, modality: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, done = os.replace, [0]

    def full(source: str, target: str) -> None:
        done[0] += "settings" not in str(target)
        if done[0] > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", full)
        outcome = STEPS[modality](root)
    assert outcome.written == 2
    assert len(outcome.problems) == 2  # one for each take
    assert all("No space left on device" in problem and "\n" not in problem for problem in outcome.problems)
    assert not leftovers(root)
    assert STEPS[modality](root).require() == FILES[modality] - 2
    assert whole_files(root, modality) == FILES[modality]


def run_and_tell(step: Callable[[Path], Outcome], root: Path) -> None:
    step(root).require()


@pytest.mark.parametrize("modality", STEPS)
def test_two_runs_at_once_do_not_disturb_each_other(root: Path, modality: str) -> None:
    processes = [FORK.Process(target=run_and_tell, args=(STEPS[modality], root)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert whole_files(root, modality) == FILES[modality]
    assert not leftovers(root)


def test_takes_at_once_give_the_same(root: Path) -> None:
    takes = [TAKE, OTHER]
    assert preprocess_audio(Dataset(root), takes, workers=2).require() == 6
    assert preprocess_masks(Dataset(root), takes, None, as_predictions=True, workers=2).require() == 18
    assert whole_files(root, "masks") == 18


DAMAGE = {
    "recording empty": (clips, "take_audios/001_PKA.mp3", b"", "is empty"),
    "no sound": (clips, "take_audios/001_PKA.mp3", b"no sound", "is no mp3"),
    "recording cut off": (embeddings, "take_audios/001_PKA.mp3", sound(3.0)[:3000], "cut off"),
    "seconds": (clips, "take_jsons/001_PKA.json", "{", "not valid JSON"),
    "seconds of another form": (transcripts, "take_jsons/001_PKA.json", '{"timestamps": {"one": {}}}', "timestamps"),
    "broken time": (
        transcripts,
        "take_transcripts/001_PKA.srt",
        "1\n00:00:01.5 --> 00:00:02.25\nwords\n",
        r"line 2 has a broken time \('00:00:01\.5 -->",
    ),
    "words that are no text": (transcripts, "take_transcripts/001_PKA.srt", b"\xff\xfe1", "not UTF-8"),
    "index": (masks, "001_PKA/timestamp_to_pcd_and_frames_list.json", "[]", "an index is a list"),
    "mask": (
        masks,
        "001_PKA/segmentation_export_4/camera04_colorimage-000101.png",
        picture("PNG")[:200],
        r"camera04_colorimage-000101\.png",
    ),
}


@pytest.mark.parametrize(("step", "path", "content", "message"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_one_sentence_and_other_takes_are_finished(
    root: Path, step: Callable[[Path], Outcome], path: str, content: str | bytes, message: str
) -> None:
    write(root / "MM-OR_data" / path, content)
    outcome = step(root)
    with pytest.raises(UserError, match=message):
        outcome.require()
    (problem,) = outcome.problems
    assert Path(path).name in problem
    assert "\n" not in problem
    assert outcome.written >= FILES[next(name for name in STEPS if STEPS[name] is step)] / 2


def test_a_recording_that_ends_early_is_used_as_far_as_it_goes(root: Path) -> None:
    times = {str(second): {} for second in range(10)}
    write(root / "MM-OR_data" / "take_jsons" / "001_PKA.json", {"timestamps": times})
    outcome = clips(root)
    assert outcome.written == 4 + 3
    (problem,) = outcome.problems
    assert "ends after 3 s, the take after 9 s" in problem


def test_stereo_and_other_rates_are_prepared(root: Path) -> None:
    import soundfile

    for name, rate, channels in (("001_PKA", 44_100, 2), ("002_PKA", 48_000, 1)):
        noise = np.random.default_rng(0).normal(0, 0.1, (3 * rate, channels))
        soundfile.write(root / "MM-OR_data" / "take_audios" / f"{name}.mp3", noise, rate, format="MP3")
    assert clips(root).require() == 6
    assert embeddings(root).require() == 6


def test_predictions_of_another_split_are_named(root: Path, tmp_path: Path) -> None:
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[10:30, 10:30] = mmor().labels.by_entity["nurse"].color
    write(tmp_path / "pan_pred" / "002_PKA_1" / "camera01_colorimage-000100.png", picture("PNG", pixels))
    outcome = preprocess_masks(Dataset(root), [TAKE, OTHER], tmp_path / "pan_pred")
    assert outcome.written == 1
    (problem,) = outcome.problems
    assert "has no frame of take 001_PKA" in problem


def test_a_damaged_prediction_is_named_and_leaves_nothing(root: Path, tmp_path: Path) -> None:
    write(tmp_path / "pan_pred" / "001_PKA_1" / "camera01_colorimage-000100.png", sound()[:100])
    outcome = preprocess_masks(Dataset(root), [TAKE], tmp_path / "pan_pred")
    assert outcome.written == 0
    assert "camera01_colorimage-000100" in outcome.problems[0]
    assert whole_files(root, "masks") == 0


def test_masks_of_two_sources_are_not_mixed(root: Path, tmp_path: Path) -> None:
    masks(root).require()
    place(root / "MM-OR_data", "masks", TAKE, time="000001", number=0).unlink()
    pixels = np.zeros((48, 64, 3), np.uint8)
    write(tmp_path / "pan_pred" / "001_PKA_1" / "camera01_colorimage-000100.png", picture("PNG", pixels))
    (problem,) = preprocess_masks(Dataset(root), [TAKE], tmp_path / "pan_pred").problems
    assert "holds files made with annotations, not predictions" in problem


def test_masks_of_two_models_are_not_mixed(root: Path, tmp_path: Path) -> None:
    predictions, origin = tmp_path / "pan_pred", tmp_path / PREDICTION_ORIGIN
    write(predictions / "001_PKA_1" / "camera01_colorimage-000100.png", picture("PNG", np.zeros((48, 64, 3), np.uint8)))
    origin.write_text('{"model": "first.safetensors", "sha256": "1"}')
    assert preprocess_masks(Dataset(root), [TAKE], predictions).require() == 1
    assert preprocess_masks(Dataset(root), [TAKE], predictions).require() == 0
    origin.write_text('{"model": "second.safetensors", "sha256": "2"}')
    (problem,) = preprocess_masks(Dataset(root), [TAKE], predictions).problems
    assert "holds files made with predictions of model" in problem
    assert "remove the folder" in problem


def test_a_folder_without_index_is_named(root: Path) -> None:
    (root / "MM-OR_data" / "002_PKA" / "timestamp_to_pcd_and_frames_list.json").unlink()
    for names in (None, ["val"]):
        (problem,) = half_copied(Dataset(root), names)
        assert "002_PKA: has no timestamp_to_pcd_and_frames_list.json" in problem
    assert not list(half_copied(Dataset(root), ["train"]))
    assert not list(half_copied(Dataset(root), ["001_PKA"]))


def changed(path: Path, content: str | bytes) -> None:
    """Another content, but the size and the date of the old one, as rsync and archives can leave it."""
    stat = path.stat()
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(data[: stat.st_size].ljust(stat.st_size, b" "))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_other_subtitles_are_other_transcripts(root: Path) -> None:
    """Review: transcripts, clips and vectors were never made again when what they are made of changed."""
    transcripts(root).require()
    path = place(root / "MM-OR_data", "subtitles", TAKE)
    changed(path, path.read_text().replace("the saw", "my tool"))
    assert transcripts(root).require() == 3
    assert read_json(place(root / "MM-OR_data", "transcript", TAKE, time="000001")) == {"text": "my tool"}
    assert transcripts(root).require() == 0


def test_another_recording_is_heard_again(root: Path) -> None:
    clips(root).require()
    embeddings(root).require()
    recording = place(root / "MM-OR_data", "recording", TAKE)
    vector = place(root / "MM-OR_data", "audio_embedding", TAKE, time="000001")
    before = torch.load(vector)
    os.utime(recording, ns=(0, 0))
    assert clips(root).require() == embeddings(root).require() == 0  # a copy is the same recording
    soundfile.write(recording, np.random.default_rng(7).normal(0, 0.3, 3 * 16_000), 16_000, format="MP3")
    assert clips(root).require() == embeddings(root).require() == 3
    assert not torch.equal(torch.load(vector), before)


def test_vectors_of_clips_follow_the_clips(root: Path) -> None:
    clips(root).require()
    for take in (TAKE, OTHER):
        place(root / "MM-OR_data", "recording", take).unlink()
    assert embeddings(root).require() == 6
    changed(place(root / "MM-OR_data", "audio", TAKE, time="000002"), sound(2.0))
    assert embeddings(root).require() == 3


@pytest.mark.parametrize("causal", [True, False])
def test_vectors_of_clips_are_of_their_window(root: Path, causal: bool) -> None:
    """Without recording they were made of clips that reach into the future and noted as causal ones."""
    dataset = Dataset(root)
    preprocess_audio(dataset, (TAKE,), not causal).require()
    place(root / "MM-OR_data", "recording", TAKE).unlink()
    outcome = preprocess_audio_embeddings(Dataset(root), (TAKE,), mel_encoder, causal)
    folder = place(root / "MM-OR_data", "audio", TAKE, time="").parent
    names = ["causal window", "published window"]
    there, wanted = names[causal], names[not causal]
    assert outcome.problems[0].startswith(f"{folder}: its clips are of the {there}, not of the {wanted}, and there is")
    assert outcome.written == 0
    assert len(outcome.problems) == 1
    assert preprocess_audio_embeddings(Dataset(root), (TAKE,), mel_encoder, not causal).require() > 0


def test_masks_follow_what_they_are_made_of(root: Path, tmp_path: Path) -> None:
    masks(root).require()
    large = root / "MM-OR_data" / "001_PKA" / "segmentation_export_4" / "camera04_colorimage-000101.png"
    small = place(root / "MM-OR_data", "masks", TAKE, time="000002", number=1)
    before = small.read_bytes()
    write(large, label_picture(0, 3, 7))
    assert masks(root).require() == 9
    assert small.read_bytes() != before
    large.unlink()
    assert masks(root).require() == 8
    assert small.exists()  # nothing else can be made in its place


def test_files_from_elsewhere_are_never_made_again(root: Path) -> None:
    for second in range(1, 4):
        place(root / "MM-OR_data", "transcript", TAKE, time=f"{second:06d}").parent.mkdir(parents=True, exist_ok=True)
        write(place(root / "MM-OR_data", "transcript", TAKE, time=f"{second:06d}"), {"text": "published"})
    assert transcripts(root).require() == 3  # of the other take
    path = place(root / "MM-OR_data", "subtitles", TAKE)
    path.write_text(path.read_text().replace("saw", "drill"))
    assert transcripts(root).require() == 0


def test_a_kill_between_old_and_new_leaves_nothing_that_passes_for_new(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transcripts(root).require()
    path = place(root / "MM-OR_data", "subtitles", TAKE)
    path.write_text(path.read_text().replace("the saw", "my tool"))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            transcripts(root)
    assert transcripts(root).require() == 3


@pytest.mark.parametrize("content", ["null", "3", "[]", '"x"', "{"])
def test_damaged_settings_are_named(root: Path, content: str) -> None:
    """Fault 50."""
    embeddings(root).require()
    settings = place(root / "MM-OR_data", "audio_embedding", TAKE, time="").parent / ".settings.json"
    settings.write_text(content)
    (problem,) = embeddings(root).problems
    assert str(settings) in problem


def test_embeddings_of_a_recording_that_ends_early_are_told(root: Path) -> None:
    """Fault 18: the rest was left out with exit code 0."""
    times = {str(second): {} for second in range(10)}
    write(root / "MM-OR_data" / "take_jsons" / "001_PKA.json", {"timestamps": times})
    for written in (4 + 3, 0):
        outcome = embeddings(root)
        assert outcome.written == written
        (problem,) = outcome.problems
        assert "001_PKA.mp3: ends after 3 s, the take after 9 s" in problem


def test_a_link_to_nothing_costs_its_take(root: Path, tmp_path: Path) -> None:
    for name in ("recording", "subtitles"):
        path = place(root / "MM-OR_data", name, TAKE)
        path.unlink()
        path.symlink_to(tmp_path / "nowhere")
    for step in (clips, embeddings, transcripts):
        outcome = step(root)
        assert outcome.written == 3
        (problem,) = outcome.problems
        assert "is a link to a file that is not there" in problem
