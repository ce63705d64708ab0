"""Takes of a made-up room on disk: every file of the house layout, the same bytes for the same seed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from PIL import Image
from typer.testing import CliRunner

from mmor.cli import app
from operating_room.domain.domain import Domain, mmor
from operating_room.errors import UserError
from operating_room.files.readers import picture_size
from operating_room_simulator.any_room.house import write_takes
from tests.operating_room_simulator.any_room.tiny_rooms import SIZE, eye_clinic, tale


@pytest.fixture(scope="module")
def eye(tmp_path_factory: pytest.TempPathFactory) -> Domain:
    return eye_clinic(tmp_path_factory.mktemp("domain"))


@pytest.fixture(scope="module")
def root(eye: Domain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("eye")
    write_takes(root, [tale(eye, name, seconds=6) for name in ("eye_1", "eye_2", "eye_3")], SIZE, mask_stride=2)
    return root


def test_every_file_of_the_layout_is_there(root: Path, eye: Domain) -> None:
    take = root / "takes" / "eye_1"
    assert Domain.read(root / "domain.yaml") == eye
    assert yaml.safe_load((root / "splits.yaml").read_text()) == {
        "train": ["eye_1"],
        "val": ["eye_2"],
        "test": ["eye_3"],
    }
    told = yaml.safe_load((take / "take.yaml").read_text())
    assert (told["period"], told["frames"], told["pictures"]) == (1.0, 6, "jpg")
    assert sorted(path.name for path in take.iterdir()) == sorted(
        ["take.yaml", "views", "label_masks", "graphs", "gaze", "hands", "clouds", "sound.flac", "transcript.srt"]
    )
    for camera in ("door", "window", "shelf", "surgeon"):
        assert len(list((take / "views" / camera).iterdir())) == 6
        assert picture_size(take / "views" / camera / "000003.jpg") == SIZE
        assert len(list((take / "label_masks" / camera).iterdir())) == 3
    assert soundfile.info(take / "sound.flac").duration == 6
    assert len(json.loads((take / "graphs" / "000002.json").read_text())[0]) == 3


def test_arrays_are_those_of_the_layout(root: Path) -> None:
    take = root / "takes" / "eye_2"
    gaze, hands = np.load(take / "gaze" / "000001.npy"), np.load(take / "hands" / "000001.npy")
    assert (gaze.dtype, gaze.shape, hands.dtype, hands.shape) == (np.float32, (1, 4), np.float32, (1, 17))
    assert gaze[0, 0] == hands[0, 0] == 4  # the fourth camera of the domain
    with np.load(take / "clouds" / "000001.npz") as cloud:
        assert cloud["points"].dtype == np.float32
        assert cloud["colors"].dtype == np.uint8
        assert len(cloud["points"]) == len(cloud["colors"]) == 3000
        assert np.abs(cloud["points"]).max() < 6  # m


def test_masks_show_the_categories_of_the_domain(root: Path) -> None:
    masks = [np.asarray(Image.open(path)) for path in sorted((root / "takes").rglob("label_masks/*/*.png"))]
    seen = set(np.unique(np.stack(masks)).tolist())
    assert seen == {0, 1, 2, 3, 4, 7}


def test_gaze_falls_on_what_the_person_looks_at(eye: Domain, root: Path) -> None:
    """Most points of gaze lie in the picture, at the depth of what is seen there or nearer than the wall."""
    rows = np.concatenate([np.load(path) for path in sorted(root.glob("takes/*/gaze/*.npy"))])
    found = rows[rows[:, 1] >= 0]
    assert len(found) > 0.7 * len(rows)
    assert (found[:, 1] < SIZE[0]).all()
    assert (found[:, 2] < SIZE[1]).all()
    assert (found[:, 3] < 6).all()


def test_same_seed_same_bytes_with_any_number_of_processes(eye: Domain, tmp_path: Path) -> None:
    stories = [tale(eye, name, seconds=2, period=0.05) for name in ("eye_1", "eye_2")]
    for name, workers in (("one", 1), ("two", 2)):
        write_takes(tmp_path / name, stories, (32, 24), workers=workers)
    one, two = (
        {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name).rglob("*")
            if path.is_file()
        }
        for name in ("one", "two")
    )
    assert one == two
    assert len(one) > 100


def test_finished_takes_stay_and_others_are_refused(eye: Domain, tmp_path: Path) -> None:
    story = tale(eye, seconds=2)
    write_takes(tmp_path, [story], (32, 24))
    picture = tmp_path / "takes" / "eye_1" / "views" / "door" / "000000.jpg"
    before = picture.stat().st_mtime_ns
    write_takes(tmp_path, [story], (32, 24))
    assert picture.stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"simulated with other options \(seconds 2.0, not 3.0\)"):
        write_takes(tmp_path, [tale(eye, seconds=3)], (32, 24))
    (tmp_path / "takes" / "mine" / "views").mkdir(parents=True)
    with pytest.raises(UserError, match="mine is there and was not simulated"):
        write_takes(tmp_path, [tale(eye, "mine", seconds=2)], (32, 24))


def test_an_interrupted_take_is_written_again(eye: Domain, tmp_path: Path) -> None:
    story = tale(eye, seconds=2)
    write_takes(tmp_path, [story], (32, 24))
    take = tmp_path / "takes" / "eye_1"
    source = yaml.safe_load((take / "take.yaml").read_text())["source"]
    (take / "take.yaml").unlink()
    (take / ".synthetic.json").write_text(json.dumps(source))
    lost = take / "views" / "door" / "000001.jpg"
    lost.unlink()
    write_takes(tmp_path, [story], (32, 24))
    assert lost.exists()
    assert (take / "take.yaml").exists()


def test_new_takes_join_the_splits_that_are_there(eye: Domain, tmp_path: Path) -> None:
    (tmp_path / "splits.yaml").write_text("test: [eye_9]\nmorning: [eye_1]\n")
    write_takes(tmp_path, [tale(eye, name, seconds=2) for name in ("eye_1", "eye_2", "eye_3")], (32, 24))
    splits = yaml.safe_load((tmp_path / "splits.yaml").read_text())
    assert splits == {"train": ["eye_2"], "val": ["eye_3"], "test": ["eye_9"], "morning": ["eye_1"]}


def test_what_cannot_be_is_refused_in_one_line(eye: Domain, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="only that can be simulated with --domain"):
        write_takes(tmp_path, [tale(mmor(), "001_PKA", seconds=40)], (32, 24))
    with pytest.raises(UserError, match="width and height may be"):
        write_takes(tmp_path, [tale(eye)], (8, 8))
    (tmp_path / "domain.yaml").write_text(mmor().to_yaml())
    with pytest.raises(UserError, match="is of another domain") as error:
        write_takes(tmp_path, [tale(eye)], (32, 24))
    assert "\n" not in str(error.value)


def test_takes_of_two_domains_do_not_hide_each_other(eye: Domain, tmp_path: Path) -> None:
    """Fault: without --domain another take of one's room was one of MM-OR, which nothing found beside domain.yaml; a
    room written into the folder of MM-OR_data hid all that was there.
    """
    write_takes(tmp_path / "clinic", [tale(eye, seconds=2)], (32, 24))
    told = (
        CliRunner().invoke(app, ["data", "synthesize", "--out", str(tmp_path / "clinic"), "--take", "day_4"]).exception
    )
    assert "domain.yaml: is of eye_clinic, beside which nothing finds takes of MMOR; choose another --out" in str(told)
    assert not (tmp_path / "clinic" / "MM-OR_data").exists()
    (tmp_path / "data" / "MM-OR_data").mkdir(parents=True)
    with pytest.raises(UserError, match="holds MM-OR_data, which nothing would find any more"):
        write_takes(tmp_path / "data", [tale(eye)], (32, 24))
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["MM-OR_data"]


def test_takes_in_the_folder_of_a_dataset_itself_are_refused(tmp_path: Path) -> None:
    """`--out data/MM-OR_data` made data/MM-OR_data/MM-OR_data, which `--data data` did not find."""
    words = ["data", "synthesize", "--out", str(tmp_path / "MM-OR_data"), "--take", "day_4", "--seconds", "40"]
    told = str(CliRunner().invoke(app, words).exception)
    assert told.endswith("choose the folder that holds MM-OR_data as --out")
    assert not (tmp_path / "MM-OR_data").exists()


def test_the_command(tmp_path: Path) -> None:
    eye_clinic(tmp_path)
    common = ["data", "synthesize", "--domain", str(tmp_path / "eye.yaml"), "--out", str(tmp_path / "out")]
    run = CliRunner().invoke
    result = run(app, [*common, "--take", "a", "--seconds", "2", "--size", "32x24", "--period", "0.5"])
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "out/takes/a/views/door").iterdir())) == 4
    for wrong in (
        ["--missing-frames", "0.5", "--take", "b"],
        ["--without-tracker", "b", "--take", "b"],
        ["--take", "train"],
        [],
    ):
        refused = run(app, [*common, *wrong])
        assert isinstance(refused.exception, UserError), refused.output
    lonely = run(app, ["data", "synthesize", "--out", str(tmp_path / "out"), "--period", "2"])
    assert "--period goes with --domain" in str(lonely.exception)
