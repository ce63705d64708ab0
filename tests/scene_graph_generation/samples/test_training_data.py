"""Samples as training shows them: mirrored rooms, text alone, and no text that the model does not read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Literal

import pytest
import torch

from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.graphs.prompts import BLOCKS
from operating_room.graphs.scene_graph import Sample, split_sample_id
from operating_room.recordings.dataset import Dataset
from scene_graph_generation.config.settings import TEXT_MODALITIES, with_vocabulary
from scene_graph_generation.inputs.evidence import Evidence, ExampleReader
from scene_graph_generation.inputs.example import IMAGE, Example
from scene_graph_generation.inputs.tokens import train_tokens
from scene_graph_generation.inputs.views import ViewReader
from scene_graph_generation.samples.records import SampleOptions, augment_record, training_records, turns
from scene_graph_generation.samples.training_data import TrainingSamples, augment_views, read_records, record_text
from tests.operating_room.counted import timepoints_looked_for
from tests.scene_graph_generation.tiny_training import GRAPHS, SHORT, TAKE, training_samples, write_samples


def test_a_mirrored_room_is_mirrored_in_all_that_shows_it() -> None:
    generator = torch.Generator().manual_seed(0)
    masks = torch.randint(0, 9, (3, 32, 32), generator=generator, dtype=torch.uint8)
    cloud = torch.rand(5, 6, generator=generator) + 0.1
    example = Example(
        torch.tensor([IMAGE]), torch.rand(2, 3, 32, 32, generator=generator), others={"cloud": cloud, "masks": masks}
    )
    seen = set()
    for seed in range(8):
        augmented = augment_views(example, Random(seed))
        assert augmented.masks is not None
        assert augmented.cloud is not None
        mirrored = not torch.equal(augmented.masks, masks)
        seen.add(mirrored)
        assert torch.equal(augmented.masks, masks.flip(-1) if mirrored else masks)
        assert torch.equal(augmented.cloud[:, 1:], cloud[:, 1:])
        assert torch.equal(augmented.cloud[:, 0], -cloud[:, 0] if mirrored else cloud[:, 0])
        assert not torch.equal(augmented.views, example.views)
    assert seen == {True, False}


def test_text_alone_has_nothing_to_augment() -> None:
    example = Example(torch.tensor([1, 2]), torch.zeros(0, 3, 32, 32))
    assert augment_views(example, Random(0)) is example


def test_training_shows_no_text_that_the_model_does_not_read(tmp_path: Path) -> None:
    """The blocks of robot, tracker and speech go with the modalities, as in evaluation."""
    data = write_samples(tmp_path)
    tokens = train_tokens(map(record_text, read_records(data / "samples.json")), SHORT.vocabulary, mmor().language)
    texts = {}
    for modalities in (("views", "robot", "tracker", "speech"), ("views", "speech"), ("views",)):
        settings = replace(with_vocabulary(SHORT.model, tokens.size), modalities=modalities)
        config = replace(SHORT.train, modality_dropout=0.0)
        records = read_records(data / "samples.json")
        samples = TrainingSamples(records, Dataset(data), config, ExampleReader(settings, tokens))
        texts[modalities] = tokens.decode([token for token in samples[0, 0].ids.tolist() if token >= 0])
    for modalities, text in texts.items():
        for name, block in zip(TEXT_MODALITIES, BLOCKS):
            assert (block in text) == (name in modalities), (modalities, block)


def seen(views: Sequence[Path | None]) -> torch.Tensor:
    """Pictures as the model takes them."""
    read = ViewReader(SHORT.model.vision.image_size)
    return read.shown(read(views))


@pytest.mark.parametrize(
    ("modalities", "left_out", "views"),
    [
        (("AZURE", "SIMSTATION", "TRACKERCAM"), (), 7),
        (("AZURE",), ("station_views", "tracker_view"), 5),
        (("SIMSTATION",), ("room_views", "tracker_view"), 4),
    ],
)
def test_fixed_slots_show_the_cameras_of_the_record(
    tmp_path: Path, modalities: tuple[str, ...], left_out: tuple[str, ...], views: int
) -> None:
    """As evaluation shows a timepoint with the same modalities, for triplets and for learning to see."""
    dataset = Dataset(write_samples(tmp_path))
    sample = Sample(TAKE, "000001", tuple(GRAPHS[1]))
    options = SampleOptions(permutations=1, modalities=modalities)
    (tmp_path / "some.json").write_text(json.dumps(list(training_records(dataset, [sample], options, Random(0)))))
    samples = training_samples(tmp_path / "some.json", replace(SHORT.train, shuffle_views=False))
    timepoint = dataset.take(dataset.domain.find_take(TAKE)).timepoint("000001")
    expected = seen(Evidence.of_timepoint(timepoint.without(left_out)).views)
    assert len(expected) == views
    assert torch.equal(samples[0, 0].views, expected)
    assert torch.equal(samples.look(0, None).views, expected)


def test_fixed_slots_ask_for_the_timepoint_of_the_record_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process that reads samples held all timepoints of all takes."""
    samples = training_samples(write_samples(tmp_path) / "samples.json", replace(SHORT.train, shuffle_views=False))
    looked_for = timepoints_looked_for(monkeypatch)
    assert len(samples[0, 0].views) > 1
    assert looked_for == [split_sample_id(str(samples.records[0]["id"]))[1]]


