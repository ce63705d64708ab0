"""The commands that generate, score and compare, with an untrained model on a hand-made data set."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mmor import cli
from operating_room.domain.domain import mmor
from operating_room.files.atomic import write_json
from operating_room.graphs.prompts import conversation, human_prompt
from scene_graph_generation.config.settings import LanguageConfig, MM2SGConfig, PoolerConfig, VisionConfig
from scene_graph_generation.inputs.tokens import train_tokens
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.weights.checkpoints import load_model, save_model
from tests.operating_room.tiny_dataset import write_dataset

SHORT = ("--max-new-tokens", "3")
GRAPH = [["circulator", "instrument_table", "touching"], ["nurse", "saw", "holding"]]


def run(*arguments: str | Path) -> int:
    """The exit code of the real entry point."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["mmor", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
    return int(stopped.value.code or 0)


@pytest.fixture
def place(tmp_path: Path) -> Sequence[str | Path]:
    """Options of a data set whose training takes have three timepoints each."""
    data = write_dataset(tmp_path / "data")
    takes = ("001_4DOR", "001_PKA_MMOR")
    records = [{"take_name": t, "frame_id": f"{i:06d}", "relationships": GRAPH} for t in takes for i in range(3)]
    write_json(data / "relationships_train.json", records)
    return "--data", data, "--relations", data, "--split", "train"


def save_untrained(folder: Path, seed: int = 0) -> None:
    """A model that can hardly stop talking."""
    torch.manual_seed(seed)
    tokens = train_tokens([conversation(human_prompt(mmor().language, None, None, None, None))], 1024, mmor().language)
    config = MM2SGConfig(
        vision=VisionConfig(image_size=28, width=16, layers=1, heads=2, mlp=32, feature_layer=-1),
        pooler=PoolerConfig(layers=1, heads=2, mlp=32, mask_channels=(8, 8, 8, 8, 16)),
        language=LanguageConfig(vocabulary=tokens.size, width=16, layers=1, heads=2, mlp=32, positions=2048),
        modalities=("views", "masks", "robot", "speech"),
    )
    save_model(folder, MM2SG(config), tokens)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Folder of a training with one checkpoint."""
    save_untrained(tmp_path / "model" / "checkpoint-5")
    return tmp_path / "model"


def test_a_model_is_evaluated_in_one_go_and_once(
    model: Path, place: Sequence[str | Path], capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, results_folder = model / "checkpoint-5", model / "evaluation" / "checkpoint-5"
    temporal = ("--config", "mmor_temporal_pred.json", *place, *SHORT)
    assert run("scene-graph", "evaluate", "--model_path", checkpoint, *temporal) == 0
    results = json.loads((results_folder / "mmor_temporal_pred_train.json").read_text())
    assert results["about"]["memory"] is True
    assert results["about"]["max_new_tokens"] == 3
    assert results["overall"]["samples"] == len(results["samples"]) == 6
    assert results["modalities"]["memory"]["timepoints"] == 6
    said = capsys.readouterr()
    assert "Macro F1" in said.out
    assert "known to the model" in said.out
    usual = ("predicted relations do not count", "passes of the language model")
    assert all(any(words in line for words in usual) for line in said.err.splitlines())
    for _ in range(2):
        assert run("scene-graph", "evaluate-all", model, *place, *SHORT) == 0
        assert "5\t" in capsys.readouterr().out
    stored = (results_folder / "mmor_train.json").stat().st_mtime_ns
    assert run("scene-graph", "evaluate-all", model, *place, *SHORT) == 0
    assert (results_folder / "mmor_train.json").stat().st_mtime_ns == stored
    assert run("scene-graph", "evaluate-all", model, *place, "--max-new-tokens", "2") == 0
    assert (results_folder / "mmor_train.json").stat().st_mtime_ns != stored  # another setting
    both = [results_folder / f"{config}_train.json" for config in ("mmor", "mmor_temporal_pred")]
    capsys.readouterr()
    assert run("compare", *both) == 0
    assert "memory: False -> True" in capsys.readouterr().out


def test_answers_that_depend_on_their_batch_are_of_one_batch_size(
    model: Path, place: Sequence[str | Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Fault: with published batching the row of another --batch-size came back."""
    results = model / "evaluation" / "checkpoint-5" / "mmor_train.json"
    for batching, sizes in (("independent", [4, 4]), ("published", [4, 2])):
        loaded, tokens = load_model(model / "checkpoint-5")
        loaded.settings = replace(loaded.settings, batching=batching)
        save_model(model / "checkpoint-5", loaded, tokens)
        for asked, found in zip(("4", "2"), sizes, strict=True):
            assert run("scene-graph", "evaluate-all", model, *place, *SHORT, "--batch-size", asked) == 0
            assert json.loads(results.read_text())["about"]["batch_size"] == found


