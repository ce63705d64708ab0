"""`mmor scene-graph preprocess` and `samples`: what lies on disk afterwards, what is said, and the exit code."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from mmor.cli import app
from operating_room.domain import domain as domains
from operating_room.domain.labels import Labels
from operating_room.domain.stored import store_domain
from operating_room.errors import UserError
from operating_room.graphs.scene_graph import parse
from operating_room.recordings.dataset import Dataset
from scene_graph_generation.inputs.tokens import train_tokens
from scene_graph_generation.preprocess import embeddings
from scene_graph_generation.samples.sample_files import read_shards, shard_folder
from tests.operating_room.tiny_dataset import picture, write, write_dataset, write_mmor

TAKE = domains.mmor().find_take("001_PKA")
GRAPH = [["head_surgeon", "patient", "cutting"], ["nurse", "patient", "closeTo"], ["nurse", "saw", "holding"]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two takes of MM-OR and one of 4D-OR without anything that preprocessing writes, and graphs of each timepoint."""
    write_dataset(tmp_path)
    write_mmor(tmp_path / "MM-OR_data", "003_TKA")
    for data in ("MM-OR_data", "4D-OR_data"):
        for path in (tmp_path / data).glob("*per_timepoint*"):
            shutil.rmtree(path)
    graphs = [
        {"take_name": take, "frame_id": f"{frame:06d}", "relationships": GRAPH[: frame + 1]}
        for take in ("001_4DOR", "001_PKA_MMOR", "003_TKA_MMOR")
        for frame in range(3)
    ]
    write(tmp_path / "relationships_train.json", graphs)
    return tmp_path


def mmor(root: Path, command: str, *options: str) -> Result:
    return CliRunner().invoke(app, ["scene-graph", *command.split(), "--data", str(root), *options])


def preprocess(root: Path, step: str = "all", *options: str) -> Result:
    settings = ["--audio-encoder", "mel"] if step == "all" else []
    masks = ["--from-annotations"] if step in ("all", "masks") else []
    return mmor(root, f"preprocess {step}", "--workers", "1", *settings, *masks, *options)


def samples(root: Path, *options: str) -> Result:
    folders = ["--relations", str(root), "--out", str(root / "llava_samples")]
    return mmor(root, "samples", *folders, *options)


def records(root: Path) -> list[dict[str, Any]]:
    (path,) = (root / "llava_samples").glob("train_*perm_*temp_*tempaug_*.json")
    found = json.loads(path.read_text())
    assert list(read_shards(shard_folder(path))) == found
    return found


def errors(result: Result) -> list[str]:
    """Lines of errors; beside them stands how far the work is, where it takes longer than a second."""
    lines = [line for line in result.stderr.splitlines() if re.search(r" \d+/\d+, ", line) is None]
    assert all(line.startswith("error: ") for line in lines)
    return lines


def test_all_steps_and_again(root: Path) -> None:
    result = preprocess(root)
    assert result.exit_code == 0, result.output
    assert result.output == f"{2 * 3 * 3 + 3 * 3 * 3} files written for 3 takes\n"
    assert preprocess(root).output == "0 files written for 3 takes\n"
    shutil.rmtree(root / "MM-OR_data" / "take_audio_per_timepoint" / "003_TKA")
    assert preprocess(root, "audio", "--split", "train").output == "3 files written for 3 takes\n"
    assert preprocess(root, "audio", "--take", "003_TKA", "--causal").exit_code == 1


@pytest.mark.parametrize(
    ("step", "folder"),
    [("audio-embeddings", "take_audio_embeddings_per_timepoint"), ("masks", "take_segmasks_per_timepoint")],
)
def test_what_came_with_the_dataset_stays_and_that_is_told(root: Path, step: str, folder: str) -> None:
    """Published vectors stayed where mel ones were asked for, as the small model needs, without a word."""
    options = ["--audio-encoder", "mel"] if step == "audio-embeddings" else []
    preprocess(root, step, *options)
    for settings in (root / "MM-OR_data").rglob(".settings*.json"), (root / "MM-OR_data").rglob("*.settings_GT*.json"):
        for path in settings:
            path.unlink()
    result = preprocess(root, step, *options)
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("note: "))
    assert "2 takes have" in line
    assert f"{root / 'MM-OR_data' / folder / '001_PKA'} away to have them made as asked for" in line
    shutil.rmtree(root / "MM-OR_data" / folder)
    assert "note: " not in preprocess(root, step, *options).stderr
    assert "note: " not in preprocess(root, step, *options).stderr


