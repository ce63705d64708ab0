"""Prepared views: the same as reading anew, whatever happens while they are made or to their files."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from operating_room.doctor.checkup import check
from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.graphs.prompts import conversation
from operating_room.graphs.scene_graph import Sample
from operating_room.recordings.dataset import Dataset
from operating_room.scores.fingerprints import inputs_fingerprint
from scene_graph_generation.config.settings import MM2SGConfig, with_vocabulary
from scene_graph_generation.inference.generator import SceneGraphGenerator
from scene_graph_generation.inputs import prepared_views
from scene_graph_generation.inputs.evidence import ExampleReader
from scene_graph_generation.inputs.prepared_views import FOLDER, PICTURES, VIEWS
from scene_graph_generation.inputs.tokens import train_tokens
from scene_graph_generation.inputs.views import ViewReader, prepare_file
from scene_graph_generation.preprocess import view_files, views
from scene_graph_generation.preprocess.overlay import overlay
from scene_graph_generation.preprocess.run import Outcome
from scene_graph_generation.preprocess.views import preprocess_views, shown_pictures
from scene_graph_generation.samples.training_data import TrainingSamples, read_records, record_text
from tests.dying import dies_in, require_killed
from tests.operating_room.tiny_dataset import picture, write, write_dataset, write_mmor
from tests.operating_room.tiny_house import write_house
from tests.scene_graph_generation.tiny_training import SHORT, write_samples

FORK = get_context("fork")
SIZE = 28
TAKE, OTHER = mmor().find_take("001_PKA"), mmor().find_take("001_4DOR")
SHOWN = {TAKE: 30, OTHER: 12}  # ten cameras of three timepoints, four of three
STOPPED = """
import sys
from pathlib import Path
from operating_room.domain.domain import mmor
from operating_room.recordings.dataset import Dataset
from scene_graph_generation.preprocess import view_files
from scene_graph_generation.preprocess.views import preprocess_views

view_files.CHUNK = 4
preprocess_views(Dataset(Path(sys.argv[1])), [mmor().find_take("001_PKA")], 28)
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A take of MM-OR and one of 4D-OR; each picture is another one."""
    write_dataset(tmp_path)
    generator = np.random.default_rng(0)
    for path in sorted(tmp_path.glob("*/*/*/*.jpg")):
        write(path, picture(pixels=generator.integers(0, 256, (48, 64, 3), dtype=np.uint8)))
    return tmp_path


def prepare(root: Path) -> Outcome:
    return preprocess_views(Dataset(root), [TAKE, OTHER], SIZE)


def pictures(root: Path, take: Any = TAKE) -> list[Path]:
    recorded = Dataset(root).take(take)
    return [recorded.root / name for name in shown_pictures(recorded)]


def anew(paths: list[Path]) -> torch.Tensor:
    return torch.stack([prepare_file(path, SIZE) for path in paths])


def place(root: Path) -> Path:
    """Of the views of the take of MM-OR."""
    (found,) = (root / "MM-OR_data" / FOLDER).rglob(VIEWS)
    return found.parent


def forbid_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scene_graph_generation.inputs.views.open_picture", None)


def test_they_are_what_reading_anew_gives_and_no_picture_is_opened(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert prepare(root).require() == sum(SHOWN.values())
    expected = {take: anew(pictures(root, take)) for take in SHOWN}
    forbid_reading(monkeypatch)
    for take, count in SHOWN.items():
        found = ViewReader(SIZE)(pictures(root, take))
        assert len(found) == count
        assert torch.equal(found, expected[take])
    assert prepare(root).require() == 0


def test_other_sizes_are_read_anew(root: Path) -> None:
    prepare(root).require()
    (path, *_) = pictures(root)
    assert torch.equal(ViewReader(14)([path])[0], prepare_file(path, 14))


def test_takes_in_the_house_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = Dataset(write_house(tmp_path / "kitchen"))
    assert preprocess_views(dataset, dataset.takes(), SIZE, workers=2).require() == 2 * 16
    for take in dataset.takes():
        recorded = dataset.take(take)
        paths = [recorded.root / name for name in shown_pictures(recorded)]
        expected = anew(paths)
        with monkeypatch.context() as patch:
            forbid_reading(patch)
            assert torch.equal(ViewReader(SIZE)(paths), expected)


def test_takes_that_share_a_folder_and_pictures_outside_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Views are found by the picture alone."""
    files = {name: write(tmp_path / name, picture()) for name in ("shared/a.jpg", "shared/b.jpg", "far/c.jpg")}
    expected = anew(list(files.values()))
    for name, of_take in {"one": ["shared/a.jpg"], "two": ["shared/b.jpg"], "three": ["far/c.jpg"]}.items():
        take = replace(TAKE, name=name, folder="shared")
        folder = prepared_views.take_folder(tmp_path, take, SIZE, of_take)
        list(view_files.write_views(folder, SIZE, {n: files[n] for n in of_take}, lambda p: prepare_file(p, SIZE)))
    forbid_reading(monkeypatch)
    assert torch.equal(ViewReader(SIZE)(list(files.values())), expected)


