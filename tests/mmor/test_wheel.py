"""The wheel, installed into a folder of its own: commands that need files which are no Python run from there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = (
    *("operating_room", "operating_room_simulator", "computing"),
    *("panoptic_segmentation", "scene_graph_generation", "mmor", "configs"),
)
pytestmark = pytest.mark.skipif(find_spec("setuptools") is None, reason="needs setuptools: the extra dev")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed packages and no trace of the checkout."""
    work = tmp_path_factory.mktemp("wheel")
    source = work / "source"
    leave_out = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for part in PARTS:
        shutil.copytree(ROOT / part, source / part, ignore=leave_out)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    build = [
        *pip,
        "wheel",
        "--verbose",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--wheel-dir",
        str(work),
        str(source),
    ]
    done = subprocess.run(build, check=True, capture_output=True, text=True)
    (work / "build.txt").write_text(done.stdout + done.stderr)
    (wheel,) = work.glob("mmor-*.whl")
    subprocess.run(
        [*pip, "install", "--no-deps", "--no-index", "--target", str(work / "site"), str(wheel)],
        check=True,
        capture_output=True,
    )
    return work / "site"


def run(installed: Path, folder: Path, *command: str, fails: bool = False) -> str:
    """A command of the installed package, started in another folder."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment = clean | {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    code = "import sys, mmor; from mmor.cli import main; print(mmor.__file__, file=sys.stderr); main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *command], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert str(installed) in done.stderr
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_every_file_of_the_packages_is_in_the_wheel(installed: Path) -> None:
    for part in PARTS:
        for path in (ROOT / part).rglob("*"):
            wanted = path.is_file() and "__pycache__" not in path.parts and path.suffix not in (".pyc", ".md")
            place = Path("mmor") / path.relative_to(ROOT) if part == "configs" else path.relative_to(ROOT)
            assert not wanted or (installed / place).is_file(), f"{place} is missing from the wheel"
    (wheel,) = installed.parent.glob("mmor-*.whl")
    roots = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {root for root in roots if not root.endswith(".dist-info")} == set(PARTS[:-1])


def test_no_folder_is_in_the_wheel_by_favour_of_setuptools(installed: Path) -> None:
    """It will leave out folders that are not among `packages`: now it warns and takes them along."""
    told = (installed.parent / "build.txt").read_text()
    assert "mmor/viewer/static/viewer.js" in told
    assert "would be ignored" not in told


def test_the_demo_runs_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    run(installed, tmp_path, "demo", "--seconds", "40", "--out", "out")
    assert (tmp_path / "out" / "report.html").stat().st_size > 100_000


def test_trainings_find_their_experiment_files_in_the_wheel(installed: Path, tmp_path: Path) -> None:
    size = ("--seconds", "40", "--size", "64x48", "--workers", "1")
    run(installed, tmp_path, "data", "synthesize", "--out", "data", "--take", "001_PKA", *size)
    short = ("SOLVER.MAX_ITER", "2", "SOLVER.CHECKPOINT_PERIOD", "2", "INPUT.MIN_SIZE_TRAIN", "[48]")
    small = (*short, "INPUT.MIN_SIZE_TEST", "48", "INPUT.SAMPLING_FRAME_NUM", "1", "DATALOADER.NUM_WORKERS", "0")
    named = ("--config-file", "configs/panoptic/small.yaml")  # as the documents write it
    told = run(installed, tmp_path, "panoptic", "train", *named, "--out", "model", "--workers", "1", *small)
    assert (tmp_path / "model" / "model_final.pth").is_file()
    assert "comes with the software" in told
    told = run(installed, tmp_path, "scene-graph", "train", "--dry-run", "--out", "graphs", fails=True)
    assert "dataset archive" not in told
    assert "--samples" in told or "samples" in told
    published = ("--model_name_or_path", "none/base", "--deepspeed", "./scripts/zero2.json")
    told = run(installed, tmp_path, "scene-graph", "train", "--dry-run", "--out", "graphs", *published, fails=True)
    assert str(installed / "mmor" / "configs" / "deepspeed" / "zero2.json") in told
