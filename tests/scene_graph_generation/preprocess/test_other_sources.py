"""What was made of one source or with one setting, and then is to be made of another."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.files.readers import read_label_mask
from operating_room.recordings.dataset import Dataset
from scene_graph_generation.config.settings import MM2SGConfig, with_labels
from scene_graph_generation.inputs.modalities import read_masks
from scene_graph_generation.preprocess import embeddings
from scene_graph_generation.preprocess.audio import preprocess_audio
from scene_graph_generation.preprocess.embeddings import ClapEncoder, preprocess_audio_embeddings
from scene_graph_generation.preprocess.masks import preprocess_masks
from scene_graph_generation.preprocess.overlay import overlay
from scene_graph_generation.preprocess.run import Outcome
from tests.operating_room.tiny_dataset import MMOR_NAME, write_dataset, write_mmor
from tests.operating_room.tiny_house import FRAMES, write_house

SMALL = Path("takes/soup/masks/000000_0.png")


def predicted(folder: Path, color: tuple[int, int, int], camera: str = "ceiling") -> Path:
    """Class-colour pictures of a segmenter, each of one colour."""
    for frame in range(FRAMES):
        path = folder / f"soup_{camera}" / f"{frame:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), color).save(path)
    return folder


def made(root: Path, source: Path | None) -> Outcome:
    dataset = Dataset(root)
    return preprocess_masks(dataset, dataset.choose(["soup"]), source, as_predictions=source is None)


def test_masks_of_two_sources_are_not_mixed_in_the_house_layout(tmp_path: Path) -> None:
    """Those of annotations stayed and were called predicted ones."""
    root = write_house(tmp_path / "Kitchen_data")
    made(root, None).require()
    (problem,) = made(root, predicted(tmp_path / "pan_pred", (255, 0, 0), "door")).problems
    assert "holds files made with annotations, not predictions" in problem


def test_masks_follow_other_predictions_in_the_house_layout(tmp_path: Path) -> None:
    root = write_house(tmp_path / "Kitchen_data")
    assert made(root, predicted(tmp_path / "first", (255, 0, 0))).require() == FRAMES
    assert read_label_mask(root / SMALL).max() == 1
    assert made(root, predicted(tmp_path / "second", (0, 255, 0))).require() == FRAMES
    assert read_label_mask(root / SMALL).max() == 3


def test_labels_beyond_those_of_the_domain_are_background_in_small_masks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rarest label of a cell wins, so that a border of 255 made masks that every model refuses."""
    root = write_house(tmp_path / "Kitchen_data")
    for path in (root / "takes/soup/label_masks/ceiling").glob("*.png"):
        mask = read_label_mask(path).copy()
        mask[:, 20] = 255
        Image.fromarray(mask).save(path)
    made(root, None).require()
    assert capsys.readouterr().err.count("the label 255 is not below 4, as those of kitchen are; counted as back") == 1
    (small,) = read_masks([root / SMALL], with_labels(MM2SGConfig(), Dataset(root).domain.labels))
    assert small.max() == 3


