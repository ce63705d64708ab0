"""Each registered checkpoint: downloaded, told, used and saved again by the commands, in published form at toy size."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image

from mmor.hub import PUBLISHED, REPOSITORY
from operating_room.files.atomic import write_json
from panoptic_segmentation.config.settings import save_config
from panoptic_segmentation.weights.checkpoints import load_model as load_segmenter
from scene_graph_generation.weights.checkpoints import load_model, save_model
from scene_graph_generation.weights.fine_tuned import load_fine_tuned, read_fine_tuned, save_published
from tests.mmor.cli.test_cli_evaluation import GRAPH, run
from tests.mmor.test_checkpoints import NAME, FakeHub
from tests.operating_room.tiny_dataset import write_dataset
from tests.panoptic_segmentation.data.test_ground_truth import write_take
from tests.panoptic_segmentation.training.test_panoptic_train import TINY
from tests.published_form import (
    CLAP,
    LANGUAGE,
    SEGMENTERS,
    VISION,
    write_clap,
    write_clip,
    write_initial,
    write_language,
    write_scene_graph_zip,
    write_segmenter,
)

SUFFIXES = {"base": "", "temporal": "_temporal_curriculum", "downstream": "_downstream_tasks"}
TAKE = "001_PKA"
FEW = ("--max-new-tokens", "4")


@pytest.fixture(scope="module")
def hub_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All repositories."""
    root = tmp_path_factory.mktemp("hub")
    write_language(root / LANGUAGE)
    write_clip(root / VISION)
    write_clap(root / CLAP)
    for seed, (kind, suffix) in enumerate(SUFFIXES.items()):
        write_scene_graph_zip(root / REPOSITORY / "checkpoints" / f"{NAME}{suffix}.zip", kind == "downstream", seed + 2)
    for kind, folder in SEGMENTERS.items():
        write_segmenter(root / REPOSITORY / folder, kind)
    write_initial(root / REPOSITORY / "panoptic_segmentation" / "mask2former")
    return root


@pytest.fixture
def hub(hub_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """The hub, and a folder of its own in which the commands run, as the documentation has it."""
    fake = FakeHub(hub_folder)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fake.hf_hub_download)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(hub_folder / name))
    monkeypatch.chdir(tmp_path)
    return fake


@pytest.fixture
def place(tmp_path: Path) -> Sequence[str | Path]:
    """Options of a data set with every modality and true graphs."""
    data = write_dataset(tmp_path / "data")
    for path in data.rglob("*.pt"):
        torch.save(torch.ones(512), path)
    takes = ("001_4DOR", "001_PKA_MMOR")
    records = [{"take_name": t, "frame_id": f"{i:06d}", "relationships": GRAPH} for t in takes for i in range(3)]
    write_json(data / "relationships_train.json", records)
    return "--data", data, "--relations", data, "--split", "train"


def fetch(name: str, capsys: pytest.CaptureFixture[str]) -> tuple[Path, str]:
    """What `download` prints last, and what `inspect` says of it (of its folder, if it is a file)."""
    assert run("checkpoints", "download", name) == 0
    path = Path(capsys.readouterr().out.splitlines()[-1])
    folder = path.parent if path.suffix == ".pth" else path
    assert run("checkpoints", "inspect", folder) == 0
    return folder, capsys.readouterr().out


def test_every_registered_checkpoint_is_walked_here() -> None:
    bases = {"llava-base": LANGUAGE, "clip-base": VISION, "clap-base": CLAP}
    segmenters = {"segmenter-initial", *(f"segmenter-{kind}" for kind in SEGMENTERS)}
    assert {entry.name for entry in PUBLISHED} == {*bases, *segmenters, *(f"scene-graph-{kind}" for kind in SUFFIXES)}
    assert {entry.name: entry.repository for entry in PUBLISHED if entry.name in bases} == bases