def test_fixed_slots_leave_out_single_pictures(tmp_path: Path) -> None:
    data = write_samples(tmp_path)
    (record, *_) = json.loads((data / "samples.json").read_text())
    kept = [name for name in record["image"] if "camera04_colorimage" not in name]
    for names in (kept, [str(data.absolute() / name) for name in kept]):
        (data / "some.json").write_text(json.dumps([{**record, "image": names}]))
        views = training_samples(data / "some.json", replace(SHORT.train, shuffle_views=False))[0, 0].views
        picture = data / kept[0]
        assert torch.equal(views, seen([picture, None, *[picture] * 5]))  # all pictures are the same here
    (data / "some.json").write_text(json.dumps([{**record, "image": ["elsewhere/a.jpg"]}]))
    with pytest.raises(
        UserError, match=r"elsewhere/a\.jpg: none of the 1 pictures named is one of .*make the samples again"
    ):
        training_samples(data / "some.json", replace(SHORT.train, shuffle_views=False))[0, 0]


@pytest.mark.parametrize("branches", ["one", "ego_exo"])
@pytest.mark.parametrize("shuffle", [True, False])
def test_pictures_as_null_and_as_one_name(tmp_path: Path, shuffle: bool, branches: Literal["one", "ego_exo"]) -> None:
    data, config = write_samples(tmp_path), replace(SHORT.train, shuffle_views=shuffle, modality_dropout=0.0)
    (record, *_) = json.loads((data / "samples.json").read_text())
    name = record["image"][0]
    for image, views in ((None, []), (name, [data / name] if shuffle else [data / name, *[None] * 4])):
        (data / "some.json").write_text(json.dumps([{**record, "image": image, "ego_image": None}]))
        samples = training_samples(data / "some.json", config, branches)
        assert torch.equal(samples[0, 0].views, seen(views))
    (data / "some.json").write_text(json.dumps([{**record, "image": 7}]))
    with pytest.raises(UserError, match="'image' must name files"):
        training_samples(data / "some.json", config, branches)[0, 0]


def test_all_views_of_glasses_stay_with_two_branches() -> None:
    """EgoExOR (egoexor.md, section 9): glasses in the order of the file, and 2 to 5 random views of the room."""
    room = [f"room{i}.jpg" for i in range(8)]
    record = {
        "image": ["b.jpg", *room, "a.jpg"],
        "ego_image": {"1": "b.jpg", "2": "a.jpg"},
        "conversations": turns("what?", "that"),
    }
    drawn = [augment_record(record, Random(seed), 0.0, two_branches=True)["image"] for seed in range(60)]
    assert all(pictures[:2] == ["b.jpg", "a.jpg"] for pictures in drawn)
    assert {len(pictures) - 2 for pictures in drawn} == {2, 3, 4, 5}
    assert {name for pictures in drawn for name in pictures[2:]} == {*room}
    without = {**record, "image": ["b.jpg", "a.jpg"]}
    assert augment_record(without, Random(0), 0.0, two_branches=True)["image"] == ["b.jpg", "a.jpg"]
    mixed = [augment_record(record, Random(seed), 0.0)["image"] for seed in range(60)]
    assert {len(pictures) for pictures in mixed} == set(range(1, 8))  # one branch: as in MM-OR


def test_an_id_that_is_a_number_names_no_take(tmp_path: Path) -> None:
    file = write_samples(tmp_path) / "samples.json"
    records = json.loads(file.read_text())
    records[0]["id"] = 3
    file.write_text(json.dumps(records))
    shutil.rmtree(file.with_suffix(".shards"), ignore_errors=True)
    with pytest.raises(UserError, match="take name ''"):
        training_samples(file, replace(SHORT.train, shuffle_views=False))[0, 0]


@pytest.mark.parametrize("places", [2, 9])
def test_training_shows_as_many_pictures_as_the_model_has_places_for(tmp_path: Path, places: int) -> None:
    """It was seven whatever the model: of more places the last were never learnt, with fewer samples were refused."""
    data = write_samples(tmp_path)
    (record, *_) = json.loads((data / "samples.json").read_text())
    record["image"] = [record["image"][0]] * 9
    tokens = train_tokens([record_text(record)], SHORT.vocabulary, mmor().language)
    settings = with_vocabulary(SHORT.model, tokens.size)
    settings = replace(settings, pooler=replace(settings.pooler, max_views=places))
    config = replace(SHORT.train, shuffle_views=True)
    samples = TrainingSamples([record], Dataset(data), config, ExampleReader(settings, tokens))
    assert {len(samples[epoch, 0].views) for epoch in range(60)} == set(range(1, places + 1))
