"""`mmor scene-graph train` with the published commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from mmor.cli import app, main
from operating_room.graphs.prompts import IMAGE_MARK
from scene_graph_generation.config.settings import to_mapping
from tests.scene_graph_generation.config.test_arguments import BASE, TEMPORAL
from tests.scene_graph_generation.tiny_training import SHORT, write_samples


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_samples(tmp_path_factory.mktemp("data"))


def command(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> int:
    """Exit code of `mmor scene-graph train`."""
    monkeypatch.setattr("sys.argv", ["mmor", "scene-graph", "train", *map(str, words)])
    try:
        main()
    except SystemExit as done:
        return int(done.code or 0)
    return 0


@pytest.mark.parametrize("published", [BASE, TEMPORAL])
def test_a_published_command_is_accepted_as_written(
    published: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(monkeypatch, *published.split(), "--dry-run") == 2  # its samples are not here
    said = capsys.readouterr()
    assert "319,815,680" in said.out
    assert "train_20perm_" in said.out
    assert "no such training file" in said.out
    assert said.err.count("--warmup_ratio") == 1
    assert said.err.splitlines()[-1].startswith("error: training would not start")


def test_a_published_command_with_our_options(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["--samples", data / "samples.json", "--data", data, "--out", tmp_path / "out", "--gpus", "2"]
    published = BASE.replace("--deepspeed ./scripts/zero2.json", "").split()
    frequencies = tmp_path / "frequencies.json"
    frequencies.write_text('{"a": 1}')
    words += ["--token_weight_path", frequencies, "--dry-run"]
    assert command(monkeypatch, *published, "--report_to", "none", *words) == 0
    said = capsys.readouterr().out
    assert "6 samples, 4 per step x 4 accumulated x 2 GPU: 1 steps" in said
    assert "inputs: all there" in said


def test_a_training_from_an_experiment_file(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    settings = json.loads(json.dumps(to_mapping(SHORT), default=str))
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(settings))
    words = ["--config", tmp_path / "e.yaml", "--samples", data / "samples.json", "--data", data]
    assert command(monkeypatch, *words, "--out", tmp_path / "out", "--max_steps", "2", "--skip-bad-samples") == 0
    assert f"model in {tmp_path / 'out'}" in capsys.readouterr().out
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--lora_enabled", "True"], "did you mean --lora_enable?"),
        (["--samples", "x.json"], "a training needs samples"),
        (["--model_name_or_path", "a/b", "--bits", "5"], "--bits: expected one of 4, 16, 32"),
    ],
)
def test_wrong_commands_are_one_line(
    words: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, *words) == 2
    errors = capsys.readouterr().err.splitlines()
    assert errors[-1].startswith("error: ")
    assert said in errors[-1]


def test_downstream_training_takes_the_options_of_the_other(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    records = json.loads((data / "samples.json").read_text())
    for record in records:  # those of downstream tasks show nothing
        record["conversations"][0]["value"] = record["conversations"][0]["value"].replace(IMAGE_MARK, "")
    (tmp_path / "samples.json").write_text(json.dumps(records))
    words = ["--samples", tmp_path / "samples.json", "--data", data, "--out", tmp_path / "out", "--skip-bad-samples"]
    monkeypatch.setattr("sys.argv", ["mmor", "downstream", "train", *map(str, words), "--dry-run"])
    with pytest.raises(SystemExit, match=r"^0$"):
        main()
    assert "6 samples" in capsys.readouterr().out


@pytest.mark.parametrize("group", ["scene-graph", "downstream"])
def test_every_option_may_be_spelled_with_underscores(group: str, tmp_path: Path) -> None:
    """Also those that are not published; docs/training.md says so of all."""
    words = [group, "train", "--out", str(tmp_path), "--skip_bad_samples", "--num_gpus", "1", "--dry_run"]
    result = CliRunner().invoke(app, [*words, "--samples", str(tmp_path / "none.json"), "--max_steps", "1"])
    assert "none.json: no such" in f"{result.output}{result.exception}"


@pytest.mark.parametrize("group", ["scene-graph", "downstream"])
def test_a_flag_may_have_a_value_as_published_options_have(group: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was refused as a word of no option, or taken for the value of the published option before the flag."""
    given: list[tuple[list[str], bool, bool]] = []
    for module in ("scene_graph", "downstream"):
        monkeypatch.setattr(
            f"mmor.cli.{module}.train_model",
            lambda words, _config, _default, _files, _gpus, skip, dry: given.append((words, skip, dry)),
        )
    published = ["--do_img_order_augment", "--skip-bad-samples", "True", "--bits", "4", "--dry_run=False"]
    for words in (published, [*published, "--skip_bad_samples", "false", "--dry-run", "--lora_enable", "True"]):
        result = CliRunner().invoke(app, [group, "train", *words])
        assert result.exit_code == 0, result.output
    assert given[0] == (["--do_img_order_augment", "--bits", "4"], True, False)
    assert given[1] == (["--do_img_order_augment", "--bits", "4", "--lora_enable", "True"], False, True)
    assert CliRunner().invoke(app, [group, "train", "--dry-run=perhaps"]).exit_code == 2


def test_processes_that_meet_the_same_mistake_say_it_once(data: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mmor.cli", "scene-graph", "train", "--gpus", "2", "--data", str(data)]
    ran = subprocess.run(
        [*command, "--samples", str(tmp_path / "none.json"), "--out", str(tmp_path / "out")],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 2
    assert ran.stderr.count("error: ") == 1
    assert f"{tmp_path}/none.json: no such training file" in ran.stderr
