"""Mistakes and surroundings at the edges of commands: addresses, proxies, files of another split or task, disks."""

from __future__ import annotations

import io
import shutil
import socket
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import transformers
from typer.testing import CliRunner

from computing import machine
from computing.hub import hub_errors
from mmor import cli
from mmor import hub as hub_files
from mmor.hub import download, find_published
from mmor.launch import check_machines, start_processes
from operating_room.errors import UserError
from operating_room.files.atomic import write_json
from panoptic_segmentation.config.settings import save_config
from scene_graph_generation.inference.seen import Presence, Seen
from scene_graph_generation.preprocess.embeddings import ClapEncoder
from tests.mmor.cli.test_cli_evaluation import place as place
from tests.mmor.cli.test_cli_evaluation import run
from tests.mmor.test_checkpoints import FakeHub
from tests.mmor.test_checkpoints import hub as hub
from tests.panoptic_segmentation.data.test_ground_truth import write_take
from tests.panoptic_segmentation.training.test_panoptic_train import TINY


@pytest.mark.parametrize("url", ["tcp://host", "tcp://host:port", "tcp://host:0", "tcp://host:70000", "tcp://:29500"])
def test_a_place_to_meet_has_a_host_and_a_port(url: str) -> None:
    with pytest.raises(UserError, match="needs --dist-url tcp://HOST:PORT"):
        check_machines(2, 0, url)


def test_a_port_that_another_job_has_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with socket.create_server(("", 0)) as other:
        url = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(UserError, match=f"--dist-url {url}: the machines cannot meet there"):
            start_processes(1, 2, 0, url)


@pytest.mark.parametrize("kind", [ImportError, ValueError, Exception])
def test_a_proxy_that_the_hub_cannot_use_is_one_line(kind: type[Exception]) -> None:
    told = "Using SOCKS proxy, but the 'socksio' package is not installed."
    with pytest.raises(UserError, match="a/b: cannot be fetched from the model hub"), hub_errors("a/b"):
        raise kind(told)


def test_clap_behind_a_proxy_that_cannot_be_used_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ImportError("Using SOCKS proxy, but the 'socksio' package is not installed.")

    monkeypatch.setattr(transformers.ClapModel, "from_pretrained", refuse)
    with pytest.raises(UserError, match="CLAP cannot be loaded"):
        ClapEncoder("nobody/behind-a-proxy", False)([np.zeros((48_000, 1), np.float32)], 48_000)


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


def test_what_the_cache_holds_needs_no_room(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.put("config.json", b"{}", "openai/clip-vit-large-patch14-336")
    (folder,) = download(find_published("clip-base"))

    def cached(repository: str, path: str) -> str | None:
        return str(folder / path) if repository.startswith("openai/") else None

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    assert download(find_published("clip-base")) == [folder]


def test_who_is_to_make_vectors_of_sound_hears_that_there_are_two_kinds() -> None:
    (note,) = Seen({"audio": Presence(known=True, timepoints=0, of=3, files=0)}).warnings()
    assert "--audio-encoder that the model was trained with, mel for the bundled ones" in note


def test_who_asks_for_a_gpu_where_there_is_none_is_not_told_to_start_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpus", list)
    with pytest.raises(UserError, match="none; choose another one, cpu always is"):
        machine.choose_device("cuda")


def test_a_download_leaves_what_others_into_the_same_folder_have_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three entries go to `checkpoints`; the first that was done removed what the others had fetched by then."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("model/config.json", "{}")

    def list_files(entry: hub_files.Published) -> list[hub_files.HubFile]:
        return [hub_files.HubFile(f"{entry.folder}/{entry.name}.zip", 100, None)]

    def fetch(repository: str, path: str, local_dir: Path) -> str:
        file = local_dir / (f"{path}.incomplete" if "base" in path else path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(packed.getvalue())
        if "base" in path:
            raise KeyboardInterrupt
        return str(file)

    monkeypatch.setattr(hub_files, "list_files", list_files)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    with pytest.raises(KeyboardInterrupt):
        hub_files.download(hub_files.find_published("scene-graph-base"), tmp_path)
    hub_files.download(hub_files.find_published("scene-graph-downstream"), tmp_path)
    assert list(tmp_path.rglob("*.incomplete"))
