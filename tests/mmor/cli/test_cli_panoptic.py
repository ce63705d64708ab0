"""The published commands of stage 1, in processes of their own, also several at once and killed half-way."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from computing.training_checkpoints import find_checkpoint
from mmor import cli
from operating_room.domain.domain import mmor
from operating_room.recordings.dataset import Dataset
from panoptic_segmentation.config.settings import Config, save_config
from panoptic_segmentation.data.videos import find_videos, first_frames
from panoptic_segmentation.inference import predictions
from panoptic_segmentation.inference.predict import load, predict
from panoptic_segmentation.training.train import train
from panoptic_segmentation.weights.checkpoints import build_model, load_model, published_state, save_published
from tests.dying import dies_in, require_killed
from tests.operating_room.published import index_place, mask_place
from tests.panoptic_segmentation.data.test_ground_truth import TAKE, write_take
from tests.panoptic_segmentation.inference.test_predict import new_model
from tests.panoptic_segmentation.training.test_panoptic_train import TINY

RUN = CliRunner()
LONG = replace(TINY, solver=replace(TINY.solver, steps=16, checkpoint_every=2))
SEPARATE = replace(  # no statistics of the batch
    TINY,
    segmenter=replace(TINY.segmenter, norm="frozen"),
    solver=replace(TINY.solver, checkpoint_every=1, average_decay=0.0),
)


def start(*command: str) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    )


def prepare(root: Path, config: Config, frames: int = 7) -> Path:
    write_take(root / "data", frames)
    save_config(config, root / "config.yaml")
    return root / "config.yaml"


def losses(run: Path, step: int) -> list[float]:
    state = json.loads((run / f"checkpoint-{step}" / "trainer_state.json").read_text())
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


def test_two_processes_have_the_losses_of_one(tmp_path: Path) -> None:
    config = prepare(tmp_path, SEPARATE)
    options = ("--num-gpus", "2", "--config-file", str(config), "--data", str(tmp_path / "data"), "--workers", "1")
    process = start("-m", "mmor.cli", "panoptic", "train", *options, "--out", str(tmp_path / "two"))
    _, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors
    train(SEPARATE, Dataset(tmp_path / "data"), tmp_path / "one", tmp_path / "two" / "ground_truth")
    assert len(losses(tmp_path / "one", 4)) == 4
    assert losses(tmp_path / "two", 4) == pytest.approx(losses(tmp_path / "one", 4), rel=1e-4)


def test_a_killed_training_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    config = prepare(tmp_path, LONG)
    options = ("--config-file", str(config), "--data", str(tmp_path / "data"), "--out", str(tmp_path / "killed"))
    code = (
        dies_in("panoptic_segmentation.training.trainer", "ClipTrainer.compute_loss", 6)
        + "from mmor.cli import main; main()"
    )
    require_killed(start("-c", code, "panoptic", "train", *options, "--workers", "1", "--resume"))
    checkpoint = find_checkpoint(tmp_path / "killed").path
    assert checkpoint == tmp_path / "killed" / "checkpoint-4"
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    prepared = tmp_path / "killed" / "ground_truth"
    paths = [train(LONG, Dataset(tmp_path / "data"), tmp_path / "killed", prepared, resume=True)]
    paths.append(train(LONG, Dataset(tmp_path / "data"), tmp_path / "whole", prepared))
    resumed, whole = (published_state(load_model(path)[0]) for path in paths)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_a_killed_prediction_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    dataset = write_take(tmp_path / "data", 30)
    origin = new_model(tmp_path / "model.safetensors")
    videos = find_videos(dataset, [TAKE], length=6)
    script = (
        "import sys; from pathlib import Path;"
        "from operating_room.recordings.dataset import Dataset;"
        "from operating_room.domain.domain import mmor;"
        "from panoptic_segmentation.data.videos import find_videos;"
        "from panoptic_segmentation.inference.predict import load, predict; data, model, out = map(Path, sys.argv[1:]);"
        f"videos = find_videos(Dataset(data), [mmor().find_take('{TAKE.name}')], length=6);"
        "predict(*load(model, videos[0].domain), videos, out, 'test', model)"
    )
    script = dies_in("panoptic_segmentation.inference.predictions", "write_video", 3) + script
    require_killed(start("-c", script, str(tmp_path / "data"), str(origin), str(tmp_path / "killed")))
    first = predictions.video_path(tmp_path / "killed", videos[1].video_id)
    assert not predictions.split_path(tmp_path / "killed", "test").exists()
    kept = first.stat().st_mtime_ns
    for folder in ("killed", "whole"):
        predict(*load(origin, dataset.domain), videos, tmp_path / folder, "test", origin)
    assert first.stat().st_mtime_ns == kept
    files = {path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*") if path.is_file()}
    for file in files:
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file


def test_the_published_chain_of_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frame training, online from its checkpoint, then evaluation and export of masks."""
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path, replace(TINY, output_folder="output_CTVIS", test_data=("mmor_panoptic_train",)))
    command = ["panoptic", "train", "--num-gpus", "1", "--workers", "1", "--config-file"]
    one_clip = ["SOLVER.IMS_PER_BATCH", "1"]
    result = RUN.invoke(cli.app, [*command, "config.yaml", "--resume", "MODEL.WEIGHTS", "", *one_clip])
    assert result.exit_code == 0, result.output
    online = replace(TINY, architecture="DVIS_Plus_online", output_folder="output_online", test_data=TINY.train_data)
    save_config(online, Path("online.yaml"))
    weights = ["MODEL.WEIGHTS", "output_CTVIS/model_0000003.pth"]
    result = RUN.invoke(cli.app, [*command, "online.yaml", "--resume", *weights, *one_clip, "SOLVER.MAX_ITER", "2"])
    assert result.exit_code == 0, result.output
    result = RUN.invoke(
        cli.app, [*command, "online.yaml", "--eval-only", "MODEL.WEIGHTS", "output_online/model_final.pth"]
    )
    assert result.exit_code == 0, result.output
    assert "VPQ" in result.output
    assert "STQ" in result.output
    assert Path("output_online/inference/pred_train.json").exists()
    result = RUN.invoke(cli.app, ["panoptic", "export-masks", "--model", "output_CTVIS"])
    assert result.exit_code == 0, result.output
    assert Path("output_CTVIS/masks/inference/pred_train.json").exists()
    export = ["panoptic", "export-masks", "--model", "output_CTVIS", "--dtype", "bfloat16"]
    assert "now 'bfloat16'" in str(RUN.invoke(cli.app, export).exception)
    result = RUN.invoke(cli.app, [*export, "--out", "in_16_bits"])
    assert result.exit_code == 0, result.output
    assert json.loads(Path("in_16_bits/inference/model.json").read_text())["settings"]["dtype"] == "bfloat16"
    published = ["--eval-only", "MODEL.WEIGHTS", "output_CTVIS/model_final.pth", "MODEL.MASK_FORMER.TEST.TASK", "vps"]
    result = RUN.invoke(cli.app, [*command, "config.yaml", *published])  # into the same folder
    assert result.exit_code == 0, result.output
    assert Path("output_CTVIS/inference/pred_train.json").exists()