def test_a_problem_is_one_line_and_other_takes_are_finished(root: Path) -> None:
    write(root / "MM-OR_data" / "take_transcripts" / "001_PKA.srt", "1\n00:00:01.5 --> 00:00:02,0\nwords\n")
    result = preprocess(root)
    assert result.exit_code == 1
    (line,) = errors(result)
    assert "001_PKA.srt: line 2 has a broken time" in line
    assert "42 files written" in result.output
    assert len(list((root / "MM-OR_data" / "take_transcripts_per_timepoint" / "003_TKA").iterdir())) == 3


def test_a_half_copied_dataset(root: Path) -> None:
    data = root / "MM-OR_data"
    (data / "001_PKA" / "timestamp_to_pcd_and_frames_list.json").unlink()
    write(data / "take_audios" / "003_TKA.mp3", (data / "take_audios" / "003_TKA.mp3").read_bytes()[:2000])
    result = preprocess(root)
    assert result.exit_code == 1
    index, sound = errors(result)
    assert "001_PKA: has no timestamp_to_pcd_and_frames_list.json" in index
    assert "003_TKA.mp3: is damaged or cut off" in sound
    assert len(list((data / "take_segmasks_per_timepoint" / "003_TKA").glob("*.png"))) == 9


def test_predictions_of_another_split(root: Path, tmp_path: Path) -> None:
    write(tmp_path / "pan_pred" / "004_PKA_1" / "camera01_colorimage-000100.png", picture("PNG"))
    result = mmor(root, "preprocess masks", "--predictions", str(tmp_path / "pan_pred"))
    assert result.exit_code == 1
    assert len(errors(result)) == 3
    assert "has no frame of take 001_4DOR; give the predictions of the split that it is in" in result.stderr


@pytest.mark.parametrize(
    ("given", "told"),
    [("nowhere", "no such folder"), ("", "give {}/inference/pan_pred"), ("inference", "give {}/inference/pan_pred")],
)
def test_a_wrong_folder_of_predictions_is_told_before_any_work(
    root: Path, tmp_path: Path, given: str, told: str
) -> None:
    write(
        tmp_path / "masks" / "inference" / "pan_pred" / "001_PKA_1" / "camera01_colorimage-000100.png", picture("PNG")
    )
    wrong = str(tmp_path / "masks" / given)
    with pytest.raises(UserError, match=re.escape(told.format(tmp_path / "masks"))):
        CliRunner().invoke(
            app,
            ["scene-graph", "preprocess", "all", "--data", str(root), "--audio-encoder", "mel", "--predictions", wrong],
            catch_exceptions=False,
        )
    assert not (root / "MM-OR_data" / "take_audio_per_timepoint").exists()


def test_samples_in_published_form(root: Path) -> None:
    preprocess(root)
    result = samples(root, "--permutations", "2", "--temporal", "--mixed-modalities")
    assert result.exit_code == 0, result.output
    found = records(root)
    assert len(found) == 9 * 2
    (path,) = (root / "llava_samples").glob("*.json")
    assert path.name == (
        "train_2perm_Truetemp_Truetempaug_AZURE_SIMSTATION_TRACKERCAM_PC_AUDIO_SPEECH_ROBOTMETA_TRACKINGMETA_"
        "PREDSEGMASKS_drophistory0.5_MIXED.json"
    )
    assert all(len(record["segmasks"]) == 3 for record in found)
    answers = {record["id"]: set(parse(record["conversations"][1]["value"])) for record in found}
    assert {len(answers[f"001_PKA_MMOR_00000{frame}"]) for frame in range(3)} == {1, 2, 3}


def test_samples_depend_on_the_seed_only(root: Path) -> None:
    contents = []
    for seed in ("3", "3", "4"):
        samples(root, "--permutations", "4", "--temporal", "--seed", seed)
        contents.append(records(root))
        shutil.rmtree(root / "llava_samples")
    assert contents[0] == contents[1] != contents[2]


