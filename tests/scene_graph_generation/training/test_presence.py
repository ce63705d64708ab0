"""A language model that is asked which triplets hold while it learns to say them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from operating_room.errors import UserError
from operating_room.graphs.scene_graph import Triplet
from operating_room.recordings.dataset import Dataset
from scene_graph_generation.config.language import OtherLanguage
from scene_graph_generation.config.published_options import ZERO2
from scene_graph_generation.config.settings import StartConfig
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.samples.survey import survey
from scene_graph_generation.training.presence import TEACHER, new_teacher
from scene_graph_generation.training.starting_point import check_start
from scene_graph_generation.training.train import train
from scene_graph_generation.weights.checkpoints import load_model
from tests.dying import dies_in, require_killed
from tests.scene_graph_generation.tiny_training import (
    EXPERIMENT,
    GRAPHS,
    SHORT,
    losses,
    training_samples,
)
from tests.scene_graph_generation.training.test_trainer import COMMON, PROGRAM, TORCHRUN, finish, run, start

ASKED = replace(SHORT, train=replace(SHORT.train, presence=0.05))


def test_seldom_triplets_count_more_and_truth_is_that_of_the_answers(data: Path) -> None:
    records, known, _ = survey([data / "samples.json"], True, answers=True, read=list)
    teacher = new_teacher(known, 64)
    spoken = {Triplet(*(name.replace("_", " ") for name in triplet)) for graph in GRAPHS for triplet in graph}
    assert set(teacher.triplets) == spoken
    assert teacher.rarity.tolist() == pytest.approx([2**0.5] * 3)  # each in a third of the samples
    samples = training_samples(data / "samples.json")
    asked = type(samples)(records, samples.dataset, SHORT.train, samples._read, teacher.triplets)
    for place in range(len(records)):
        holds, (_, answer) = asked[0, place].holds, (turn["value"] for turn in records[place]["conversations"])
        assert holds is not None
        assert holds.tolist() == [",".join(triplet) in answer for triplet in teacher.triplets]
        assert samples[0, place].holds is None


@pytest.mark.parametrize("bf16", [False, True])
def test_the_state_before_the_answer_learns_what_holds(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bf16: bool
) -> None:
    told: list[tuple[torch.Tensor, torch.Tensor]] = []
    forward = MM2SG.forward

    def looked_at(self: MM2SG, examples: list) -> object:
        scores = forward(self, examples)
        assert scores.presence is not None
        told.append((scores.presence.detach() > 0, torch.stack([examples[i].holds for i in scores.answered])))
        return scores

    monkeypatch.setattr(MM2SG, "forward", looked_at)
    experiment = replace(EXPERIMENT, train=replace(EXPERIMENT.train, presence=0.1, bf16=bf16))
    train(experiment, [data / "samples.json"], Dataset(data), tmp_path)
    said, true = (torch.cat([one[part] for one in told[-5:]]) for part in (0, 1))
    assert (said == true).float().mean() > 0.95
    model, _ = load_model(tmp_path)  # knows nothing of a teacher
    assert model.teacher is None
    assert not (tmp_path / TEACHER).exists()


def test_a_killed_training_goes_on_as_if_nothing_had_happened(data: Path, tmp_path: Path) -> None:
    code = dies_in("scene_graph_generation.training.trainer", "SceneGraphTrainer.compute_loss", 8)
    run_it = "import sys; from tests.scene_graph_generation.tiny_training import main; main(*sys.argv[1:])"
    require_killed(start("-c", code + run_it, data, tmp_path / "killed", "train.presence=0.05"))
    assert (tmp_path / "killed" / "checkpoint-6" / TEACHER).is_file()
    for out in ("killed", "whole"):
        run(ASKED, data, tmp_path / out)
    weights = [(tmp_path / out / "model.safetensors").read_bytes() for out in ("killed", "whole")]
    assert weights[0] == weights[1]
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


def test_a_checkpoint_without_its_teacher_is_named(data: Path, tmp_path: Path) -> None:
    run(replace(ASKED, train=replace(ASKED.train, max_steps=3)), data, tmp_path)
    (tmp_path / "checkpoint-3" / TEACHER).unlink()
    with pytest.raises(UserError, match=rf"checkpoint-3/{TEACHER}: is missing"):
        run(ASKED, data, tmp_path)


def test_two_processes_lose_as_much_as_one(data: Path, tmp_path: Path) -> None:
    asked = (*COMMON, "train.presence=0.05")
    finish(start(*PROGRAM, data, tmp_path / "alone", *asked, "train.accumulation=2"))
    finish(start(*TORCHRUN, *PROGRAM, data, tmp_path / "two", *asked))
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "alone"), rel=1e-4)


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
def test_deepspeed_goes_on_with_the_teacher_that_it_had(data: Path, tmp_path: Path) -> None:
    asked = (*COMMON, "train.presence=0.05", "train.save_steps=4")
    finish(start(*PROGRAM, data, tmp_path / "alone", *asked, "train.accumulation=2"))
    out = tmp_path / "two"
    finish(start(*TORCHRUN, *PROGRAM, data, out, *asked, f"train.deepspeed={ZERO2}"))
    whole, before = losses(out), (out / "model.safetensors").read_bytes()
    assert whole == pytest.approx(losses(tmp_path / "alone"), rel=1e-3)
    (out / "model.safetensors").unlink()
    shutil.rmtree(out / "checkpoint-6")
    finish(start(*TORCHRUN, *PROGRAM, data, out, *asked, f"train.deepspeed={ZERO2}"))
    assert losses(out) == whole
    assert (out / "model.safetensors").read_bytes() == before


def test_what_cannot_be_asked_is_told(data: Path, tmp_path: Path) -> None:
    other = OtherLanguage({"model_type": "qwen2", "hidden_size": 64, "vocab_size": 100})
    for changed in ({"start": StartConfig(base="somewhere")}, {"model": replace(ASKED.model, language=other)}):
        with pytest.raises(UserError, match=r"train\.presence is for a model from scratch"):
            check_start(replace(ASKED, **changed))
    records = json.loads((data / "samples.json").read_text())
    for record in records:
        record["conversations"][1]["value"] = "cut: 3"
    answers = tmp_path / "answers.json"
    answers.write_text(json.dumps(records))
    with pytest.raises(UserError, match=r"no answer of the samples is a scene graph, which train\.presence asks for"):
        train(ASKED, [answers], Dataset(data), tmp_path / "out")


def test_a_first_stage_of_another_family_cannot_be_asked(data: Path, tmp_path: Path) -> None:
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    text = {"vocab_size": 1024, "head_dim": 16, "intermediate_size": 128, "max_position_embeddings": 512}
    language = OtherLanguage({"model_type": "qwen3", **sizes, **text})
    once = replace(SHORT, train=replace(SHORT.train, max_steps=1))
    train(
        replace(once, model=replace(SHORT.model, language=language)), [data / "samples.json"], Dataset(data), tmp_path
    )
    asked = replace(ASKED, start=StartConfig(curriculum=tmp_path))
    with pytest.raises(UserError, match=r"train\.presence is for a model from scratch"):
        train(asked, [data / "samples.json"], Dataset(data), tmp_path / "second")