def test_mistakes_at_the_start(tmp_path: Path) -> None:
    config = prepare(tmp_path, TINY)
    command = ["panoptic", "train", "--config-file", str(config), "--data", str(tmp_path / "data")]

    def message(*more: str) -> str:
        return str(RUN.invoke(cli.app, [*command, "--out", str(tmp_path / "out"), *more]).exception)

    assert "did you mean SOLVER.IMS_PER_BATCH" in message("SOLVER.IMS_PER_BACH", "2")
    assert "needs --dist-url tcp://HOST:PORT" in message("--num-machines", "2")
    assert "of 2 machines it is 0 to 1" in message(
        "--num-machines", "2", "--machine-rank", "2", "--dist-url", "tcp://a:1"
    )
    for more in ([], ["--dry-run"]):  # with one machine it trained as if the option was not there
        assert "--machine-rank 1: of 1 machines it is 0" in message("--machine-rank", "1", *more)
        assert "needs --dist-url tcp://HOST:PORT" in message("--num-machines", "2", *more)
    if find_spec("wandb") is None:
        assert "wandb is not installed" in message("--report-to", "wandb")
    assert "needs a model" in message("--eval-only")
    for option in (["--resume"], ["--dry-run"], ["--report-to", "wandb"]):
        assert f"{option[0]} is of a training, --eval-only" in message("--eval-only", *option)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["predict", "export-masks"])
