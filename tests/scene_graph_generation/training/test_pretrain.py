"""Learning to see: the visual path tells scene graphs from pictures and masks before it meets a language model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from torch import Tensor
from torch.distributed import TCPStore

from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.graphs.scene_graph import Triplet, parse
from operating_room.recordings.dataset import Dataset
from scene_graph_generation.config.settings import (
    PointConfig,
    PretrainConfig,
    StartConfig,
    TrainConfig,
    read_experiment,
    to_mapping,
)
from scene_graph_generation.inputs.evidence import ExampleReader
from scene_graph_generation.inputs.example import Example
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.samples.survey import Survey, survey
from scene_graph_generation.samples.training_data import TrainingSamples, read_records
from scene_graph_generation.training.dense import contents_loss, contents_readout
from scene_graph_generation.training.presence import PresenceHead, frequent_triplets
from scene_graph_generation.training.pretrain import optimizer_after_pretraining, pretrain
from scene_graph_generation.training.resuming import keep_seeing, seen_before
from scene_graph_generation.training.starting_point import begin, new_tokens
from scene_graph_generation.training.train import train
from tests.number_formats import Formats
from tests.operating_room.tiny_dataset import label_picture, write
from tests.scene_graph_generation.tiny_training import EXPERIMENT, losses, write_samples

# 60 steps were enough before the mask encoder had to learn what is in each mask, too.
SEE = replace(EXPERIMENT, pretrain=PretrainConfig(steps=120, batch_size=6, learning_rate=1e-2))
TOOLS = (13, 15, 16)  # labels of drill, hammer and saw: the masks tell the three timepoints apart


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_samples(tmp_path_factory.mktemp("data"))
    for second, tool in enumerate(TOOLS):
        for number in range(3):
            name = f"{second + 1:06d}_{number}_GTFalse.png"
            write(
                root / "MM-OR_data" / "take_segmasks_per_timepoint" / "001_PKA" / name, label_picture(0, tool, size=32)
            )
    return root


def start(data: Path, config: TrainConfig = EXPERIMENT.train) -> tuple[MM2SG, TrainingSamples, Survey]:
    records, known, new = survey(
        [data / "samples.json"], True, True, lambda texts: new_tokens(EXPERIMENT, texts, mmor().language)
    )
    model, tokens = begin(EXPERIMENT, new)
    return model, TrainingSamples(records, Dataset(data), config, ExampleReader(model.settings, tokens)), known


@pytest.mark.parametrize("bf16", [False, True])
def test_triplets_are_told_from_masks_alone_and_language_is_left_alone(data: Path, bf16: bool) -> None:
    model, samples, known = start(data)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    assert SEE.pretrain is not None
    with Formats() as formats:
        head, _ = pretrain(model, samples, known, SEE.pretrain, seed=0, bf16=bf16)
    assert formats.linear == {torch.bfloat16 if bf16 else torch.float32}
    assert formats.attention == {torch.float32}
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    truth = [frozenset(parse(known.answers[number])) for number in known.answer_numbers]
    with torch.no_grad():
        shown = [samples.look(i, Random(0), views=False) for i in range(len(samples))]
        told = head(model.visual_tokens(shown)) > 0
    triplets = frequent_triplets(truth)
    assert [frozenset(t for t, holds in zip(triplets, row) if holds) for row in told] == truth
    changed = {name.split(".")[0] for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert changed == {"vision", "pooler", "projector"}


def test_what_is_shown(data: Path) -> None:
    _, samples, _ = start(data)
    everything = samples.look(0, Random(0))
    assert len(everything.views) == 7
    assert everything.masks is not None
    blind = samples.look(0, Random(0), views=False)
    assert len(blind.views) == 1
    assert blind.masks is not None


def test_samples_of_pictures_only_have_no_text_but_the_question(data: Path) -> None:
    _, samples, _ = start(data, replace(EXPERIMENT.train, pictures_only=1.0))
    _, usual, _ = start(data)
    assert len(samples[0, 0].ids) < len(usual[0, 0].ids)
    assert samples[0, 0].masks is not None


def test_seldom_triplets_are_not_asked_for() -> None:
    often, seldom = Triplet("nurse", "patient", "closeTo"), Triplet("nurse", "patient", "cutting")
    graphs = [frozenset([often])] * 3000 + [frozenset([seldom])] * 2
    assert frequent_triplets(graphs) == [often]


def test_samples_without_pictures_are_told(data: Path, tmp_path: Path) -> None:
    records = [{**record, "image": None, "segmasks": None} for record in read_records(data / "samples.json")]
    (tmp_path / "blind.json").write_text(json.dumps(records))
    with pytest.raises(UserError, match=r"no training sample has pictures or masks .*: --pretrain_steps 0"):
        train(SEE, [tmp_path / "blind.json"], Dataset(data), tmp_path / "out")


def test_a_timepoint_of_more_views_than_the_pooler_has_places_is_told_before_patches_are_learnt(
    data: Path, tmp_path: Path
) -> None:
    records = json.loads((data / "samples.json").read_text())
    for record in records:
        record["conversations"][1]["value"] = "<SG> nurse,drill,holding </SG>"
    (tmp_path / "samples.json").write_text(json.dumps(records))
    few = replace(EXPERIMENT.model, pooler=replace(EXPERIMENT.model.pooler, max_views=6))
    hands = PretrainConfig(steps=0, patch_steps=1, hand_steps=1, batch_size=2)
    with pytest.raises(UserError, match=r"has 7 views, and the model places for 6 \(pooler\.max_views\); .*hand_steps"):
        train(
            replace(EXPERIMENT, model=few, pretrain=hands), [tmp_path / "samples.json"], Dataset(data), tmp_path / "out"
        )


def test_triplets_are_told_at_any_width_that_a_language_model_can_have() -> None:
    tokens = [torch.randn(count, 30) for count in (2, 3)]
    assert PresenceHead(4, 30)(tokens).shape == (2, 4)


def test_what_sees_has_its_own_learning_rate(data: Path) -> None:
    model, _, _ = start(data)
    optimizer = optimizer_after_pretraining(model, TrainConfig(learning_rate=1e-3, visual_learning_rate=1e-4))
    rates = {id(weight): group["lr"] for group in optimizer.param_groups for weight in group["params"]}
    assert len(rates) == sum(1 for _ in model.parameters())
    assert rates[id(model.projector[0].weight)] == 1e-4
    assert rates[id(model.language.lm_head.weight)] == 1e-3


def test_training_begins_with_it(data: Path, tmp_path: Path) -> None:
    short = replace(
        SEE,
        pretrain=PretrainConfig(steps=2, batch_size=2),
        train=replace(EXPERIMENT.train, max_steps=2, visual_learning_rate=1e-4, pictures_only=0.5),
    )
    train(short, [data / "samples.json"], Dataset(data), tmp_path / "with")
    train(replace(short, pretrain=None), [data / "samples.json"], Dataset(data), tmp_path / "without")
    log = "log.jsonl"
    assert (tmp_path / "with" / log).read_text() != (tmp_path / "without" / log).read_text()


def test_the_small_experiment_learns_to_see_first() -> None:
    small = read_experiment(Path(__file__).parents[3] / "configs" / "scene_graph" / "small.yaml")
    assert small.pretrain is not None
    assert small.train.pictures_only > 0


WITH_CLOUDS = replace(
    SEE,
    model=replace(
        SEE.model,
        modalities=("views", "masks", "cloud", "robot", "tracker", "speech"),
        pooler=replace(SEE.model.pooler, dropout=0.1),
        points=PointConfig((1,), (8,), (1,), mlp_ratio=1, patch=64, voxel=0.4, drop_path=0.1),
    ),
    pretrain=PretrainConfig(steps=6, batch_size=4),
    train=replace(SEE.train, max_steps=4, save_steps=2, batch_size=2, log_steps=1),
)


def weights_of(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_it_is_the_same_again_bit_for_bit_and_goes_on_after_a_kill(data: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        torch.rand(len(name) + int(name == "two"))  # whatever was drawn before
        train(WITH_CLOUDS, [data / "samples.json"], Dataset(data), tmp_path / name)
    assert weights_of(tmp_path / "one") == weights_of(tmp_path / "two")
    (tmp_path / "killed").mkdir()
    (tmp_path / "one" / "checkpoint-2").rename(tmp_path / "killed" / "checkpoint-2")
    train(WITH_CLOUDS, [data / "samples.json"], Dataset(data), tmp_path / "killed")
    assert weights_of(tmp_path / "killed") == weights_of(tmp_path / "two")


def test_what_was_learnt_to_see_outlives_a_training_that_ends_before_its_first_checkpoint(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hours of it began anew, also where the GPU was too small for the first step afterwards."""
    samples, dataset = [data / "samples.json"], Dataset(data)
    smaller = replace(WITH_CLOUDS, train=replace(WITH_CLOUDS.train, batch_size=1, accumulation=2))
    train(smaller, samples, dataset, tmp_path / "whole")
    of_module, learns = "scene_graph_generation.training.train", pretrain
    with monkeypatch.context() as patch:
        patch.setattr(f"{of_module}.SceneGraphTrainer.train", full)
        with pytest.raises(UserError, match="memory is full"):
            train(WITH_CLOUDS, samples, dataset, tmp_path / "stopped")
    other = replace(smaller, pretrain=replace(WITH_CLOUDS.pretrain or PretrainConfig(), steps=3))
    with pytest.raises(
        UserError, match=r"stopped/seen\.json: pretrain\.steps was \d+ and is now 3; give what it began"
    ):
        train(other, samples, dataset, tmp_path / "stopped")
    begun: list[int] = []
    monkeypatch.setattr(f"{of_module}.pretrain", lambda *given, **named: (begun.append(1), learns(*given, **named))[1])
    train(smaller, samples, dataset, tmp_path / "stopped")
    assert not begun
    assert weights_of(tmp_path / "stopped") == weights_of(tmp_path / "whole")
    assert not list((tmp_path / "stopped").glob("seen.*"))