def test_samples_of_some_modalities(root: Path) -> None:
    result = samples(root, "--permutations", "1", "--modalities", "pc,AZURE", "--drop-history", "0")
    assert result.exit_code == 0, result.output
    (path,) = (root / "llava_samples").glob("*.json")
    assert path.name == "train_1perm_Falsetemp_Truetempaug_AZURE_PC.json"
    for record in records(root):
        assert record.keys() == {"id", "timepoint", "vis_knowledge_paths", "conversations", "image", "pc"}
        assert all("colorimage" in picture for picture in record["image"])
        assert "<tracker_metadata_start>" not in record["conversations"][0]["value"]
    result = samples(root, "--modalities", "SMELL")
    assert isinstance(result.exception, UserError)
    assert "modality 'SMELL' does not exist" in str(result.exception)
    result = samples(root, "--modalities", "AZURE,GAZE")  # of another domain
    assert "modality 'GAZE' does not exist in domain mmor; choose from AZURE," in str(result.exception)
    assert "EGO" not in str(result.exception)


def test_labels_of_unknown_frames_and_damaged_files_are_left_out(root: Path) -> None:
    preprocess(root)
    graphs = json.loads((root / "relationships_train.json").read_text())
    graphs += [{"take_name": "001_PKA_MMOR", "frame_id": f"00010{i}", "relationships": GRAPH} for i in range(2)]
    write(root / "relationships_train.json", graphs)
    write(root / "MM-OR_data" / "take_transcripts_per_timepoint" / "003_TKA" / "000002.json", '{"text')
    result = samples(root, "--permutations", "2")
    assert result.exit_code == 1
    unknown, damaged = errors(result)
    assert "001_PKA_MMOR: 2 of 5 labelled timepoints are left out; the first:" in unknown
    assert "has no timepoint '000100'" in unknown
    assert "003_TKA_MMOR: 1 of 3 labelled timepoints are left out; the first:" in damaged
    assert "000002.json: is not valid JSON" in damaged
    assert len(records(root)) == (3 + 3 + 2) * 2


def test_labelled_takes_that_are_not_there_are_told(root: Path) -> None:
    index = root / "MM-OR_data" / "003_TKA" / "timestamp_to_pcd_and_frames_list.json"
    index.unlink()
    result = samples(root, "--permutations", "1")
    assert result.exit_code == 1  # half copied
    note, *never_shown, error = result.stderr.splitlines()
    assert [line.split()[4].rstrip(";") for line in never_shown] == ["PREDSEGMASKS", "AUDIO", "SPEECH"]
    assert note.startswith("note: 1 takes of relationships_train.json are not in")
    assert error.startswith(f"error: {index.parent}: has no")
    assert len(records(root)) == 6
    shutil.rmtree(index.parent)
    result = samples(root, "--permutations", "1")
    assert result.exit_code == 0  # a part of the data set, on purpose
    assert result.stderr.startswith("note: 1 takes")


def test_token_frequencies_count_the_answers(root: Path) -> None:
    texts = ["<SG> nurse,saw,holding; head surgeon,patient,cutting </SG>"] * 4
    train_tokens(texts, 700, domains.mmor().language).save(root / "tokens")
    result = samples(root, "--permutations", "3", "--tokenizer", str(root / "tokens"))
    assert result.exit_code == 0, result.output
    counts = json.loads((root / "llava_samples" / "train_token_freqs_7b_3perm.json").read_text())
    assert "</s>" not in counts
    assert max(counts.values()) >= 9 * 3
    assert all(isinstance(count, int) and count > 0 for count in counts.values())
    assert sum(1 for count in counts.values() if count == 9 * 3) >= 2  # the marks at both ends, once in each answer