def test_another_training_with_the_same_steps_is_evaluated_anew(
    model: Path, place: Sequence[str | Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("scene-graph", "evaluate-all", model, *place, *SHORT) == 0
    checkpoint, results = model / "checkpoint-5", model / "evaluation" / "checkpoint-5" / "mmor_train.json"
    first = json.loads(results.read_text())["about"]["model"]
    other, tokens = load_model(checkpoint)
    torch.nn.init.normal_(next(other.projector.parameters()))
    save_model(checkpoint, other, tokens)
    assert run("scene-graph", "evaluate-all", model, *place, *SHORT) == 0
    assert json.loads(results.read_text())["about"]["model"] != first
    assert f"mmor_train.of_{first}.jsonl" in capsys.readouterr().err


def test_evaluate_all_leaves_out_a_take_that_is_not_all_on_disk(
    model: Path, place: Sequence[str | Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(place[1]) / "relationships_train.json"
    more = {"take_name": "001_4DOR", "frame_id": "000500", "relationships": GRAPH}
    write_json(path, [*json.loads(path.read_text()), more])
    results = model / "evaluation" / "checkpoint-5" / "mmor_train.json"
    stored = []
    for _ in range(2):
        assert run("scene-graph", "evaluate-all", model, *place, *SHORT) == 1
        said = capsys.readouterr()
        assert "error: 001_4DOR is not finished" in said.err
        assert said.out.splitlines()[1].endswith("\t3")
        stored.append(results.stat().st_mtime_ns)
    assert stored[0] == stored[1]


def test_evaluate_all_uses_results_without_a_damaged_take_again(
    model: Path, place: Sequence[str | Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for picture in Path(place[1]).rglob("4D-OR_data/**/*.jpg"):
        picture.write_bytes(picture.read_bytes()[:100])
    save_untrained(model / "checkpoint-7", seed=1)
    for steps in (["5", "7"], ["5", "7"]):
        assert run("scene-graph", "evaluate-all", model, *place, *SHORT) == 1
        said = capsys.readouterr()
        assert [line.split("\t")[0] for line in said.out.splitlines()[1:3]] == steps
        assert said.err.count("error: 001_4DOR is not finished") == 1
        shutil.rmtree(model / "checkpoint-5", ignore_errors=True)
    assert "is left out, " not in said.err
    assert "passes of the language model" not in said.err  # nothing was asked again


def test_valid_answers_are_scene_graphs(
    model: Path, place: Sequence[str | Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def texts(path: Path) -> list[str]:
        return [json.loads(line)[2].strip() for line in path.read_text().splitlines()[1:]]

    checkpoint = model / "checkpoint-5"
    options = ("--model", checkpoint, "--data", place[1], *SHORT)
    for name, more in {"free": (), "valid": ("--valid",)}.items():
        assert run("scene-graph", "infer", *options, "--out", tmp_path / f"{name}.json", *more) == 0
    graphs = [text.startswith("<SG>") and text.endswith("</SG>") for text in texts(tmp_path / "valid.jsonl")]
    assert len(graphs) > 3
    assert all(graphs)
    assert not any(text.endswith("</SG>") for text in texts(tmp_path / "free.jsonl"))
    assert run("scene-graph", "evaluate", "--model", checkpoint, *place, *SHORT, "--valid") == 0
    results = json.loads((model / "evaluation" / "checkpoint-5" / "mmor_train_valid.json").read_text())
    assert results["about"]["valid"] is True
    assert "guessed tokens were right" in capsys.readouterr().err


def test_some_takes_and_the_first_timepoints(
    model: Path, place: Sequence[str | Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, out = model / "checkpoint-5", tmp_path / "p.json"
    options = ("--model", checkpoint, "--data", place[1], "--out", out, *SHORT)
    assert run("scene-graph", "infer", *options, "--limit", "2") == 0
    assert "4 scene graphs in" in capsys.readouterr().out
    assert run("scene-graph", "infer", *options, "--take", "001_PKA/") == 0
    evaluate = ("scene-graph", "evaluate", "--predictions", out, *place)
    assert run(*evaluate) == 1  # 4D-OR lacks one
    for name in ("001_PKA", "001_PKA/", "001_PKA_MMOR"):
        assert run(*evaluate, "--take", name, "--out", tmp_path / "r.json") == 0
    assert list(json.loads((tmp_path / "r.json").read_text())["takes"]) == ["001_PKA_MMOR"]
    assert run(*evaluate, "--limit", "2") == 0
    assert run(*evaluate, "--take", "004_PKA") == 2
    assert "004_PKA_MMOR is not among those of this split on disk: 001_4DOR, 001_PKA" in capsys.readouterr().err
    assert run(*evaluate, "--take", "train") == 2
    assert "--take train: is a split; give --split train" in capsys.readouterr().err
    assert run("scene-graph", "evaluate", "--model-path", checkpoint, *place, *SHORT, "--limit", "1") == 0
    for name in ("001_PKA/", "001_PKA_MMOR"):  # the same take, the same results
        again = ("--model-path", checkpoint, *place, *SHORT, "--limit", "1", "--take", name)
        assert run("scene-graph", "evaluate", *again) == 0
    few = tmp_path / "few.json"  # other timepoints: nor do they replace those of the split
    write_json(few, json.loads((Path(place[1]) / "relationships_train.json").read_text()))
    by_file = ("--data", place[1], "--split", "train", "--relations", few, *SHORT, "--limit", "1")
    assert run("scene-graph", "evaluate", "--model-path", checkpoint, *by_file) == 0
    results = sorted(path.name for path in (model / "evaluation" / "checkpoint-5").glob("*.json"))
    assert results == ["mmor_train_001_PKA_first1.json", "mmor_train_few_first1.json", "mmor_train_first1.json"]


def test_outputs_that_would_cost_something_are_refused(
    model: Path, place: Sequence[str | Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, graphs = place[1], tmp_path / "g.json"
    write_json(graphs, {})
    checkpoint = ("--model-path", model / "checkpoint-5")
    assert run("scene-graph", "infer", "--model", model / "checkpoint-5", "--data", data, "--out", tmp_path / "x.jsonl")
    assert run("scene-graph", "evaluate", *checkpoint, *place, "--out", tmp_path / "x.jsonl") == 2
    assert run("downstream", "evaluate", *place, "--out", tmp_path / "x.jsonl") == 2
    assert run("downstream", "evaluate", *place, "--graphs", graphs, "--out", graphs) == 2
    assert run("scene-graph", "evaluate", "--predictions", graphs, *place, "--out", graphs) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line[:7] for line in lines] == ["error: "] * 5
    assert run("scene-graph", "evaluate", "--config", "mmor_temporal", *place) == 2
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert "'mmor_temporal' is none; choose one of mmor, mmor_temporal_pred" in said
    for content in ('{"labels": 1}', "take,frame\n", "[]"):
        other = tmp_path / "other.json"
        other.write_text(content)
        assert run("scene-graph", "evaluate", *checkpoint, *place, "--out", other) == 2
        assert run("downstream", "evaluate", *place, "--out", other) == 2
        assert run("scene-graph", "evaluate", "--predictions", graphs, *place, "--out", other) == 2
        assert other.read_text() == content
    told = capsys.readouterr().err
    assert told.count("holds no results; choose another output") == 9
    assert "remove" not in told  # that may be what a model said in hours
    assert not (tmp_path / "x.jsonl").exists()


def test_a_model_of_text_alone_generates_no_scene_graphs(
    model: Path, place: Sequence[str | Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sighted, tokens = load_model(model / "checkpoint-5")
    save_model(tmp_path / "text", MM2SG(replace(sighted.settings, modalities=())), tokens)
    options = ("--model", tmp_path / "text", "--data", place[1], "--out", tmp_path / "p.json")
    assert run("scene-graph", "infer", *options) == 2
    assert run("scene-graph", "evaluate", "--model-path", tmp_path / "text", *place) == 2
    assert all("this model reads text only" in line for line in capsys.readouterr().err.splitlines())


def test_predictions_are_scored_and_the_rest_is_told(
    model: Path, place: Sequence[str | Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = place[1], tmp_path / "p.json"
    options = ("--model", model / "checkpoint-5", "--data", data, "--out", out, *SHORT)
    assert run("scene-graph", "infer", *options, "--take", "001_4DOR") == 0
    capsys.readouterr()
    assert run("scene-graph", "evaluate", "--predictions", out, *place, "--out", tmp_path / "r.json") == 1
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("error: 001_PKA_MMOR is left out: 3 of 3 samples have no prediction")
    assert json.loads((tmp_path / "r.json").read_text())["overall"]["samples"] == 3


def test_the_first_timepoints_are_the_first_in_time(place: Sequence[str | Path], tmp_path: Path) -> None:
    relations, predictions, out = Path(place[1]) / "relationships_train.json", tmp_path / "p.json", tmp_path / "r.json"
    records = json.loads(relations.read_text())
    write_json(relations, records[::-1])
    write_json(predictions, {f"{one['take_name']}_{one['frame_id']}": [] for one in records})
    options = (*place, "--limit", "2", "--out", out)
    assert run("scene-graph", "evaluate", "--predictions", predictions, *options) == 0
    assert sorted(name[-6:] for name in json.loads(out.read_text())["samples"]) == [
        "000000",
        "000000",
        "000001",
        "000001",
    ]


def test_mistakes_are_one_line(
    model: Path, place: Sequence[str | Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("scene-graph", "evaluate", *place) == 2
    assert run("scene-graph", "evaluate", "--model-path", tmp_path, *place) == 2
    assert run("scene-graph", "evaluate", "--model-path", model / "checkpoint-5", "--device", "nonsense", *place) == 2
    assert run("scene-graph", "evaluate-all", tmp_path / "nothing", *place) == 2
    assert run("compare", tmp_path / "a.json", tmp_path / "b.json") == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert [line[:7] for line in lines] == ["error: "] * 5


def test_downstream_from_labels_to_scores(
    model: Path, place: Sequence[str | Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = tmp_path / "labels"
    assert run("downstream", "labels", *place, "--derive-all", "--out", labels) == 0
    assert "001_PKA: next_action from rules" in capsys.readouterr().out
    assert run("downstream", "samples", *place, "--labels", labels, "--per-timepoint", "2", "--out", tmp_path) == 0
    (made,) = tmp_path.glob("downstream_task_train_*.json")
    assert len(json.loads(made.read_text())) == 6
    training = (
        "downstream",
        "train",
        "--max_steps",
        "1",
        "--data",
        place[1],
        "--samples",
        made,
        "--out",
        tmp_path / "m",
    )
    assert run(*training) == 0
    assert load_model(tmp_path / "m")[0].settings.modalities == ()  # that of small_downstream.yaml
    options = ("--labels", labels, "--out", tmp_path / "r.json")
    assert run("downstream", "evaluate", *place, *options, "--model-path", model / "checkpoint-5", *SHORT) == 0
    assert "checkpoint-5 reads pictures, as scene-graph models do; answers" in capsys.readouterr().err
    results = json.loads((tmp_path / "r.json").read_text())
    assert results["tasks"]["sterility_breach"]["rule"]["overall"]["yes"]["recall"] == 1
    assert results["tasks"]["robot_phase"].keys() == {"model"}


def test_downstream_leaves_out_a_take_with_labels_of_unknown_frames(
    place: Sequence[str | Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Path(place[1])
    write_json(data / "MM-OR_data" / "take_timestamp_to_robot_phase" / "001_PKA.json", {"000077": "Turn on"})
    assert run("downstream", "evaluate", *place, "--out", tmp_path / "r.json") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "has a label for 000077, which is no timepoint of the take" in line


def test_a_file_of_another_split_is_not_called_after_the_one_that_is_asked_for(
    place: Sequence[str | Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = Path(place[1]), tmp_path / "samples"
    validation = shutil.copy(data / "relationships_train.json", data / "relationships_validation.json")
    command = ("scene-graph", "samples", "--data", data, "--relations", validation, "--permutations", "1", "--out", out)
    assert run(*command) == 2
    assert "is of the split val, not of train; add --split val" in capsys.readouterr().err
    assert not out.exists()
    assert run(*command, "--split", "val") == 0
    assert [path.name[:9] for path in out.glob("*.json")] == ["val_1perm"]


def test_results_of_another_task_stay(
    place: Sequence[str | Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, graphs = tmp_path / "r.json", tmp_path / "g.json"
    write_json(graphs, {})
    for task, command in (
        ("scene_graph", ("downstream", "evaluate")),
        ("downstream", ("scene-graph", "evaluate", "--predictions", graphs)),
    ):
        write_json(out, {"task": task, "about": {}})
        assert run(*command, *place, "--out", out) == 2
        assert f"{out}: is there already and holds results of {task}" in capsys.readouterr().err
