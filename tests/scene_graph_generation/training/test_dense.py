"""Dense teaching: patches of views tell categories and depth, views together tell who holds what."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.files.atomic import write_json
from operating_room.graphs.graph_files import load_samples
from operating_room.recordings.conversion import convert
from operating_room.recordings.dataset import Dataset
from operating_room_simulator import writer
from scene_graph_generation.config.settings import PretrainConfig, StartConfig, VisionConfig
from scene_graph_generation.inputs.evidence import Evidence
from scene_graph_generation.samples.patches import Grid, patch_shares, read_patched
from scene_graph_generation.samples.records import SampleOptions, training_records
from scene_graph_generation.samples.training_data import record_text
from scene_graph_generation.training.dense import mirrored, overlap
from scene_graph_generation.training.pretrain import takes_apart, with_masks_of
from scene_graph_generation.training.starting_point import begin, new_tokens
from scene_graph_generation.training.train import SEEN, train
from tests.scene_graph_generation.tiny_training import EXPERIMENT

TAKES = ("301_SIM", "302_SIM", "301_4DOR")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rooms")
    writer.synthesize(root, [mmor().find_take(name) for name in TAKES], 40, size=(64, 48), calibration=True)
    convert(Dataset(root), root)
    return root


def test_shares_of_a_patch_are_those_of_its_pixels() -> None:
    picture = np.zeros((2, 4), np.uint8)
    picture[:, 3] = 2
    shares = patch_shares(picture, 3, Grid(4, 2)).reshape(2, 2, 3)
    # Padded to 4x4: the picture is in rows 1 and 2, so that each patch has one row of it.
    np.testing.assert_allclose(shares[:, 0], [[1, 0, 0]] * 2)
    np.testing.assert_allclose(shares[:, 1], [[0.5, 0, 0.5]] * 2)


def test_what_only_padding_covers_is_unknown() -> None:
    shares = patch_shares(np.ones((2, 8), np.uint8), 2, Grid(8, 2)).reshape(4, 4, 2)
    assert shares[0].sum() == shares[3].sum() == 0
    assert shares[1:3, :, 1].sum() == 8


def test_masks_and_depth_of_simulated_views_are_found(data: Path) -> None:
    dataset, grid = Dataset(data), Grid(32, 8)
    places = [(take.sample_name, "000003") for take in dataset.takes()]
    groups = read_patched(dataset, places, grid, 1 << 30)
    assert sum(len(group.places) for group in groups) == len(TAKES)
    for group in groups:
        known = group.shares.float().sum(-1) > 0
        assert known.any(dim=(1, 2)).all()
        assert not known[:, :, 0].all()  # the upper left patch of a landscape picture is padding
        measured = group.depth[~group.depth.isnan()]
        assert len(measured)
        assert 0.3 < measured.min() < measured.max() < 15


def test_pictures_that_no_sample_names_are_not_shown(data: Path) -> None:
    dataset, grid = Dataset(data), Grid(32, 8)
    take = dataset.takes()[0]
    place, timepoint = (take.sample_name, "000003"), dataset.take(take).timepoint("000003")
    (every,) = read_patched(dataset, [place], grid, 1 << 30)
    (named,) = read_patched(dataset, [place], grid, 1 << 30, pictures={place: {*timepoint.views.values()}})
    assert torch.equal(every.views, named.views)
    first = Evidence.of_timepoint(timepoint).views[0]
    assert first is not None
    (few,) = read_patched(dataset, [place], grid, 1 << 30, pictures={place: {first}})
    assert torch.equal(few.views[:, 0], every.views[:, 0])
    assert (few.views[0, 1:] == few.views[0, 1]).all()  # black
    assert (every.views[0, 2] != every.views[0, 1]).any()
    assert every.shares[:, 1:].any()
    assert not few.shares[:, 1:].any()


def test_several_processes_read_the_same(data: Path) -> None:
    dataset = Dataset(data)
    places = [(take.sample_name, frame) for take in dataset.takes() for frame in ("000001", "000002")]
    one, two = (read_patched(dataset, places, Grid(32, 8), 1 << 30, workers) for workers in (1, 2))
    for a, b in zip(one, two, strict=True):
        assert a.places == b.places
        assert torch.equal(a.views, b.views)
        assert torch.equal(a.shares, b.shares)


def test_what_does_not_fit_into_memory_is_left_out(data: Path) -> None:
    dataset = Dataset(data)
    places = [(take.sample_name, f"{second:06d}") for take in dataset.takes() for second in range(10)]
    groups = read_patched(dataset, places, Grid(32, 8), 100_000)
    assert 0 < sum(len(group.places) for group in groups) < len(places)


def test_mirrored_patches_are_those_of_mirrored_views() -> None:
    torch.manual_seed(0)
    views = torch.randint(0, 255, (40, 1, 3, 8, 8), dtype=torch.uint8)
    patches = views[:, :, 0, ::4, ::4].flatten(2)  # the upper left pixel of each patch
    turned, known = mirrored(views, patches)
    flipped = ~(turned == views).flatten(1).all(1)
    assert 5 < flipped.sum() < 35
    expected = torch.where(flipped[:, None, None, None], patches.view(40, 1, 2, 2).flip(-1), patches.view(40, 1, 2, 2))
    assert torch.equal(known, expected.flatten(2))


def test_accuracy_and_overlap() -> None:
    scores = overlap(torch.tensor([[3, 1, 0], [0, 2, 0], [0, 0, 0]]))
    assert scores == {"patch_accuracy": 5 / 6, "mean_iou": (3 / 4 + 2 / 3) / 2, "categories": 2}


def test_some_takes_are_kept_apart() -> None:
    assert takes_apart(["a", "b", "c"], 0.0) == frozenset()
    assert takes_apart(["a"], 0.5) == frozenset()
    assert len(takes_apart([str(n) for n in range(20)], 0.1)) == 2


def test_who_holds_what_is_learnt_at_a_rate_of_its_own(data: Path, tmp_path: Path) -> None:
    """At a rate of next to nothing the pooler, which only that phase trains here, stays as it was."""
    samples = load_samples(data / "relationships_own.json")
    records = list(training_records(Dataset(data), samples, SampleOptions(permutations=1), Random(0)))
    write_json(tmp_path / "samples.json", records)
    vision = VisionConfig(image_size=32, patch_size=8, width=16, layers=1, heads=2, mlp=32, feature_layer=-1)
    pooled = {}
    for name, hands, rate in (("none", 0, None), ("slow", 4, 1e-12), ("as all", 4, None)):
        phases = PretrainConfig(steps=0, batch_size=8, hand_steps=hands, learning_rate=1e-2, hand_learning_rate=rate)
        eyes = replace(
            EXPERIMENT,
            model=replace(EXPERIMENT.model, vision=vision),
            train=replace(EXPERIMENT.train, max_steps=1, learning_rate=1e-12, visual_learning_rate=None),
            pretrain=replace(phases, weight_decay=0.0),
        )
        model = train(eyes, [tmp_path / "samples.json"], Dataset(data), tmp_path / name)
        pooled[name] = torch.cat([weight.detach().flatten() for weight in model.pooler.views.parameters()])
    torch.testing.assert_close(pooled["slow"], pooled["none"])
    assert (pooled["as all"] - pooled["none"]).abs().max() > 1e-3


def test_each_phase_logs_what_held_out_takes_say_and_patches_are_learnt(data: Path, tmp_path: Path) -> None:
    samples = load_samples(data / "relationships_own.json")
    records = list(training_records(Dataset(data), samples, SampleOptions(permutations=1), Random(0)))
    write_json(tmp_path / "samples.json", records)
    vision = VisionConfig(image_size=32, patch_size=8, width=16, layers=1, heads=2, mlp=32, feature_layer=-1)
    eyes = replace(
        EXPERIMENT,
        model=replace(EXPERIMENT.model, vision=vision),
        train=replace(EXPERIMENT.train, max_steps=1),
        pretrain=PretrainConfig(steps=4, batch_size=8, patch_steps=80, hand_steps=4, held_out=0.3, learning_rate=1e-2),
    )
    train(eyes, [tmp_path / "samples.json"], Dataset(data), tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out" / SEEN).read_text().splitlines()]
    assert list(dict.fromkeys(line["phase"] for line in lines)) == ["patches", "hands", "triplets"]
    patches = [line for line in lines if line["phase"] == "patches"]
    assert len(patches) == 10
    assert patches[-1]["held_out"]["mean_iou"] > patches[0]["held_out"]["mean_iou"]
    assert patches[-1]["held_out"]["depth_error_m"] < patches[0]["held_out"]["depth_error_m"]
    assert {"f1", "mean_f1"} <= lines[-1]["held_out"].keys()
    assert all(math.isfinite(line["loss"]) for line in lines)


def test_a_tower_that_was_taught_its_patches_stays_while_triplets_are_learnt(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that could not be taught them, for want of masks and depth, learns triplets itself."""
    samples = load_samples(data / "relationships_own.json")
    records = list(training_records(Dataset(data), samples, SampleOptions(permutations=1), Random(0)))
    write_json(tmp_path / "samples.json", records)
    pooler = replace(EXPERIMENT.model.pooler, layers=2)
    towers = {}
    for name, steps in (("taught", 0), ("triplets", 4), ("no masks", 4)):
        if name == "no masks":
            monkeypatch.setattr("scene_graph_generation.training.pretrain.patch_phase", lambda *_: None)
        eyes = replace(
            EXPERIMENT,
            model=replace(EXPERIMENT.model, pooler=pooler),
            train=replace(EXPERIMENT.train, max_steps=1, learning_rate=1e-12, visual_learning_rate=1e-12),
            pretrain=PretrainConfig(steps=steps, batch_size=8, patch_steps=2, learning_rate=1e-2),
        )
        model = train(eyes, [tmp_path / "samples.json"], Dataset(data), tmp_path / name)
        assert model.vision is not None
        assert all(weight.requires_grad for weight in model.vision.parameters())
        parts = {"tower": model.vision, "pooler": model.pooler.views}
        towers[name] = {
            part: torch.cat([weight.detach().flatten() for weight in module.parameters()])
            for part, module in parts.items()
        }
    torch.testing.assert_close(towers["triplets"]["tower"], towers["taught"]["tower"])
    assert (towers["triplets"]["pooler"] - towers["taught"]["pooler"]).abs().max() > 1e-3
    assert (towers["no masks"]["tower"] - towers["taught"]["tower"]).abs().max() > 1e-3