def test_what_another_training_has_learnt_to_see_is_not_taken(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, _, _ = start(data)
    keep_seeing(tmp_path, model, {"train.seed": 0, "train.batch_size": 4}, taught=True)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with torch.no_grad():
        for weight in model.pooler.parameters():
            weight += 1
    assert seen_before(tmp_path / "new", model, {}) is None
    assert capsys.readouterr().err == ""
    assert seen_before(tmp_path, model, {"train.seed": 1, "train.batch_size": 4}) is None
    assert "seen.json: is of another training" in capsys.readouterr().err
    assert seen_before(tmp_path, model, {"train.seed": 0, "train.batch_size": 2}) is True
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    (tmp_path / "seen.safetensors").write_bytes(b"half")
    assert seen_before(tmp_path, model, {"train.seed": 0, "train.batch_size": 4}) is None
    assert "seen.safetensors: damaged" in capsys.readouterr().err


def full(*_: object, **__: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_everything_is_on_the_device_of_the_model(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, samples, known = start(data)
    moved: list[str] = []
    move = Example.to
    monkeypatch.setattr(Example, "to", lambda self, device: (moved.append(str(device)), move(self, device))[1])
    pretrain(model, samples, known, PretrainConfig(steps=2, batch_size=3), seed=0)
    assert moved == ["cpu"] * 6


def test_views_that_stay_on_a_gpu_have_room_in_main_memory_where_they_are_read(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container with less memory than its GPU would be killed."""
    room: list[int] = []
    of_module = "scene_graph_generation.training.pretrain"
    monkeypatch.setattr(f"{of_module}.free_memory", lambda device=None: (4 if device is None else 80) << 30)
    monkeypatch.setattr(f"{of_module}.read_patched", lambda *arguments: room.append(arguments[3]) or [])
    model, samples, known = start(data)
    pretrain(model, samples, known, PretrainConfig(patch_steps=1, steps=0, batch_size=3), seed=0)
    assert room == [1 << 30] * 2


def test_how_far_the_pictures_of_samples_are_looked_for_is_shown(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 100 000 samples it took minutes without a word."""
    shown: list[tuple[int, str]] = []
    of_module = "scene_graph_generation.training.pretrain"
    monkeypatch.setattr(f"{of_module}.read_patched", lambda *_: [])
    monkeypatch.setattr(f"{of_module}.track", lambda items, what: (shown.append((len(items), what)), items)[1])
    model, samples, known = start(data)
    pretrain(model, samples, known, PretrainConfig(patch_steps=1, steps=0, batch_size=3), seed=0)
    assert shown == [(len(samples), "looking for pictures in the samples")]


def test_only_a_mask_encoder_from_nothing_is_drawn_by_size(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    monkeypatch.setattr(
        "scene_graph_generation.training.pretrain.draw_by_size", lambda _, masks: drawn.append(sum(map(len, masks)))
    )
    short = replace(SEE, pretrain=PretrainConfig(steps=1, batch_size=2), train=replace(SEE.train, max_steps=1))
    train(short, [data / "samples.json"], Dataset(data), tmp_path / "first")
    assert drawn == [3 * len(json.loads((data / "samples.json").read_text()))]  # three masks of every sample
    goes_on = replace(short, start=StartConfig(curriculum=tmp_path / "first"))
    train(goes_on, [data / "samples.json"], Dataset(data), tmp_path / "second")
    assert len(drawn) == 1


def test_what_is_in_a_mask_is_learnt_beside_the_triplets(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[float, float] = {}
    for weight in (2.0, 0.0):
        monkeypatch.setattr("scene_graph_generation.training.pretrain.CONTENTS_WEIGHT", weight)
        readouts: list[torch.nn.Linear] = []

        def kept(
            masks: Sequence[Tensor], width: int, labels: int, into: list[torch.nn.Linear] = readouts
        ) -> torch.nn.Linear:
            into.append(contents_readout(masks, width, labels))
            return into[0]

        monkeypatch.setattr("scene_graph_generation.training.pretrain.contents_readout", kept)
        model, samples, known = start(data)
        pretrain(model, samples, known, PretrainConfig(steps=60, batch_size=6, learning_rate=1e-2), seed=0)
        encoder = model.pooler.mask_encoder
        assert encoder is not None
        masks = [masks for i in range(len(samples)) if (masks := samples.look(i, None).masks) is not None]
        told[weight] = contents_loss(encoder, readouts[0], masks).item()
    assert told[2.0] < told[0.0] / 2  # the latter: what the mean mask has


def test_a_pretraining_that_diverges_says_so(data: Path) -> None:
    model, samples, known = start(data)
    with pytest.raises(UserError, match="pretraining diverged: loss nan at step"):
        pretrain(model, samples, known, PretrainConfig(steps=20, batch_size=3, learning_rate=1e30), seed=0)


def test_no_steps_are_no_pretraining(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scene_graph_generation.training.train.pretrain", lambda *_: pytest.fail("it began"))
    none = replace(SEE, pretrain=PretrainConfig(steps=0), train=replace(SEE.train, max_steps=1))
    train(none, [data / "samples.json"], Dataset(data), tmp_path)


@pytest.mark.parametrize(("workers", "patch_steps"), [(0, 2), (1, 0)])
def test_a_bad_picture_ends_it_in_one_line_or_is_skipped(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], workers: int, patch_steps: int
) -> None:
    data = write_samples(tmp_path)
    picture = data / "MM-OR_data" / "001_PKA" / "colorimage" / "camera01_colorimage-000101.jpg"
    picture.write_bytes(picture.read_bytes()[:100])
    phases = PretrainConfig(steps=4, batch_size=3, patch_steps=patch_steps, views_share=1.0)
    settings = replace(SEE.train, max_steps=1, workers=workers)
    with pytest.raises(UserError, match=r"camera01_colorimage-000101\.jpg") as error:
        train(replace(SEE, pretrain=phases, train=settings), [data / "samples.json"], Dataset(data), tmp_path / "a")
    assert "\n" not in str(error.value)
    skipping = replace(SEE, pretrain=phases, train=replace(settings, skip_bad_samples=True))
    train(skipping, [data / "samples.json"], Dataset(data), tmp_path / "b")
    said = capfd.readouterr().err
    assert said.count("skipped sample 001_PKA_MMOR_000001: ") == 1
    assert said.count("skipped timepoint 001_PKA_MMOR_000001: ") == bool(patch_steps)
    assert len((tmp_path / "b" / "seeing.jsonl").read_text().splitlines()) >= 4


LATE = """
import sys
from datetime import timedelta
from computing import meeting
from scene_graph_generation.config.settings import TrainConfig
from scene_graph_generation.training.trainer import training_arguments
meeting.PATIENCE = timedelta(seconds=2)
training_arguments(TrainConfig(), sys.argv[1], 64)
"""


def test_others_wait_for_the_first_process_as_long_as_they_are_told(tmp_path: Path) -> None:
    """Here 2 s instead of a month; without a word, transformers would wait half an hour for a longer pretraining."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    place = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1"}
    place |= {"MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", LATE, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), **place},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "timed out" in ran.stderr.lower() or "timeout" in ran.stderr.lower(), ran.stderr[-1000:]
    assert ran.returncode


def test_two_processes_learn_to_see_as_one_does(data: Path, tmp_path: Path) -> None:
    one = replace(SEE, pretrain=PretrainConfig(3, 4), train=replace(SEE.train, max_steps=2, log_steps=1, batch_size=1))
    train(
        replace(one, train=replace(one.train, accumulation=2)), [data / "samples.json"], Dataset(data), tmp_path / "a"
    )
    (tmp_path / "e.yaml").write_text(json.dumps(to_mapping(one), default=str))
    words = ("--config", "e.yaml", "--samples", data / "samples.json", "--data", data, "--out", "b", "--gpus", "2")
    command = [sys.executable, "-m", "mmor.cli", "scene-graph", "train", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=300)
    assert losses(tmp_path / "b") == pytest.approx(losses(tmp_path / "a"), rel=1e-4)