@pytest.mark.parametrize("call", [1, 2, 11, 30])
def test_a_killed_run_is_continued(root: Path, call: int) -> None:
    code = dies_in(views.__name__, "prepare_file", call) + STOPPED
    process = subprocess.Popen([sys.executable, "-c", code, str(root)], stderr=subprocess.PIPE, text=True)
    require_killed(process)
    assert torch.equal(ViewReader(SIZE)(pictures(root)), anew(pictures(root)))  # what is missing is read
    done = (call - 1) // 4 * 4
    assert preprocess_views(Dataset(root), [TAKE], SIZE).require() == SHOWN[TAKE] - done
    assert torch.equal(ViewReader(SIZE)(pictures(root)), anew(pictures(root)))
    assert prepare(root).require() == SHOWN[OTHER]


def test_two_runs_at_once_do_each_other_no_harm(root: Path) -> None:
    runs = [FORK.Process(target=prepare, args=(root,)) for _ in range(3)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert [run.exitcode for run in runs] == [0, 0, 0]
    assert prepare(root).require() == 0
    assert torch.equal(ViewReader(SIZE)(pictures(root)), anew(pictures(root)))


def test_an_interrupted_run_keeps_what_it_has_prepared(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Path] = []

    def stops(path: Path, size: int) -> torch.Tensor:
        if len(seen) == 7:
            raise KeyboardInterrupt
        seen.append(path)
        return prepare_file(path, size)

    with monkeypatch.context() as patch:
        patch.setattr(views, "prepare_file", stops)
        with pytest.raises(KeyboardInterrupt):
            prepare(root)
    assert prepare(root).require() == sum(SHOWN.values()) - 7


def test_a_changed_picture_is_refused_until_it_is_prepared_again(root: Path) -> None:
    prepare(root).require()
    path, *others = pictures(root)
    write(path, picture(pixels=np.zeros((48, 64, 3), np.uint8)))
    read = ViewReader(SIZE)
    with pytest.raises(UserError, match=r"\.jpg: has changed .*run `mmor .* preprocess views` again or remove"):
        read([path])
    assert torch.equal(read(others), anew(others))
    assert prepare(root).require() == 1
    assert torch.equal(read([path]), anew([path]))
    os.utime(path, (1, 1))  # an older one was put in its place
    with pytest.raises(UserError, match="has changed"):
        read([path])
    shutil.rmtree(root / "MM-OR_data" / FOLDER)
    assert torch.equal(ViewReader(SIZE)([path]), anew([path]))


def test_a_lost_picture_is_missed_although_its_view_is_there(root: Path) -> None:
    prepare(root).require()
    path, *_ = pictures(root)
    path.unlink()
    with pytest.raises(UserError, match=path.name):
        ViewReader(SIZE)([path])


def test_a_take_that_has_grown_is_prepared_anew(root: Path) -> None:
    prepare(root).require()
    shutil.rmtree(place(root))
    shutil.move(root / "MM-OR_data" / "001_PKA" / "trackercam", root / "away")
    assert prepare(root).require() == 27
    shutil.move(root / "away", root / "MM-OR_data" / "001_PKA" / "trackercam")
    assert prepare(root).require() == 30
    assert torch.equal(ViewReader(SIZE)(pictures(root)), anew(pictures(root)))


@pytest.mark.parametrize("name", [VIEWS, PICTURES])
@pytest.mark.parametrize("left", [0, 10, 500])
def test_files_that_are_cut_off_are_named(root: Path, name: str, left: int) -> None:
    prepare(root).require()
    ViewReader(SIZE)(pictures(root))  # this process has them open
    path = place(root) / name
    os.truncate(path, left)
    with pytest.raises(UserError, match=rf"{name}: these prepared views are damaged .*remove .*001_PKA and run"):
        ViewReader(SIZE)(pictures(root))
    problems = prepare(root).problems
    assert len(problems) == 1
    assert f"{name}: these prepared views are damaged" in problems[0]


def test_a_view_that_is_not_what_was_written_is_named(root: Path) -> None:
    prepare(root).require()
    path = place(root) / VIEWS
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    *others, last = pictures(root)
    assert torch.equal(ViewReader(SIZE)(others), anew(others))
    with pytest.raises(UserError, match=r"views\.npy: these prepared views are damaged"):
        ViewReader(SIZE)([last])


@pytest.mark.parametrize(
    "other", [np.zeros(3), np.zeros((30, 3, 28, 28), np.int8), np.zeros((29, 3, 28, 28), np.uint8)]
)
def test_arrays_of_another_form_are_named(root: Path, other: np.ndarray) -> None:
    prepare(root).require()
    np.save(place(root) / VIEWS, other)
    with pytest.raises(UserError, match=r"views\.npy: these prepared views are damaged \(holds"):
        ViewReader(SIZE)(pictures(root))


def test_a_bad_picture_costs_its_take(root: Path) -> None:
    path = pictures(root)[5]
    path.write_bytes(b"")
    outcome = prepare(root)
    assert outcome.written == 5 + SHOWN[OTHER]
    assert len(outcome.problems) == 1
    assert path.name in outcome.problems[0]


def test_too_small_a_disk_is_told_before_anything_is_written(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = SHOWN[TAKE] * 3 * SIZE * SIZE
    monkeypatch.setattr(views.shutil, "disk_usage", lambda _: SimpleNamespace(free=needed - 1))
    with pytest.raises(UserError, match=r"MM-OR_data: 30 views of 28 px take 0\.0 GB.*make room, choose fewer takes"):
        prepare(root)
    assert not list(root.rglob(FOLDER))


def test_a_disk_that_gets_full_is_one_sentence(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, calls = view_files._write, []

    def full(file: Any, view: np.ndarray) -> None:
        calls.append(1)
        if len(calls) == 6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        whole(file, view)

    with monkeypatch.context() as patch:
        patch.setattr(view_files, "_write", full)
        problems = prepare(root).problems
    assert len(problems) == 1
    assert "views.npy: cannot be written (No space left on device)" in problems[0]
    assert prepare(root).require() == SHOWN[TAKE] - 5


def test_a_dataset_that_cannot_be_written_gets_its_views_elsewhere(
    root: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path_factory.mktemp("out")
    write(root / "relationships_train.json", b"[]")  # beside the datasets
    assert preprocess_views(overlay(Dataset(root), out), [TAKE], SIZE).require() == SHOWN[TAKE]
    assert (out / "relationships_train.json").read_text() == "[]"
    with pytest.raises(UserError, match="are --data and --out the wrong way round"):
        overlay(Dataset(out), root)
    assert not list(root.rglob(FOLDER))
    expected = anew(pictures(root))
    with monkeypatch.context() as patch:
        forbid_reading(patch)
        assert torch.equal(ViewReader(SIZE)(pictures(out)), expected)


def test_a_folder_beside_the_dataset_that_cannot_be_written_is_one_line(
    root: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path_factory.mktemp("out")
    overlay(Dataset(root), out)
    write(root / "relationships_train.json", b"[]")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "symlink_to", full)
    with pytest.raises(UserError, match=r"out\d+: cannot be written \(No space left on device\)"):
        overlay(Dataset(root), out)


def test_views_of_a_dataset_that_cannot_be_written_are_used_and_never_changed(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    prepare(root).require()
    before = place(root).joinpath(VIEWS).read_bytes()
    out = tmp_path_factory.mktemp("out")
    assert preprocess_views(overlay(Dataset(root), out), [TAKE], SIZE).require() == 0
    path, *_ = pictures(root)
    write(path, picture(pixels=np.zeros((48, 64, 3), np.uint8)))
    assert preprocess_views(overlay(Dataset(root), out), [TAKE], SIZE).require() == SHOWN[TAKE]
    assert place(root).joinpath(VIEWS).read_bytes() == before
    assert torch.equal(ViewReader(SIZE)(pictures(out)), anew(pictures(root)))


def test_few_takes_are_open_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process may have so many file handles; each take has two."""
    for number in range(1, 9):
        write_mmor(tmp_path / "MM-OR_data", f"{number:03d}_PKA")
    dataset = Dataset(tmp_path)
    preprocess_views(dataset, dataset.takes(), SIZE).require()
    prepared_views._open.cache_clear()
    small = prepared_views.lru_cache(maxsize=2)(prepared_views._open.__wrapped__)
    monkeypatch.setattr(prepared_views, "_open", small)
    before = len(os.listdir("/proc/self/fd"))
    read = ViewReader(SIZE)
    for take in dataset.takes():
        read(pictures(tmp_path, take))
    assert len(os.listdir("/proc/self/fd")) <= before + 2 * 2


def test_checks_and_fingerprints_stay_as_they_were(root: Path) -> None:
    samples = [Sample(TAKE.sample_name, f"{number:06d}", ()) for number in range(3)]
    before = [str(check(Dataset(root))), inputs_fingerprint(Dataset(root), samples)]
    prepare(root).require()
    assert [str(check(Dataset(root))), inputs_fingerprint(Dataset(root), samples)] == before


def test_questions_that_answers_are_stored_by_stay_the_same(root: Path) -> None:
    class Asked(SceneGraphGenerator):
        model: Any = SimpleNamespace(settings=MM2SGConfig())
        _tokens: Any = SimpleNamespace(conversation=conversation)

        def __init__(self) -> None: ...

    generator = Asked()

    def questions() -> list[str]:
        return [generator.question(timepoint, None) for timepoint in Dataset(root).take(TAKE).timepoints]

    before = questions()
    prepare(root).require()
    assert questions() == before


def test_training_samples_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_samples(tmp_path)
    records = read_records(data / "samples.json")
    tokens = train_tokens(map(record_text, records), SHORT.vocabulary, mmor().language)
    settings = with_vocabulary(SHORT.model, tokens.size)

    def samples() -> list[torch.Tensor]:
        made = TrainingSamples(records, Dataset(data), SHORT.train, ExampleReader(settings, tokens))
        return [made[0, place].views for place in range(len(made))]

    expected = samples()
    preprocess_views(Dataset(data), [TAKE], settings.vision.image_size).require()
    forbid_reading(monkeypatch)
    for found, wanted in zip(samples(), expected, strict=True):
        assert torch.equal(found, wanted)