def test_a_tower_that_was_taught_may_rest_while_language_is_learnt(data: Path, tmp_path: Path) -> None:
    """What goes on from such a model may let its tower rest, too."""
    samples = load_samples(data / "relationships_own.json")
    records = list(training_records(Dataset(data), samples, SampleOptions(permutations=1), Random(0)))
    write_json(tmp_path / "samples.json", records)
    phases = PretrainConfig(steps=0, patch_steps=1, batch_size=8, learning_rate=1e-12, weight_decay=0.0)
    for name, rests in (("moves", False), ("rests", True)):
        settings = replace(EXPERIMENT.train, max_steps=3, vision_rests=rests, seed=3)
        eyes = replace(EXPERIMENT, train=settings, pretrain=phases)
        first, _ = begin(eyes, new_tokens(eyes, (record_text(record) for record in records), mmor().language))
        again = replace(eyes, pretrain=None, start=StartConfig(curriculum=tmp_path / name))
        before = first.state_dict()
        for stage, out in ((eyes, name), (again, f"{name} again")):
            model = train(stage, [tmp_path / "samples.json"], Dataset(data), tmp_path / out)
            after = model.state_dict()
            moved = {part.split(".")[0] for part, old in before.items() if not torch.allclose(old, after[part])}
            assert moved == {"language", "pooler", "projector", *(() if rests else ("vision",))}
            before = {part: value.clone() for part, value in after.items()}