def test_a_full_gpu_costs_the_vectors_and_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was a traceback, and transcripts and masks were not made either."""

    class Clap:
        def eval(self) -> Clap:
            return self

        def to(self, _: object) -> Clap:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr(transformers.ClapModel, "from_pretrained", lambda _: Clap())
    monkeypatch.setattr(transformers.ClapFeatureExtractor, "from_pretrained", lambda _: None)
    dataset = Dataset(write_house(tmp_path / "Kitchen_data"))
    clap = embeddings.ClapEncoder("on a full GPU", published_feeding=False)
    outcome = embeddings.preprocess_audio_embeddings(dataset, dataset.choose(["soup"]), clap)
    assert outcome.written == 0
    assert "CUDA out of memory" in outcome.problems[0]
    assert "CUDA_VISIBLE_DEVICES= mmor" in outcome.problems[0]


def test_another_setting_beside_a_dataset_that_has_one(tmp_path: Path) -> None:
    """To remove the folder was advised, and the next run linked it again."""
    data, out = tmp_path / "data", tmp_path / "out"
    write_dataset(data)
    for part in ("MM-OR_data", "4D-OR_data"):
        for path in (data / part).glob("*per_timepoint*"):
            shutil.rmtree(path)
    take = Dataset(data).choose(["001_PKA"])
    preprocess_audio(Dataset(data), take).require()
    clips = data / "MM-OR_data/take_audio_per_timepoint/001_PKA"
    before = {path.name: path.read_bytes() for path in clips.iterdir()}
    assert preprocess_audio(overlay(Dataset(data), out), take, causal=True).require()
    own = {path.name: path for path in (out / clips.relative_to(data)).iterdir()}
    assert not any(path.is_symlink() for path in own.values())
    assert preprocess_audio(overlay(Dataset(data), out), take, causal=True).require() == 0  # none is linked again
    assert {path.name for path in (out / clips.relative_to(data)).iterdir()} == set(own)
    (problem,) = preprocess_audio(overlay(Dataset(data), out), take).problems
    assert "holds files made with causal window, not published window; remove the folder" in problem
    shutil.rmtree(out / clips.relative_to(data))  # as is told
    assert preprocess_audio(overlay(Dataset(data), out), take).require() == 0  # those of the dataset
    assert before == {path.name: path.read_bytes() for path in clips.iterdir()}


def test_masks_of_a_second_segmenter_beside_a_dataset(tmp_path: Path) -> None:
    root = write_house(tmp_path / "Kitchen_data")
    made(root, predicted(tmp_path / "first", (255, 0, 0))).require()
    out = overlay(Dataset(root), tmp_path / "out")
    second = predicted(tmp_path / "second", (0, 255, 0))
    assert preprocess_masks(out, out.choose(["soup"]), second).require() == FRAMES
    (beside,) = out.roots.values()
    assert read_label_mask(beside / SMALL).max() == 3
    assert read_label_mask(root / SMALL).max() == 1
    again = overlay(Dataset(root), tmp_path / "out")
    assert preprocess_masks(again, again.choose(["soup"]), second).require() == 0
    assert read_label_mask(beside / SMALL).max() == 3


def test_pictures_of_other_colours_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Labels in grey, as other programs write them, were background without a word."""
    write_mmor(tmp_path / "MM-OR_data")
    dataset, take = Dataset(tmp_path), mmor().find_take(MMOR_NAME)
    for path in (tmp_path / "MM-OR_data" / "take_segmasks_per_timepoint" / MMOR_NAME).iterdir():
        path.unlink()
    collection = mmor().collection(take)
    camera = collection.labelled_cameras[0]
    name = collection.picture(take, camera.name, "000100").with_suffix(".png").name
    folder = tmp_path / "pan_pred" / f"{MMOR_NAME}_{camera.name}"
    folder.mkdir(parents=True)
    Image.fromarray(np.full((48, 64), 12, np.uint8)).save(folder / name)
    preprocess_masks(dataset, [take], tmp_path / "pan_pred")
    assert f"{folder / name}: has colours of no class of" in capsys.readouterr().err


def test_clap_behind_a_proxy_that_cannot_be_used_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ImportError("Using SOCKS proxy, but the 'socksio' package is not installed.")

    monkeypatch.setattr(transformers.ClapModel, "from_pretrained", refuse)
    with pytest.raises(UserError, match="CLAP cannot be loaded"):
        ClapEncoder("nobody/behind-a-proxy", False)([np.zeros((48_000, 1), np.float32)], 48_000)


def test_no_sound_is_read_where_clap_cannot_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a hub the sound of every take was read before one line at the end said that CLAP cannot be loaded."""
    write_dataset(tmp_path)
    dataset = Dataset(tmp_path)
    vectors = list(tmp_path.rglob("*.pt"))
    read: list[object] = []
    monkeypatch.setattr(embeddings, "settle", lambda *of, **_: read.append(of))  # which reads all of it
    clap, takes = ClapEncoder(str(tmp_path / "no weights"), False), dataset.takes()
    assert preprocess_audio_embeddings(dataset, takes, clap) == Outcome()  # whoever has all vectors needs no hub
    read.clear()
    for path in vectors:
        path.unlink()
    (problem,) = preprocess_audio_embeddings(Dataset(tmp_path), takes, clap).problems
    assert "CLAP cannot be loaded" in problem
    assert not read
