"""scripts/paper.sh: every command of it parsed and its inputs looked for; what it does first, and when it is run again.

The commands themselves run elsewhere: `mmor` is a stand-in here that notes what it is asked for.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmor.plan import make_plan, parse, read_steps
from operating_room.domain.collection import Take
from operating_room.domain.domain import mmor
from scene_graph_generation.config.published_options import read_options
from tests.operating_room.tiny_dataset import write

ROOT = Path(__file__).parents[2]
SETS = ("HybridOR", "MMOR", "4DOR")
WITHOUT_HUB = {"HF_HUB_OFFLINE": "1"}
# `mmor plan` keeps the plan and, if `stop` is there, finds something missing; others are noted, and fail if told so.
STAND_IN = """#!/usr/bin/env bash
here=$(dirname "$0")
if [ "$1" = plan ]; then cp "$2" "$here/plan"; [ ! -e "$here/stop" ] || exit 2; exit 0; fi
echo "$*" >>"$here/ran"
[ ! -e "$here/fail" ] || [[ "$*" != *"$(cat "$here/fail")"* ]] || exit 1
"""


@dataclass(frozen=True)
class Script:
    """A copy of the scripts with a stand-in for `mmor` and for the making of an environment."""

    folder: Path

    def run(self, *words: str, script: str = "paper.sh", **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {
            name: value for name, value in os.environ.items() if name not in ("SMALL", "PLAN", "GPUS", "DATA")
        }
        environment |= {"PATH": f"{self.folder}:{os.environ['PATH']}", **variables}
        command = ["bash", str(self.folder / "scripts" / script), *words, str(self.folder / "work")]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)

    def ran(self) -> list[str]:
        noted = self.folder / "ran"
        return noted.read_text().splitlines() if noted.exists() else []

    def plan(self, dataset: str, done: Path | None = None, **variables: str):  # noqa: ANN201
        """The plan of the real command line for what the script asks for."""
        ran = self.run(dataset, PLAN="1", **variables)
        assert ran.returncode == 0, ran.stderr
        return make_plan(read_steps(self.folder / "plan", done), self.folder / "work")


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    (tmp_path / "scripts").mkdir()
    for name in ("paper.sh", "slurm.sh"):
        shutil.copy(ROOT / "scripts" / name, tmp_path / "scripts")
    (tmp_path / "scripts" / "environment.sh").write_text(f"set -euo pipefail\ncd {ROOT}\n")
    (tmp_path / "mmor").write_text(STAND_IN)
    (tmp_path / "mmor").chmod(0o755)
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return Script(tmp_path)


def write_indices(root: Path, datasets: tuple[str, ...] = ("MMOR", "4DOR")) -> Path:
    """The index files of all takes, and nothing else."""
    for take in {take for split in mmor().splits for take in mmor().split_takes(split)}:
        if take.dataset in datasets:
            folder = root / ("MM-OR_data" if take.dataset == "MMOR" else "4D-OR_data") / take.folder
            write(folder / f"timestamp_to_pcd_and_frames_list{_ending(take)}.json", [["000000", {"azure": "000001"}]])
    return root


def _ending(take: Take) -> str:
    return "" if take.folder == take.name or take.dataset == "4DOR" else f"_{take.name}"


@pytest.mark.parametrize("dataset", SETS)
def test_the_small_path_needs_nothing(script: Script, dataset: str) -> None:
    found = script.plan(dataset, SMALL="1")
    assert found.missing == []
    assert "nothing missing" in found.text
    assert ("downstream train" in found.text) == (dataset != "4DOR")
    assert not (script.folder / "work").exists()


@pytest.mark.parametrize(("dataset", "gpus"), [("HybridOR", "1"), ("MMOR", "4"), ("4DOR", "4")])
def test_the_full_path_names_all_that_is_missing_at_once(script: Script, dataset: str, gpus: str) -> None:
    data = write_indices(script.folder / "data")
    found = script.plan(dataset, GPUS=gpus, DATA=str(data), WEIGHTS=str(script.folder / "absent.pth"))
    missing = "\n".join(found.missing)
    assert f"{script.folder}/absent.pth: no such file" in missing
    for name in ("liuhaotian/llava-v1.5-7b", "openai/clip-vit-large-patch14-336", "laion/larger_clap_general"):
        assert missing.count(f"{name}: cannot be fetched") == 1
    assert "IMS_PER_BATCH" not in missing  # four processes get four clips a step
    assert "train_token_freqs" not in missing
    assert str(script.folder / "work") not in missing  # each input of a step is made by an earlier one
    assert str(data) not in missing
    assert found.text.count(f"SOLVER.IMS_PER_BATCH {gpus} ") == 3
    assert "GB to write" in found.text


def test_what_is_there_is_not_missing(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_indices(script.folder / "data")
    weights = write(script.folder / "start.pth", b"weights")
    monkeypatch.setattr("mmor.plan._find", lambda name: ("a folder", None))
    monkeypatch.setattr("mmor.needs._need_gpus", lambda *_, **__: None)
    monkeypatch.setattr("scene_graph_generation.training.requirements.missing_tools", lambda experiment: [])
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=1e12))
    assert script.plan("HybridOR", DATA=str(data), WEIGHTS=str(weights)).missing == []


def test_the_other_dataset_is_missed(script: Script) -> None:
    data = write_indices(script.folder / "data", ("MMOR",))
    missing = "\n".join(script.plan("HybridOR", DATA=str(data)).missing)
    assert f"{data}: holds no take of 4DOR of the split train" in missing


def test_a_step_whose_files_are_gone_is_told(script: Script) -> None:
    done = script.folder / "work" / ".done"
    for name in ("synthesize", "relations"):
        write(done / name, b"")
    missing = "\n".join(script.plan("MMOR", done, SMALL="1").missing)
    assert (
        f"{script.folder}/work/data/MM-OR_data: no such file or folder, though synthesize is marked as done" in missing
    )


def test_nothing_runs_before_the_plan_is_content(script: Script) -> None:
    (script.folder / "stop").touch()
    ran = script.run("HybridOR", SMALL="1")
    assert ran.returncode == 2
    assert script.ran() == []
    assert not (script.folder / "work").exists()
    (script.folder / "stop").unlink()
    assert script.run("HybridOR", SMALL="1", PLAN="1").returncode == 0
    assert script.ran() == []


def test_steps_run_in_the_order_of_the_plan_and_once(script: Script) -> None:
    (script.folder / "fail").write_text("preprocess")
    ran = script.run("HybridOR", SMALL="1")
    assert ran.returncode == 1
    assert "step preprocess has failed" in ran.stderr
    steps = [" ".join(step.words[1:]) for step in read_steps(script.folder / "plan", None)]
    until = 1 + next(i for i, step in enumerate(steps) if step.startswith("scene-graph preprocess"))
    assert script.ran() == steps[:until]
    (script.folder / "fail").unlink()
    for _ in range(2):
        assert script.run("HybridOR", SMALL="1").returncode == 0
    assert script.ran() == steps[:until] + steps[until - 1 :]


def test_the_job_of_a_cluster_takes_all_its_gpus(script: Script) -> None:
    ran = script.run("MMOR", script="slurm.sh", SLURM_GPUS_ON_NODE="4", PLAN="1")
    assert ran.returncode == 0, ran.stderr
    commands = [step.words for step in read_steps(script.folder / "plan", None)]
    divided = [words for words in commands if words[2] in ("train", "predict", "export-masks", "preprocess")]
    divided += [words for words in commands if words[2] == "evaluate" and words[1] != "panoptic"]
    assert len(divided) == 15
    assert all("4" in words for words in divided)


def test_jobs_of_an_array_get_their_share(script: Script) -> None:
    command = ("scene-graph", "evaluate", "--model-path", "MODEL", "--out")
    for number in ("1", "2", None):
        array = {} if number is None else {"SLURM_ARRAY_TASK_ID": number, "SLURM_ARRAY_TASK_COUNT": "2"}
        ran = script.run(*command, script="slurm.sh", **array)
        assert ran.returncode == 0, ran.stderr
    whole = " ".join([*command, str(script.folder / "work")])
    assert script.ran() == [f"{whole} --part 1/2", f"{whole} --part 2/2", whole]


def test_trained_is_what_the_published_commands_train(script: Script) -> None:
    """The options of the three trainings reach the experiment: token frequencies, curriculum, samples."""
    script.run("HybridOR", PLAN="1")
    commands = {step.name: parse(step.words)[1] for step in read_steps(script.folder / "plan", None)}
    temporal = read_options(commands["temporal"]["options"]).experiment
    assert temporal.start.curriculum == script.folder / "work" / "base"
    assert temporal.files.token_frequencies == script.folder / "work" / "samples" / "train_token_freqs_7b_20perm.json"
    assert "_Truetemp_" in commands["temporal"]["samples"][0].name
    assert "_Falsetemp_" in commands["base"]["samples"][0].name
    truths = {commands[name]["ground_truth"] for name in commands if name.startswith(("train_", "evaluate_"))}
    assert truths == {script.folder / "work" / "ground_truth"}  # prepared once for all models
