"""Another operating room, of five categories with colours of their own: from masks to scores, and what is refused."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from mmor.cli import app
from mmor.inspection import inspect
from operating_room.domain.collection import OwnTakes
from operating_room.domain.domain import Domain, mmor
from operating_room.domain.labels import Category, Labels
from operating_room.domain.stored import DOMAIN_FILE
from operating_room.errors import UserError
from operating_room.files.readers import read_picture
from operating_room.recordings.dataset import Dataset
from operating_room_simulator.any_room.house import write_takes
from panoptic_segmentation.config.settings import Config
from panoptic_segmentation.data.ground_truth import prepare
from panoptic_segmentation.data.videos import find_videos
from panoptic_segmentation.inference import predictions
from panoptic_segmentation.inference.predict import export_masks, load, predict
from panoptic_segmentation.scores.evaluate import evaluate
from panoptic_segmentation.training.dry_run import dry_run
from panoptic_segmentation.training.train import train
from panoptic_segmentation.weights.checkpoints import load_model, save_published
from scene_graph_generation.preprocess.masks import preprocess_masks
from tests.operating_room_simulator.any_room.tiny_rooms import TEXT, tale
from tests.panoptic_segmentation.data.test_ground_truth import TAKE, write_take
from tests.panoptic_segmentation.inference.test_predict import new_model
from tests.panoptic_segmentation.training.test_panoptic_train import TINY

NAMES = ("nothing", "robot", "chair", "dentist", "patient")
COLORS = ((0, 0, 0), (250, 10, 0), (0, 10, 250), (9, 200, 9), (77, 77, 0))
LABELS = Labels(
    tuple(Category(name, COLORS[i], 7 * i, i, name) for i, name in enumerate(NAMES)),  # 0, 7, 14, 21, 28
    count=40,
    masks=2,
)
DENTAL = replace(mmor(), name="dental", labels=LABELS)
SMALL: Config = replace(
    TINY,
    train_data=("hybridor_panoptic_train",),
    segmenter=replace(TINY.segmenter, classes=5),
    solver=replace(TINY.solver, steps=2, checkpoint_every=1),
    test=replace(TINY.test, canvas=(64, 48)),
)
RUN = CliRunner()


def write_dental(root: Path, frames: int = 5) -> Dataset:
    """A take with a robot (label 7) and something of a label that no category has."""
    write_take(root, frames)
    for path in root.rglob("segmentation_export_1/*.png"):
        mask = np.zeros((48, 64), np.uint8)
        mask[8:36, 12:36] = 7
        mask[8:36, 40:60] = 5  # MM-OR's patient
        Image.fromarray(mask).save(path)
    for path in root.rglob("*.jpg"):
        Image.new("RGB", (64, 48), (90, 60, 30)).save(path)
    return Dataset(root, DENTAL)


def write_domain(path: Path, domain: Domain) -> Path:
    path.write_text(domain.to_yaml())
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, prepared ground truth and a small model of the domain."""
    root = tmp_path_factory.mktemp("dental")
    train(SMALL, write_dental(root / "data"), root / "run", root / "prepared")
    return root


def test_ground_truth_has_the_colours_of_the_domain(trained: Path) -> None:
    dataset = Dataset(trained / "data", DENTAL)
    videos = find_videos(dataset, [TAKE])
    truth = prepare(videos, trained / "prepared", "hybridor_ground_truth_train", SMALL.test.canvas)
    assert [(c["name"], tuple(c["color"])) for c in truth["categories"]] == list(zip(NAMES, COLORS))
    (record,) = truth["annotations"][0]["annotations"][0]["segments_info"]
    assert (record["category_id"], record["id"]) == (1, 250 + 256 * 10)
    seen = read_picture(videos[0].prepared(trained / "prepared", for_validation=True)[0])
    assert {tuple(pixel) for pixel in seen.reshape(-1, 3).tolist()} == {(0, 0, 0), (250, 10, 0)}