def test_a_tower_that_could_not_be_taught_does_not_rest(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = load_samples(data / "relationships_own.json")
    write_json(
        tmp_path / "samples.json",
        list(training_records(Dataset(data), samples, SampleOptions(permutations=1), Random(0))),
    )
    monkeypatch.setattr("scene_graph_generation.training.pretrain.patch_phase", lambda *_: None)
    settings = replace(EXPERIMENT.train, max_steps=1, vision_rests=True)
    eyes = replace(EXPERIMENT, train=settings, pretrain=PretrainConfig(steps=1, patch_steps=1, batch_size=8))
    with pytest.raises(UserError, match="no sample has label masks or depth"):
        train(eyes, [tmp_path / "samples.json"], Dataset(data), tmp_path / "out")


def test_all_phases_may_learn_by_muon(data: Path, tmp_path: Path) -> None:
    samples = load_samples(data / "relationships_own.json")
    records = list(training_records(Dataset(data), samples, SampleOptions(permutations=1), Random(0)))
    write_json(tmp_path / "samples.json", records)
    phases = PretrainConfig(steps=2, hand_steps=2, patch_steps=2, batch_size=8, learning_rate=1e-12, weight_decay=0.0)
    found = {}
    for name, rate in (("adamw", None), ("muon", 0.01)):
        eyes = replace(
            EXPERIMENT,
            train=replace(EXPERIMENT.train, max_steps=1, learning_rate=1e-12, weight_decay=0.0),
            pretrain=replace(phases, matrix_learning_rate=rate),
        )
        found[name] = train(eyes, [tmp_path / "samples.json"], Dataset(data), tmp_path / name)
    pairs = zip(found["adamw"].named_parameters(), found["muon"].parameters())
    moved = {name for (name, one), other in pairs if not torch.allclose(one, other, atol=1e-6)}
    linear = {f"{name}.weight" for name, part in found["muon"].named_modules() if isinstance(part, torch.nn.Linear)}
    assert moved
    assert moved <= {name for name in linear if name.startswith(("vision.", "pooler.", "projector."))}
    assert {"projector.0.weight", "vision.clip.encoder.layers.0.mlp.fc1.weight"} <= moved


def test_patches_may_tell_small_things_that_the_masks_of_a_model_do_not_have(tmp_path: Path) -> None:
    """The domain file that lies beside takes with news; what the model reads stays the published masks."""
    take = mmor().find_take("401_SIM")
    writer.synthesize(tmp_path, [take], 40, size=(160, 120), news=True)
    masked = with_masks_of(Dataset(tmp_path), Path("small_things.yaml"))
    domain = masked.domain
    frames = [sample.frame_id for sample in masked.take(take).timepoints]
    (group,) = read_patched(masked, [(take.sample_name, frame) for frame in frames], Grid(160, 10), 1 << 30)
    small = [number for number, category in enumerate(domain.labels.categories) if category.label >= 30]
    assert len(small) == 5
    assert group.shares[..., small].any()
    assert group.shares.shape[-1] == len(mmor().labels.categories) + 5


def test_a_domain_of_patches_that_is_not_there_is_named(data: Path, tmp_path: Path) -> None:
    samples = load_samples(data / "relationships_own.json")
    records = list(training_records(Dataset(data), samples, SampleOptions(permutations=1), Random(0)))
    write_json(tmp_path / "samples.json", records)
    eyes = replace(EXPERIMENT, pretrain=PretrainConfig(steps=1, patch_steps=1, patch_domain=Path("fine.yaml")))
    with pytest.raises(UserError, match=r"fine\.yaml: no such file, but `patch_domain`"):
        train(eyes, [tmp_path / "samples.json"], Dataset(data), tmp_path / "out")
