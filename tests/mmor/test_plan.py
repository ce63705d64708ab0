"""Plans of commands: wrong commands, missing inputs, the hub and the space on disk."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from computing.machine import Gpu
from mmor.cli import main
from mmor.plan import Step, make_plan, parse, read_steps
from operating_room.errors import UserError


def test_options_are_read_by_the_command_line_itself() -> None:
    name, values = parse(["mmor", "panoptic", "train", "--num-gpus", "2", "SOLVER.MAX_ITER", "3"])
    assert name == "panoptic train"
    assert (values["num_gpus"], values["overrides"]) == (2, ["SOLVER.MAX_ITER", "3"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("python", "train.py"), "is no command of mmor"),
        (("mmor", "panoptic", "trian"), "there is no command 'trian'"),
        (("mmor", "panoptic"), "there is no command ''"),
        (("mmor", "panoptic", "train", "--num-gpus", "0"), "greater than or equal to 1"),
        (("mmor", "panoptic", "predict"), "Missing parameter: model"),
        (("mmor", "panoptic", "train", "--config-file", "no.yaml"), "no.yaml"),
        (("mmor", "panoptic", "train", "SOLVER.MAX_ITR", "3"), "SOLVER.MAX_ITER"),
        (("mmor", "scene-graph", "train", "--lora", "True"), "--lora is no option"),
        (("mmor", "scene-graph", "train", "--save_steps", "0"), "save_steps"),
        (("mmor", "scene-graph", "samples", "--modalities", "LIDAR"), "LIDAR"),
    ],
)
def test_a_wrong_command_ends_the_plan(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        make_plan([Step("one", words)], tmp_path)
    assert said in str(error.value)


def graph_training(*options: str) -> Step:
    files = ("--samples", "s.json", "--out", "model")
    return Step("train", ("mmor", "scene-graph", "train", *files, *options))


def test_machine_and_disk_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = graph_training("--config", "configs/scene_graph/base.yaml")
    small = Gpu(0, "small", int(24e9), (8, 6), True)
    monkeypatch.setattr("computing.machine.gpus", lambda: [small])
    monkeypatch.setattr("mmor.plan._find", lambda name: ("a folder", None))
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=5e9))
    missing = "\n".join(make_plan([published], tmp_path).missing)
    assert "GB of GPU memory: small has 24.0 GB" in missing
    assert f"{tmp_path}: the steps write about 23 GB, 5 GB are free" in missing
    two = Step("two", ("mmor", "panoptic", "predict", "--num-gpus", "2", "--model", "m", "--out", "o"))
    assert "2 GPUs: this machine has 1" in make_plan([two], tmp_path).missing
    assert not any("GPU" in line for line in make_plan([graph_training()], tmp_path).missing)


def test_the_hub_is_asked_before_anything_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = ("mmor", "scene-graph", "samples", "--relations", str(tmp_path), "--data", str(tmp_path), "--tokenizer")
    asked: list[str] = []
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda self, name, timeout: asked.append(name))
    for name, missing in ((str(tmp_path), False), ("a/b", False), ("liuhaotian/llava-v1.5-7b", True)):
        monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=10e9))
        found = make_plan([Step("samples", (*samples, name))], tmp_path).missing
        assert any("no room for" in line for line in found) == missing
    assert asked == ["a/b", "liuhaotian/llava-v1.5-7b"]


def test_a_plan_with_something_missing_ends_with_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "plan").write_text("both mmor compare one.json 'two words.json'\n")
    monkeypatch.setattr("sys.argv", ["mmor", "plan", str(tmp_path / "plan"), "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as done:
        main()
    said = capsys.readouterr()
    assert done.value.code == 2
    assert "needs two words.json MISSING" in said.out
    assert said.err == "error: 2 things are missing that no step makes, see above\n"


@pytest.mark.parametrize("line", ["train mmor 'scene-graph", "train", ""])
def test_a_line_that_is_no_step_is_told(line: str, tmp_path: Path) -> None:
    file = tmp_path / "plan"
    file.write_text(f"check mmor check\n{line}\n")
    with pytest.raises(UserError, match=r"line 2: .* is no step"):
        read_steps(file, None)


def test_steps_name_files_of_any_encoding(tmp_path: Path) -> None:
    (tmp_path / "plan").write_bytes(b"check mmor check --data salle_op\xe9ration\n")
    (step,) = read_steps(tmp_path / "plan", None)
    assert step.words == ("mmor", "check", "--data", os.fsdecode(b"salle_op\xe9ration"))
    with pytest.raises(UserError, match="nowhere: no such file"):
        read_steps(tmp_path / "nowhere", None)