def test_a_tokenizer_may_be_a_name_on_the_hub(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """scripts/paper.sh, days after its start: `--tokenizer liuhaotian/llava-v1.5-7b` was taken for a folder."""
    train_tokens(["<SG> nurse,saw,holding </SG>"], 700, domains.mmor().language).save(tmp_path / "cache")
    asked: list[tuple[str, list[str]]] = []

    def fetch(name: str, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(tmp_path / "cache")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    result = samples(root, "--tokenizer", "liuhaotian/llava-v1.5-7b")
    assert result.exit_code == 0, result.output
    assert (root / "llava_samples" / "train_token_freqs_7b_20perm.json").is_file()
    ((name, patterns),) = asked
    assert name == "liuhaotian/llava-v1.5-7b"
    assert not any("bin" in pattern or "safetensors" in pattern for pattern in patterns)  # no weights for that
    monkeypatch.undo()
    assert "cannot be fetched from the model hub" in str(samples(root, "--tokenizer", "nobody/nothing").exception)


def test_without_a_hub_all_does_the_rest_and_names_what_is_left(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First day: `preprocess all` stopped at CLAP; transcripts and masks, which need no hub, were not made."""
    monkeypatch.setattr(embeddings, "CLAP", str(root / "no such encoder"))
    result = mmor(root, "preprocess all", "--from-annotations", "--workers", "1")
    assert result.exit_code == 1
    (line,) = errors(result)  # not one a take
    assert "no such encoder: CLAP cannot be loaded" in line
    assert "--audio-encoder mel" in line
    assert f"{2 * 2 * 3 + 3 * 3 * 3} files written" in result.output
    assert preprocess(root).exit_code == 0  # mel may still be chosen: nothing was made with CLAP


def test_all_of_a_room_without_categories_is_all_but_masks(root: Path) -> None:
    """It asked for masks, and refused what it was given."""
    store_domain(root, replace(domains.mmor(), labels=Labels()))
    words = "preprocess all", "--workers", "1", "--audio-encoder", "mel"
    result = mmor(root, *words)
    assert result.exit_code == 0, result.exception
    assert "files written for 3 takes" in result.output
    assert not list(root.rglob("*segmask*"))
    told = "has no categories, so that no take has masks; leave out --from-annotations"
    assert told in str(mmor(root, *words, "--from-annotations").exception)


def test_all_wants_to_know_where_masks_come_from(root: Path) -> None:
    for words in ((), ("--from-annotations", "--predictions", str(root))):
        refused = mmor(root, "preprocess all", *words)
        assert "masks come either from --predictions FOLDER or --from-annotations" in str(refused.exception)


def test_a_dataset_that_cannot_be_written(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First day: `preprocess` could not write outside a read-only dataset, and nothing said what to do."""
    folder = root / "MM-OR_data" / "take_transcripts_per_timepoint" / "001_PKA"
    write(folder / "000001.json", {"text": "from the archive"})
    before = sorted(path for path in root.rglob("*") if "beside" not in path.parts)
    with monkeypatch.context() as patch:
        patch.setattr("os.access", lambda _, mode, **__: mode != os.W_OK)
        refused = preprocess(root)
    assert isinstance(refused.exception, UserError)
    assert "cannot be written; --out FOLDER writes elsewhere" in str(refused.exception)
    out = tmp_path / "beside"
    result = preprocess(root, "all", "--out", str(out))
    assert result.exit_code == 0, result.output
    assert f"{2 * 3 * 3 + 3 * 3 * 3 - 1} files written" in result.output
    assert sorted(path for path in root.rglob("*") if "beside" not in path.parts) == before
    made = Dataset(out)
    assert made.takes() == Dataset(root).takes()
    texts = [
        json.loads(path.read_text())["text"]
        for point in made.take(TAKE).timepoints
        if (path := point.one("transcript"))
    ]
    assert texts[0] == "from the archive"
    assert len(texts) == 3
    assert all(len(point.several("masks")) == 3 for take in made.takes() for point in made.take(take).timepoints)
    write_mmor(root / "MM-OR_data", "005_TKA")  # has come since
    assert preprocess(root, "transcripts", "--out", str(out)).exit_code == 0
    assert len(Dataset(out).takes()) == 4
    assert "0 files written" in preprocess(out).output
    again = preprocess(out, "all", "--out", str(out))
    assert "is the dataset itself" in str(again.exception)


def test_views_of_the_size_of_a_model_and_again(root: Path, tmp_path: Path) -> None:
    result = preprocess(root, "views", "--size", "28")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{2 * 10 * 3 + 4 * 3} views written for 3 takes\n"
    assert "60 views of 28 px take 0.0 GB" in result.stderr
    assert preprocess(root, "views", "--size", "28").output == "0 views written for 3 takes\n"
    (path,) = tmp_path.glob("MM-OR_data/.prepared_views/28px_v1/003_TKA/003_TKA/views.npy")
    os.truncate(path, 5)
    (told,) = errors(preprocess(root, "views", "--size", "28"))
    assert re.fullmatch(r"error: .*views\.npy: these prepared views are damaged \(.*\); remove .* and run .*", told)


def test_takes_may_be_named_as_tab_completion_does(root: Path) -> None:
    assert preprocess(root, "transcripts", "--take", "003_TKA/").output == "3 files written for 1 takes\n"
