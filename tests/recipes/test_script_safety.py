"""Environments made elsewhere or half, folders begun with something else, what scripts put into small.yaml."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


def scripts(folder: Path, *names: str, environment: str | None = "set -euo pipefail\n") -> Path:
    """Copies of scripts, and `mmor` and `python` that only note what they are called with beside them."""
    (folder / "scripts").mkdir()
    for name in names:
        shutil.copy(ROOT / "scripts" / name, folder / "scripts")
    if environment is not None:
        (folder / "scripts" / "environment.sh").write_text(environment)
    for name in ("mmor", "python"):
        program(folder / name, f'echo "{name} $*" >> "{folder}/said"')
    return folder


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def run(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    path = f"{folder}:{os.environ['PATH']}"
    kept = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "SMALL", "PLAN", "DATA")}
    return subprocess.run(
        ["bash", *words], cwd=folder, env=kept | {"PATH": path, **variables}, capture_output=True, text=True, timeout=60
    )


def test_a_job_with_a_gpu_does_not_get_the_torch_of_the_computer_that_queued_it(tmp_path: Path) -> None:
    """Models of 7 billion parameters were evaluated on the CPU of a machine with a GPU, without a word."""
    scripts(tmp_path, "slurm.sh", "environment.sh", "requirements.lock", environment=None)
    (tmp_path / "pyproject.toml").touch()
    own = {"VIRTUAL_ENV": str(tmp_path)}
    ran = run(tmp_path, "scripts/slurm.sh", "scene-graph", "evaluate", "--help", **own)
    assert ran.returncode == 0, ran.stderr
    assert "+cpu" not in (tmp_path / "said").read_text()
    (tmp_path / "torch.txt").write_text("torch==2.13.0+cpu\n")  # made by scripts/demo.sh there
    (tmp_path / ".mmor-installed-").touch()
    (tmp_path / "said").unlink()
    program(tmp_path / "nvidia-smi", "exit 0")
    run(tmp_path, "scripts/slurm.sh", "scene-graph", "evaluate", **own)
    said = (tmp_path / "said").read_text()
    assert "uninstall" in said
    assert "--editable" in said
    assert not (tmp_path / "torch.txt").exists()


def test_an_environment_whose_making_was_stopped_is_made_anew(tmp_path: Path) -> None:
    """Ubuntu without python3-venv, or Ctrl-C: there is a python, and neither pip nor bin/activate."""
    scripts(tmp_path, "demo.sh", "environment.sh", "requirements.lock", environment=None)
    (tmp_path / "pyproject.toml").touch()
    made = 'for folder; do :; done\nmkdir -p "$folder/bin"\ncp python "$folder/bin/python"\n'
    program(tmp_path / "python3", made + "exit 1")
    assert run(tmp_path, "scripts/demo.sh").returncode == 1
    program(tmp_path / "python3", made + 'echo "VIRTUAL_ENV=$PWD/.venv" > "$folder/bin/activate"')
    ran = run(tmp_path, "scripts/demo.sh")
    assert ran.returncode == 0, ran.stderr


def test_a_folder_of_the_small_path_is_not_taken_for_the_paper(tmp_path: Path) -> None:
    """Both have the same folder by default: the second ended at once, with exit code 0 and nothing done."""
    scripts(tmp_path, "paper.sh")
    assert run(tmp_path, "scripts/paper.sh", "MMOR", SMALL="1").returncode == 0
    said = (tmp_path / "said").read_text()
    ran = run(tmp_path, "scripts/paper.sh", "MMOR")
    assert ran.returncode == 2
    assert "SMALL=1" in ran.stderr
    assert run(tmp_path, "scripts/paper.sh", "MMOR", SMALL="1").returncode == 0
    again = (tmp_path / "said").read_text().removeprefix(said)
    assert {line.split()[1] for line in again.splitlines()} == {"plan"}


@pytest.mark.parametrize("config", ["small", "small_eyes"])
def test_experiments_of_the_scripts_have_the_steps_that_they_ask_for(tmp_path: Path, config: str) -> None:
    scripts(tmp_path, "ablation_small.sh", "train_eyes.sh")
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    assert run(tmp_path, "scripts/ablation_small.sh", "work").returncode == 0
    rows = [yaml.safe_load(path.read_text()) for path in (tmp_path / "work").glob("*/experiment.yaml")]
    assert len(rows) == 8
    assert {(row["pretrain"]["steps"], row["pretrain"]["batch_size"]) for row in rows} == {(400, 16)}
    asked = {"CONFIG": f"configs/scene_graph/{config}.yaml", "TRIPLETS": "7", "ANSWERED": "0", "ROOMS": "1"}
    assert run(tmp_path, "scripts/train_eyes.sh", "eyes", MMOR=str(tmp_path / "mmor"), **asked).returncode == 0
    assert yaml.safe_load((tmp_path / "eyes" / "first" / "experiment.yaml").read_text())["pretrain"]["steps"] == 7


def test_later_stages_learn_from_the_takes_of_the_first(tmp_path: Path) -> None:
    """The folder of stage 2 has 240 takes more, most of them in small pictures."""
    scripts(tmp_path, "train_small.sh", "train_small_stages.sh")
    makes = 'case "$*" in *synthesize*) mkdir -p work/data work/unseen ;; esac'
    program(tmp_path / "mmor", f'echo "$*" >> "{tmp_path}/said"\n{makes}')
    for name in ("train_small.sh", "train_small_stages.sh"):
        ran = run(tmp_path, f"scripts/{name}", "work")
        assert ran.returncode == 0, ran.stderr
    trained = [line for line in (tmp_path / "said").read_text().splitlines() if line.startswith("panoptic train")]
    assert len(trained) == 6
    assert {line.split("--data ")[1].split()[0] for line in trained} == {"work/pictures"}


def test_pictures_that_cannot_be_linked_end_the_script_at_once(tmp_path: Path) -> None:
    scripts(tmp_path, "train_small.sh")
    program(tmp_path / "mmor", f'echo "$*" >> "{tmp_path}/said"\nmkdir -p work/data')
    program(tmp_path / "cp", "exit 1")  # as on a disk without hard links
    assert run(tmp_path, "scripts/train_small.sh", "work").returncode == 1
    assert "train" not in {line.split()[1] for line in (tmp_path / "said").read_text().splitlines()}


@pytest.mark.parametrize("gpu", [False, True])
def test_the_small_models_train_in_two_processes_or_on_a_gpu_and_leave_those_of_the_package_alone(
    tmp_path: Path, gpu: bool
) -> None:
    scripts(tmp_path, "train_small.sh")
    makes = 'case "$*" in *synthesize*) mkdir -p work/data work/unseen ;; esac'
    program(tmp_path / "mmor", f'echo "$*" >> "{tmp_path}/said"\n{makes}')
    program(tmp_path / "nvidia-smi", "exit 0" if gpu else "exit 1")
    assert run(tmp_path, "scripts/train_small.sh", "work").returncode == 0
    lines = (tmp_path / "said").read_text().splitlines()
    assert len([line for line in lines if "--gpus 2" in line]) == (0 if gpu else 4)
    (last,) = [line for line in lines if line.startswith("scene-graph train") and "scene_graph_small" in line]
    assert f"--per_device_train_batch_size {16 if gpu else 8}" in last  # as many samples in a step
    assert lines[-1] == "python scripts/bundle_small.py work work/bundle"


def test_jobs_that_begin_together_make_one_environment(tmp_path: Path) -> None:
    """Eight jobs of an array made and filled one folder at the same time; what was left was no environment."""
    scripts(tmp_path, "slurm.sh", "environment.sh", "requirements.lock", environment=None)
    (tmp_path / "pyproject.toml").touch()
    noted = f'echo begin >> "{tmp_path}/made"\nsleep 0.3\necho end >> "{tmp_path}/made"\n'
    program(tmp_path / "python", f'case "$*" in *--editable*) {noted};; esac')
    command = ["bash", "scripts/slurm.sh", "scene-graph", "evaluate"]
    own = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "VIRTUAL_ENV": str(tmp_path)}
    jobs = [subprocess.Popen(command, cwd=tmp_path, env=os.environ | own) for _ in range(3)]
    assert [job.wait(60) for job in jobs] == [0, 0, 0]
    assert (tmp_path / "made").read_text().split() == ["begin", "end"]