def test_frames_without_annotated_mask_are_told_and_predicted_when_asked(tmp_path: Path, command: str) -> None:
    """Fault: takes of one's own with masks of few frames got masks of these alone, and nothing told how to get all."""
    data = write_take(tmp_path / "data", 4).root  # one of the four has no mask
    other = mmor().find_take("002_PKA")
    shutil.rmtree(mask_place(write_take(data, 3, other).roots[other.dataset], other, "1", "0").parent)
    options = ["--model", str(new_model(tmp_path / "model.safetensors")), "--data", str(data)]

    def run(out: str, *more: str) -> Result:
        return RUN.invoke(cli.app, ["panoptic", command, *options, "--out", str(tmp_path / out), *more])

    told = run("annotated").stderr
    assert "note: 4 of 7 frames have no annotated mask and are not predicted; --all-frames predicts them, too" in told
    assert "choose other takes, or --all-frames" in str(run("none", "--take", "002_PKA").exception)
    every = run("every", "--all-frames")
    assert every.exit_code == 0
    assert "note" not in every.stderr
    assert len(list((tmp_path / "every" / "inference" / "pan_pred").rglob("*.png"))) == 7


def test_torchrun_alone_writes_the_prediction_file(tmp_path: Path) -> None:
    """Each process predicts its videos; the first one waits and writes the file of all."""
    dataset = write_take(tmp_path / "data", 9)
    for take in ("002_PKA", "004_TKA"):
        write_take(tmp_path / "data", 4, mmor().find_take(take))
    videos = find_videos(dataset, dataset.choose(None))
    assert len(videos) == 3
    origin = new_model(tmp_path / "model.safetensors")
    command = ["panoptic", "predict", "--model", str(origin), "--data", str(tmp_path / "data"), "--blend", "--out"]
    start_two = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "mmor.cli"]
    done = finished(*start_two, *command, str(tmp_path / "two"))
    assert done.stdout.count("predictions in") == 1
    whole = predict(*load(origin, dataset.domain), videos, tmp_path / "one", "test", origin)
    assert predictions.split_path(tmp_path / "two", "test").read_bytes() == whole.read_bytes()
    assert len(list((tmp_path / "two" / "inference" / "pan_pred").rglob("blend/*.jpg"))) == 14
    videos[1].pictures()[0].write_bytes(b"\xff\xd8")  # of the second process: told once, by the first
    failed = start(*start_two, *command, str(tmp_path / "bad"))
    _, errors = failed.communicate()
    assert failed.returncode != 0
    assert errors.count("1 of 3 videos are not in it") == 1
    there = json.loads(predictions.split_path(tmp_path / "bad", "test").read_text())["annotations"]
    assert [video["video_id"] for video in there] == [videos[0].video_id, videos[2].video_id]


def test_two_processes_predict_and_score(tmp_path: Path) -> None:
    write_take(tmp_path / "data", 9)
    write_take(tmp_path / "data", 4, mmor().find_take("002_PKA"))
    config = replace(TINY, test_data=("mmor_panoptic_train",))
    save_config(config, tmp_path / "config.yaml")
    save_published(tmp_path / "model_final.pth", build_model("ctvis", TINY.segmenter, TINY.video))
    options = ["--config-file", str(tmp_path / "config.yaml"), "--data", str(tmp_path / "data"), "--workers", "1"]
    weights = ["--eval-only", "MODEL.WEIGHTS", str(tmp_path / "model_final.pth")]
    done = finished(
        "-m", "mmor.cli", "panoptic", "train", "--num-gpus", "2", *options, "--out", str(tmp_path / "two"), *weights
    )
    assert done.stdout.count("STQ") == 1
    assert (tmp_path / "two" / "inference" / "vpq_train.json").exists()


