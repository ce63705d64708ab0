"""Learning to see goes on where a killed training stood in the middle of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.files.atomic import write_json
from operating_room.files.tensors import write_pickle
from operating_room.graphs.graph_files import load_samples
from operating_room.recordings.conversion import convert
from operating_room.recordings.dataset import Dataset
from operating_room_simulator import writer
from scene_graph_generation.config.settings import PretrainConfig
from scene_graph_generation.samples.records import SampleOptions, training_records
from scene_graph_generation.training import pretrain
from scene_graph_generation.training.resuming import Halfway
from scene_graph_generation.training.train import train
from tests.scene_graph_generation.tiny_training import EXPERIMENT

PHASES = PretrainConfig(
    steps=4, patch_steps=4, hand_steps=4, batch_size=4, held_out=0.3, learning_rate=1e-2, matrix_learning_rate=0.01
)
EYES = replace(
    EXPERIMENT,
    model=replace(EXPERIMENT.model, pooler=replace(EXPERIMENT.model.pooler, dropout=0.1)),
    train=replace(EXPERIMENT.train, max_steps=1),
    pretrain=PHASES,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rooms")
    writer.synthesize(root, [mmor().find_take(name) for name in ("301_SIM", "302_SIM")], 40, size=(64, 48))
    convert(Dataset(root), root)
    samples = load_samples(root / "relationships_own.json")
    records = list(training_records(Dataset(root), samples, SampleOptions(permutations=1), Random(0)))
    write_json(root / "samples.json", records)
    return root


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    train(EYES, [data / "samples.json"], Dataset(data), out)
    return out


@pytest.mark.parametrize("killed_after", [2, 4, 6, 10])
def test_it_goes_on_where_it_was_killed_and_gives_the_same_model(
    data: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    killed_after: int,
) -> None:
    """Hours of a phase were lost: all of them began anew."""
    step, steps, out = pretrain._step, list[int](), tmp_path / "out"

    def until_killed(*given: Any) -> None:
        if len(steps) == killed_after:
            raise KeyboardInterrupt
        steps.append(1)
        step(*given)

    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "_step", until_killed)
        with pytest.raises(KeyboardInterrupt):
            train(EYES, [data / "samples.json"], Dataset(data), out)
    monkeypatch.setattr(pretrain, "_step", lambda *given: (steps.append(1), step(*given))[1])
    with pytest.raises(UserError, match=r"half_seen\.pt: pretrain\.steps was 4 and is now 5; give what it began with"):
        train(replace(EYES, pretrain=replace(PHASES, steps=5)), [data / "samples.json"], Dataset(data), out)
    train(EYES, [data / "samples.json"], Dataset(data), out)
    assert len(steps) == 12
    phase = ("patches", "hands", "triplets")[(killed_after - 1) // 4]
    assert f"goes on learning to see after step {(killed_after - 1) % 4 + 1} of {phase}\n" in capsys.readouterr().err
    for name in ("model.safetensors", "seeing.jsonl"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    assert not (out / "half_seen.pt").exists()


def test_it_is_kept_now_and_then_between_scores(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of a phase, after which it is scored, may take an hour."""
    kept = list[int]()
    monkeypatch.setattr(pretrain, "_is_told", lambda step, steps: step == steps)
    monkeypatch.setattr(
        "scene_graph_generation.training.resuming.write_pickle", lambda _, state: kept.append(state["step"])
    )
    for every, steps in ((300.0, [4, 4, 4]), (0.0, [1, 2, 3, 4] * 3)):
        monkeypatch.setattr("scene_graph_generation.training.resuming._EVERY", every)
        kept.clear()
        train(EYES, [data / "samples.json"], Dataset(data), tmp_path / str(every))
        assert kept == steps


def test_a_damaged_state_is_told_and_it_begins_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "half_seen.pt").write_bytes(b"half")
    assert Halfway(tmp_path, {}).phase is None
    assert "half_seen.pt: damaged" in capsys.readouterr().err
    write_pickle(tmp_path / "half_seen.pt", {"of": "another", "phase": "hands"})
    assert Halfway(tmp_path, {}).phase is None
    assert "half_seen.pt: is of another training" in capsys.readouterr().err