@pytest.mark.parametrize("kind", ["base", "temporal"])
def test_scene_graph_models(
    hub: FakeHub, place: Sequence[str | Path], tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, told = fetch(f"scene-graph-{kind}", capsys)
    assert "fine-tuned beside a base (published form)" in told
    assert "rank 4, alpha 8" in told
    assert f"needs: {LANGUAGE} (from the hub), {VISION} (from the hub)" in told
    config = "mmor" if kind == "base" else "mmor_temporal_pred"
    assert run("scene-graph", "evaluate", "--model_path", folder, "--config", config, *place, *FEW) == 0
    results = json.loads((folder / "evaluation" / f"{config}_train.json").read_text())
    assert len(results["samples"]) == 6
    memory = "--no-memory" if kind == "base" else "--memory"
    infer = ("scene-graph", "infer", *place[:2], "--take", TAKE, memory, *FEW)
    assert run(*infer, "--model", folder, "--out", tmp_path / "a.json") == 0
    # Saved as a whole, the adapter merged, it needs no base and answers the same.
    save_model(tmp_path / "whole", *load_model(folder))
    assert run(*infer, "--model", tmp_path / "whole", "--out", tmp_path / "b.json") == 0
    lines = [map(json.loads, (tmp_path / f"{name}.jsonl").read_text().splitlines()[1:]) for name in "ab"]
    texts = [[answer[-1] for answer in answers] for answers in lines]
    assert texts[0] == texts[1]
    assert len(texts[0]) == 3
    assert all(map(len, texts[0]))
    # Saved in its own form again, names, shapes and values are those that were downloaded.
    model, report = load_fine_tuned(read_fine_tuned(folder), bits=32)
    assert report.missing == report.unexpected == report.reshaped == []
    save_published(tmp_path / "again", model, LANGUAGE, VISION, torch.bfloat16)
    for name in ("adapter_model.bin", "non_lora_trainables.bin"):
        first, again = (torch.load(path / name, weights_only=True) for path in (folder, tmp_path / "again"))
        assert first.keys() == again.keys()
        assert all(torch.equal(first[entry], again[entry]) for entry in first)


@pytest.mark.parametrize("bits", ["4", "16"])
def test_scene_graph_models_in_fewer_bits(
    hub: FakeHub, place: Sequence[str | Path], tmp_path: Path, bits: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if bits == "4":
        pytest.importorskip("bitsandbytes", reason="the extra quant (bitsandbytes) is not installed")
    folder, _ = fetch("scene-graph-base", capsys)
    out = tmp_path / "a.json"
    options = (*place[:2], "--take", TAKE, "--bits", bits, "--limit", "1", *FEW)
    assert run("scene-graph", "infer", "--model", folder, "--out", out, *options) == 0
    assert len(json.loads(out.read_text())) == 1


def test_a_base_that_has_the_vision_tower_inside(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Later copies of LLaVA 1.5 hold CLIP's weights as well; CLIP's own folder is read after them."""
    folder, _ = fetch("scene-graph-base", capsys)
    write_language(tmp_path / "llava", with_vision=True)
    assert run("checkpoints", "inspect", tmp_path / "llava") == 0
    assert "its vision tower is inside" in capsys.readouterr().out
    inside, _ = load_model(folder, base=tmp_path / "llava")
    outside, _ = load_model(folder)
    states = inside.state_dict(), outside.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_downstream_model(
    hub: FakeHub, place: Sequence[str | Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, told = fetch("scene-graph-downstream", capsys)
    assert "reads: text only" in told
    out = tmp_path / "scores.json"
    assert run("downstream", "evaluate", "--model_path", folder, "--out", out, *place, *FEW) == 0
    assert json.loads(out.read_text())
    assert run("scene-graph", "infer", *place[:2], "--model", folder, "--out", tmp_path / "a.json") == 2
    assert "reads text only" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "kind"),
    [("llava-base", "language model"), ("clip-base", "vision tower"), ("clap-base", "another model (clap")],
)
def test_bases(
    hub: FakeHub, place: Sequence[str | Path], name: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, told = fetch(name, capsys)
    assert kind in told
    assert run("scene-graph", "infer", *place[:2], "--model", folder, "--out", "a.json") == 2
    assert "a base that models are trained on" in capsys.readouterr().err


@pytest.mark.parametrize("kind", SEGMENTERS)
def test_segmenters(hub: FakeHub, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder, told = fetch(f"segmenter-{kind}", capsys)
    assert folder == Path(SEGMENTERS[kind])
    assert {"ctvis": "CTVIS", "online": "DVIS++ online", "offline": "refiner"}[kind] in told
    architecture = {"ctvis": "CTMinVIS", "online": "DVIS_Plus_online", "offline": "DVIS_Plus_offline"}[kind]
    config = tmp_path / "config.yaml"
    save_config(replace(TINY, architecture=architecture), config)
    data = write_take(tmp_path / "data", 3).root
    options = ("--data", data, "--config-file", config)
    assert run("panoptic", "predict", "--model", folder, "--out", tmp_path / "out", *options) == 0
    assert run("panoptic", "evaluate", "--data", data, "--out", tmp_path / "out", "--workers", "1") == 0
    assert "VPQ" in capsys.readouterr().out
    assert run("panoptic", "export-masks", "--model", folder, "--out", tmp_path / "masks", *options) == 0
    pictures = sorted((tmp_path / "masks").rglob("*.png"))
    assert pictures
    with Image.open(pictures[0]) as image:
        assert np.asarray(image).size


def test_what_segmenter_training_starts_from(hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("checkpoints", "download", "segmenter-initial") == 0
    data = write_take(tmp_path / "data", 7).root
    config = tmp_path / "config.yaml"
    for name in ("ctvis_r50_vspw.pth", "mask2former_r50.pkl"):
        assert run("checkpoints", "inspect", Path("mask2former") / name) == 0
        save_config(replace(TINY, architecture="CTMinVIS"), config)
        out = tmp_path / name
        options = ("SOLVER.MAX_ITER", "1", "SOLVER.CHECKPOINT_PERIOD", "1", "MODEL.WEIGHTS", f"mask2former/{name}")
        assert run("panoptic", "train", "--config-file", config, "--data", data, "--out", out, *options) == 0
        load_segmenter(out / "model.safetensors")
        assert run("checkpoints", "inspect", out) == 0
        assert "how it is built is inside" in capsys.readouterr().out