def test_ground_truth_of_changed_categories_is_made_again(tmp_path: Path) -> None:
    write_dental(tmp_path / "data")
    domains = DENTAL, replace(DENTAL, labels=replace(LABELS, categories=LABELS.categories[:1]))
    for domain, expected in zip(domains, (1, 0)):
        videos = find_videos(Dataset(tmp_path / "data", domain), [TAKE])
        truth = prepare(videos, tmp_path / "prepared", "truth", SMALL.test.canvas)
        assert len(truth["annotations"][0]["annotations"][0]["segments_info"]) == expected


def test_more_categories_than_a_byte_of_training_ids_has(tmp_path: Path) -> None:
    """Training ids are ten times the category id: the 27th category needs a second digit of base 256."""
    many = tuple(Category(f"c{i}", (i, 0, 1), i, i, f"c{i}") for i in range(40))
    domain = replace(DENTAL, labels=Labels(many, count=40, masks=2))
    dataset = Dataset(write_dental(tmp_path / "data").root, domain)
    for path in dataset.root.rglob("segmentation_export_1/*.png"):
        Image.fromarray(np.full((48, 64), 38, np.uint8)).save(path)
    videos = find_videos(dataset, [TAKE])
    for _ in range(2):  # made, then read again
        truth = prepare(videos, tmp_path / "prepared", "truth", (64, 48))
        (tmp_path / "prepared" / "datasets" / "truth.json").unlink()
        (record,) = truth["annotations"][0]["annotations"][0]["segments_info"]
        assert (record["category_id"], record["area"]) == (38, 64 * 48)
    pixels = np.asarray(Image.open(videos[0].prepared(tmp_path / "prepared")[0]))
    assert pixels[0, 0].tolist() == [380 % 256, 380 // 256, 0]


def test_a_model_keeps_its_domain_and_predicts_its_colours(trained: Path, tmp_path: Path) -> None:
    model_file = trained / "run" / "model.safetensors"
    note = load_model(model_file)[1].domain
    assert note is not None
    assert (note.name, note.digest) == ("dental", DENTAL.digest)
    assert Domain.read(trained / "run" / DOMAIN_FILE) == DENTAL
    dataset = Dataset(trained / "data", DENTAL)
    videos = find_videos(dataset, [TAKE])
    predict(*load(trained / "run", dataset.domain), videos, tmp_path, "train", model_file)
    colors = {
        tuple(pixel)
        for picture in videos[0].pictures()
        for pixel in read_picture(predictions.picture_path(tmp_path, videos[0].video_id, picture.name))
        .reshape(-1, 3)
        .tolist()
    }
    assert colors <= set(COLORS)
    assert len(colors) > 1
    result = evaluate(videos, tmp_path, "train", trained / "prepared", "truth", SMALL.test.canvas)
    assert set(result.classes.names.values()) == set(NAMES)
    # Masks for stage 2 have the domain's labels.
    outcome = preprocess_masks(dataset, [TAKE], tmp_path / "inference" / "pan_pred")
    assert (outcome.written, outcome.problems) == (4, ())  # the third of five frames has no mask
    small = sorted(trained.rglob("take_segmasks_per_timepoint/*/*.png"))
    labels = {int(label) for path in small for label in np.unique(np.asarray(Image.open(path)))}
    assert len(small) == 4
    assert labels <= {7 * i for i in range(5)}
    # What was made for this domain is refused with MM-OR's.
    plain = find_videos(Dataset(trained / "data"), [TAKE])
    for refused in (
        lambda: evaluate(plain, tmp_path, "train", tmp_path / "prepared", "truth", SMALL.test.canvas),
        lambda: preprocess_masks(Dataset(trained / "data"), [TAKE], tmp_path / "inference" / "pan_pred"),
        lambda: load(trained / "run", mmor()),
    ):
        with pytest.raises(
            UserError, match=r"dental \(there\) instead of mmor \(here\): categories: only here: __backgr"
        ):
            refused()


def test_models_of_another_domain_are_refused(trained: Path, tmp_path: Path) -> None:
    other = r"was made for another domain .* mmor \(there\) instead of dental \(here\): categories: only here: nothing"
    dataset = Dataset(trained / "data", DENTAL)
    ours = new_model(tmp_path / "ours" / "model.safetensors")
    published = tmp_path / "published" / "model_final.pth"
    save_published(published, load_model(ours)[0])
    (published.with_name("config.yaml")).write_text((trained / "run" / "config.yaml").read_text())
    for model in (ours, published):
        with pytest.raises(UserError, match=other):
            load(model, DENTAL)
        with pytest.raises(UserError, match=other):
            list(export_masks(model, None, dataset, tmp_path / "out"))
        start = replace(SMALL, weights=str(model))
        with pytest.raises(UserError, match=other):
            train(start, dataset, tmp_path / "new", tmp_path / "prepared")
        assert any(
            re.search(other, line)
            for line in dry_run(start, trained / "data", tmp_path / "new", domain=DENTAL).problems
        )
    with pytest.raises(UserError, match=r"dental \(there\) instead of mmor \(here\)"):
        train(
            replace(SMALL, segmenter=TINY.segmenter), Dataset(trained / "data"), trained / "run", tmp_path, resume=True
        )


def write_eye_clinic(root: Path) -> Dataset:
    """A take of a made-up room in the house layout, whose pictures are PNG, with masks for stage 2."""
    text = TEXT.replace("  count: 8\n", "  count: 8\n  masks: 2\n").replace("label_masks]", "label_masks, masks]")
    (root / "eye.yaml").write_text(text)
    domain = Domain.read(root / "eye.yaml")
    write_takes(root / "eye_clinic", [tale(domain, "eye_1", seconds=3)], (64, 48))
    for path in (root / "eye_clinic").rglob("*.jpg"):
        Image.open(path).save(path.with_suffix(".png"))
        path.unlink()
    take_file = root / "eye_clinic" / "takes" / "eye_1" / "take.yaml"
    take_file.write_text(take_file.read_text().replace("pictures: jpg", "pictures: png"))
    return Dataset(root / "eye_clinic")


def test_a_room_of_the_house_layout_from_masks_to_scores(tmp_path: Path) -> None:
    dataset = write_eye_clinic(tmp_path)
    assert dataset.domain.name == "eye_clinic"
    (take,) = dataset.takes()
    videos = find_videos(dataset, [take])
    assert [video.video_id for video in videos] == [f"eye_1_{c}" for c in ("door", "window", "shelf", "surgeon")]
    assert {path.suffix for video in videos for path in video.pictures()} == {".png"}
    config = replace(SMALL, segmenter=TINY.segmenter, train_data=("eyeclinic_panoptic_own",))
    if dataset.domain.splits:
        config = replace(config, train_data=(f"eyeclinic_panoptic_{dataset.domain.splits_of(take)[0]}",))
    train(config, dataset, tmp_path / "run", tmp_path / "prepared")
    path = predict(*load(tmp_path / "run", dataset.domain), videos, tmp_path / "out", "own", tmp_path / "run")
    assert path.name == "pred_own.json"
    result = evaluate(videos, tmp_path / "out", "own", tmp_path / "prepared", "truth", (64, 48))
    assert set(result.classes.names.values()) == {c.name for c in dataset.domain.labels.categories}
    outcome = preprocess_masks(Dataset(tmp_path / "eye_clinic"), [take], tmp_path / "out" / "inference" / "pan_pred")
    assert outcome.problems == ()
    there = Dataset(tmp_path / "eye_clinic").take(take).timepoints[0].several("masks")  # of the first two room cameras
    assert sorted(there) == ["0", "1"]
    labels = {int(label) for small in there.values() for label in np.unique(np.asarray(Image.open(small)))}
    assert labels <= set(dataset.domain.labels.labels.tolist())


def test_names_that_make_one_video_of_two_cameras_are_refused(tmp_path: Path) -> None:
    dataset = write_dental(tmp_path / "data")
    collection = dataset.domain.collection("MMOR")
    twin = replace(collection.camera["1"], name="PKA_1")
    cameras = replace(collection, cameras=(*collection.cameras, twin), own=OwnTakes())
    domain = replace(dataset.domain, collections=(cameras,))
    takes = [domain.find_take("001_PKA"), domain.find_take("001")]
    copy = tmp_path / "data" / "MM-OR_data" / "001"
    shutil.copytree(copy.with_name("001_PKA"), copy)
    (index,) = copy.glob("*.json")
    index.rename(index.with_name(index.name.replace("001_PKA", "001")))
    with pytest.raises(UserError, match=r"001_PKA and 001 .* 001_PKA_1"):
        find_videos(Dataset(tmp_path / "data", domain), takes, annotated=False, with_pictures=False)


def test_the_command_refuses_in_one_line(trained: Path, tmp_path: Path) -> None:
    ours, file = new_model(tmp_path / "model.safetensors"), write_domain(tmp_path / "dental.yaml", DENTAL)
    options = ["--data", str(trained / "data"), "--domain", str(file), "--out", str(tmp_path / "out"), "--model"]
    refused = RUN.invoke(app, ["panoptic", "predict", *options, str(ours)])
    assert isinstance(refused.exception, UserError)
    assert "instead of dental" in str(refused.exception)
    assert "\n" not in str(refused.exception)
    done = RUN.invoke(app, ["panoptic", "predict", *options, str(trained / "run")])
    assert done.exit_code == 0, done.exception
    for model in ("model.safetensors", "model_final.pth"):
        assert "domain: dental" in inspect(trained / "run" / model)
    assert "domain:" not in inspect(ours)


def test_a_copy_that_is_lost_or_of_something_else_is_told(trained: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes((trained / "run" / "model.safetensors").read_bytes())
    load(moved, DENTAL)  # its card tells
    with pytest.raises(UserError, match=r"dental \(there\) .* its domain\.yaml is not beside it, so what differs"):
        load(moved, mmor())


def test_a_segmenter_has_a_class_for_every_category(trained: Path, tmp_path: Path) -> None:
    few = replace(SMALL, segmenter=replace(SMALL.segmenter, classes=4))
    with pytest.raises(UserError, match=r"NUM_CLASSES is 4, domain dental has 5 categories; .* 5 classes or more"):
        train(few, Dataset(trained / "data", DENTAL), tmp_path / "run", tmp_path / "prepared")
    assert any("NUM_CLASSES is 4" in line for line in dry_run(few, trained / "data", tmp_path, domain=DENTAL).problems)
    assert not (tmp_path / "run").exists()


def test_a_domain_without_categories_has_nothing_to_segment(trained: Path, tmp_path: Path) -> None:
    none = replace(DENTAL, name="voices", labels=Labels())
    dataset, told = Dataset(trained / "data", none), "domain voices has no categories"
    for refused in (
        lambda: find_videos(dataset, [TAKE]),
        lambda: train(SMALL, dataset, tmp_path / "run", tmp_path / "prepared"),
        lambda: list(export_masks(new_model(tmp_path / "model.safetensors"), None, dataset, tmp_path / "out")),
        lambda: preprocess_masks(dataset, [TAKE], None),
    ):
        with pytest.raises(UserError, match=told):
            refused()
    assert any(told in line for line in dry_run(SMALL, trained / "data", tmp_path / "run", domain=none).problems)


def test_data_set_names_are_those_of_the_domain(trained: Path) -> None:
    with pytest.raises(UserError, match=r"'clinic_panoptic_train' does not exist .* \{4dor,mmor,hybridor\}_panoptic_"):
        train(
            replace(SMALL, train_data=("clinic_panoptic_train",)), Dataset(trained / "data", DENTAL), trained, trained
        )