def test_a_cluster_that_counts_one_process_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_take(tmp_path / "data", 4)
    origin = new_model(tmp_path / "model.safetensors")
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    command = ["panoptic", "predict", "--model", str(origin), "--data", str(tmp_path / "data"), "--blend"]
    result = RUN.invoke(cli.app, [*command, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "predictions in" in result.output
    assert list((tmp_path / "out" / "inference" / "pan_pred").rglob("blend/*.jpg"))


def test_what_is_not_wholly_predicted_is_named_and_the_others_are_scored(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    dataset = write_take(tmp_path / "data", 4)
    write_take(tmp_path / "data", 4, mmor().find_take("002_PKA"))
    videos = find_videos(dataset, dataset.choose(None))
    origin, out = new_model(tmp_path / "model.safetensors"), tmp_path / "out"
    predict(*load(origin, dataset.domain), [*videos[:1], *first_frames(videos[1:], 2)], out, "test", origin)
    command = ["panoptic", "evaluate", "--data", str(tmp_path / "data"), "--out", str(out), "--workers", "1"]
    result = RUN.invoke(cli.app, command)
    assert "1 of 2 videos are not scored, the others are; predict again, or" in str(result.exception)
    assert "STQ" in result.output
    assert "video 002_PKA_1 is not scored: 1 of 3 frames" in result.output + capfd.readouterr().err


def test_a_take_with_a_damaged_index_is_named_and_the_others_are_predicted_and_scored(tmp_path: Path) -> None:
    for name in ("001_PKA", "002_PKA"):
        write_take(tmp_path / "data", 4, mmor().find_take(name))
    index_place(tmp_path / "data" / "MM-OR_data", TAKE).write_text('{"a": ')
    origin, options = new_model(tmp_path / "model.safetensors"), ["--data", str(tmp_path / "data")]
    options += ["--out", str(tmp_path / "out")]
    result = RUN.invoke(cli.app, ["panoptic", "predict", "--model", str(origin), *options])
    assert "predictions in" in result.output
    assert "take 001_PKA is left out" in str(result.exception)
    result = RUN.invoke(cli.app, ["panoptic", "evaluate", *options, "--workers", "1"])
    assert "STQ" in result.output
    assert "take 001_PKA is left out" in str(result.exception)


def test_a_damaged_picture_costs_no_other_video_its_blends(tmp_path: Path) -> None:
    dataset = write_take(tmp_path / "data", 4)
    write_take(tmp_path / "data", 4, mmor().find_take("002_PKA"))
    videos = find_videos(dataset, dataset.choose(None))
    damaged = videos[0].pictures()[2]
    whole = damaged.read_bytes()
    damaged.write_bytes(b"\xff\xd8")
    out = tmp_path / "out"
    command = ["panoptic", "predict", "--model", str(new_model(tmp_path / "model.safetensors")), "--blend"]
    command += ["--data", str(tmp_path / "data"), "--out", str(out)]
    result = RUN.invoke(cli.app, command)
    assert "1 of 2 videos are not in it, the others are" in str(result.exception)
    blends = out / "inference" / "pan_pred"
    assert {path.parents[1].name for path in blends.rglob("blend/*.jpg")} == {videos[1].video_id}
    damaged.write_bytes(whole)
    RUN.invoke(cli.app, [part for part in command if part != "--blend"])
    damaged.write_bytes(
        b"\xff\xd8" + bytes(len(whole) - 2)
    )  # after it was predicted; of another size it is another one
    shutil.rmtree(blends / videos[1].video_id / "blend")
    result = RUN.invoke(cli.app, command)
    assert f"video {videos[0].video_id} lacks blends: {damaged}" in str(result.exception)
    assert len(list((blends / videos[1].video_id / "blend").iterdir())) == 3


def finished(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, which must be good."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=environment, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


def test_the_first_process_of_two_machines_prepares_for_both(tmp_path: Path) -> None:
    """On a shared disk each mask is prepared once, before anybody else looks."""
    config = prepare(tmp_path, replace(SEPARATE, solver=replace(SEPARATE.solver, steps=1)))
    told = (
        "import os; from mmor.cli import main; from panoptic_segmentation.data import ground_truth as g;"
        "write = g.write_png;"
        "g.write_png = lambda path, *a: (print('made', path.name, os.environ['RANK']), write(path, *a)); main()"
    )
    options = ["panoptic", "train", "--config-file", str(config), "--data", str(tmp_path / "data"), "--workers", "1"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = []
    for rank in range(2):
        place = {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"}
        environment = (
            os.environ | place | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        )
        command = [sys.executable, "-c", told, *options, "--out", str(tmp_path / "out")]
        running.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    made = []
    for process in running:
        output, errors = process.communicate(timeout=900)
        assert process.returncode == 0, errors
        made += [line.split() for line in output.splitlines() if line.startswith("made")]
    assert len(made) == 12  # two pictures of each of six masks
    assert {rank for *_, rank in made} == {"0"}


def test_of_a_start_by_torchrun_all_processes_count_and_one_speaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_take(tmp_path / "data", 4)
    save_config(TINY, tmp_path / "c.yaml")
    command = ["panoptic", "train", "--dry-run", "--config-file", str(tmp_path / "c.yaml")]
    command += ["--out", str(tmp_path / "out"), "--data", str(tmp_path / "data")]
    for name, value in {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(cli.app, command)
    assert "SOLVER.IMS_PER_BATCH 2 must be a multiple of the 4 processes" in result.output
    assert result.exit_code != 0
    monkeypatch.setenv("RANK", "1")
    assert CliRunner().invoke(cli.app, command).output == ""
