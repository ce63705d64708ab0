"""Answers of several processes: who asks what, and what becomes of the files that each of them writes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.recordings.dataset import Dataset
from operating_room.work.processes import ALL, Share, array_share
from scene_graph_generation.config.settings import MM2SGConfig
from scene_graph_generation.inference.answers import Answer, open_answers, put_aside
from scene_graph_generation.inference.batches import batches
from scene_graph_generation.inference.infer import answer_share, answers_path, infer
from tests.operating_room.tiny_dataset import write_dataset, write_mmor
from tests.scene_graph_generation.inference.test_infer import Scripted

NAMES = ("001_PKA", "003_TKA", "004_PKA", "001_4DOR")
ABOUT = {"model": "m"}
PUBLISHED = SimpleNamespace(settings=MM2SGConfig(batching="published"))
Asked = list[tuple[str, str]]  # take and frame of each timepoint of a batch


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = write_dataset(tmp_path_factory.mktemp("data"))
    for name in NAMES[1:3]:
        write_mmor(root / "MM-OR_data", name)
    return Dataset(root)


def asked_by_each(
    dataset: Dataset, lengths: Sequence[int], processes: int, memory: bool, mixed: bool
) -> list[list[Asked]]:
    """The batches of two timepoints of each process."""
    takes = [mmor().find_take(name) for name in NAMES]
    lanes = {take: dataset.take(take).timepoints[:length] for take, length in zip(takes, lengths)}
    return [
        [
            [(point.take.name, point.frame_id) for point in group]
            for group in batches(lanes, memory, 2, mixed, Share(rank, processes))
        ]
        for rank in range(processes)
    ]


@pytest.mark.parametrize("memory", [True, False])
@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize("lengths", [(3, 3, 3, 3), (1, 3, 2, 3), (2, 2, 1, 1)])
def test_every_timepoint_is_asked_by_one_process(
    dataset: Dataset, lengths: Sequence[int], memory: bool, mixed: bool
) -> None:
    (whole,) = asked_by_each(dataset, lengths, 1, memory, mixed)
    for processes in (2, 3, 7):
        divided = asked_by_each(dataset, lengths, processes, memory, mixed)
        points = [point for groups in divided for group in groups for point in group]
        assert sorted(points) == sorted(point for group in whole for point in group)
        if memory:
            owners = {(name, rank) for rank, groups in enumerate(divided) for group in groups for name, _ in group}
            assert len(owners) == len(NAMES)
        if mixed or not memory:  # the batches of one process
            assert sorted(group for groups in divided for group in groups) == sorted(whole)


def test_takes_are_dealt_evenly_and_batches_in_runs(dataset: Dataset) -> None:
    divided = asked_by_each(dataset, (3, 1, 2, 2), 2, memory=True, mixed=False)
    assert [sum(map(len, groups)) for groups in divided] == [4, 4]
    first, second = asked_by_each(dataset, (3, 1, 2, 2), 2, memory=False, mixed=False)
    assert first + second == asked_by_each(dataset, (3, 1, 2, 2), 1, memory=False, mixed=False)[0]
    assert len(first) == len(second) == 2


class MixedUp(Scripted):
    """As with the published batching: an answer depends on its batch mates."""

    model: Any = PUBLISHED

    def answer(self, examples: Sequence[Any]) -> list[str]:
        mates = ",".join(one.take for one in examples)
        return [f"{text} with {mates}" for text in super().answer(examples)]


@pytest.mark.parametrize("memory", [True, False])
def test_answers_that_depend_on_batch_mates_are_those_of_one_process(
    dataset: Dataset, tmp_path: Path, memory: bool
) -> None:
    frames = {mmor().find_take(name): None for name in NAMES}
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    infer(MixedUp(), dataset, frames, one, memory, batch_size=2)
    for rank in range(2):
        generator = MixedUp()
        answer_share(generator, dataset, frames, two, Share(rank, 2), memory, batch_size=2)
        assert generator.asked, "each process has something to do"
    collector = MixedUp()
    infer(collector, dataset, frames, two, memory, batch_size=2)
    assert collector.asked == []
    assert two.read_bytes() == one.read_bytes()
    assert answers_path(two).read_bytes() == answers_path(one).read_bytes()


@pytest.mark.parametrize("memory", [True, False])
def test_answers_that_depend_on_batch_mates_are_those_of_a_run_that_was_not_stopped(
    dataset: Dataset, tmp_path: Path, memory: bool
) -> None:
    frames = {mmor().find_take(name): None for name in NAMES}
    whole, stopped, fewer = (tmp_path / name for name in ("whole.json", "stopped.json", "fewer.json"))
    for out in (whole, stopped):
        infer(MixedUp(), dataset, frames, out, memory, batch_size=3)
    texts = answers_path(stopped)
    texts.write_bytes(b"\n".join(texts.read_bytes().split(b"\n")[:3]))  # the disk was full in the middle of a batch
    infer(MixedUp(), dataset, frames, stopped, memory, batch_size=3)
    infer(MixedUp(), dataset, dict([*frames.items()][1:]), fewer, memory, batch_size=3)  # other batches
    infer(MixedUp(), dataset, frames, fewer, memory, batch_size=3)
    said = [
        {key: text for key, _, text in map(json.loads, answers_path(out).read_text().splitlines()[1:])}
        for out in (whole, stopped, fewer)
    ]
    assert said[1] == said[2] == said[0]


def test_a_job_that_never_ran_is_done_by_the_one_that_collects(dataset: Dataset, tmp_path: Path) -> None:
    frames = {mmor().find_take(name): None for name in NAMES}
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    infer(Scripted(), dataset, frames, one)
    answer_share(Scripted(), dataset, frames, two, array_share("2/2"))
    collector = Scripted()
    infer(collector, dataset, frames, two)
    assert sum(map(len, collector.asked)) == 6
    assert two.read_bytes() == one.read_bytes()
    assert answers_path(two).read_bytes() == answers_path(one).read_bytes()  # in the order of one process, too


def test_what_a_run_does_not_ask_for_is_kept(tmp_path: Path) -> None:
    path, part = tmp_path / "a.jsonl", tmp_path / "a.part-2-of-3.jsonl"
    with open_answers(path, ABOUT) as answers:
        answers.add([Answer("a", "?", "first"), Answer("b", "old", "b of old")])
    with open_answers(path, ABOUT, Share(1, 3)) as answers:
        assert answers.find("a", "?") == "first"
        answers.add([Answer("a", "?", "first"), Answer("b", "new", "b of new"), Answer("c", "?", "third")])
    assert [line[:4] for line in part.read_text().splitlines()[1:]] == ['["b"', '["c"']  # what is known is not copied
    with part.open("a") as file:
        file.write('["d", "?", "unfin')
    with open_answers(path, ABOUT, Share(0, 2)) as answers:  # of another number of processes
        assert answers.find("b", "old") == "b of old"
        assert answers.find("b", "new") == "b of new"
        assert answers.find("d", "?") is None
    with open_answers(path, ABOUT) as answers:
        assert answers.find("c", "?") == "third"
    assert list(tmp_path.iterdir()) == [path]
    with open_answers(path, ABOUT) as answers:
        assert [answers.find(*place) for place in (("a", "?"), ("b", "new"), ("c", "?"))] == [
            "first",
            "b of new",
            "third",
        ]


def test_a_run_that_fails_leaves_the_parts(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with open_answers(path, ABOUT, Share(0, 2)) as answers:
        answers.add([Answer("a", "?", "first")])
    with pytest.raises(UserError, match="nothing"), open_answers(path, ABOUT):
        raise UserError("nothing can be scored")
    with open_answers(path, ABOUT, Share(1, 2)) as answers:
        assert answers.find("a", "?") == "first"


def test_parts_are_written_side_by_side_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with open_answers(path, ABOUT, Share(0, 2)), open_answers(path, ABOUT, Share(1, 2)):
        for share in (Share(0, 2), ALL):
            with pytest.raises(UserError, match="another run is writing it"), open_answers(path, ABOUT, share):
                pass
        put_aside(path, {"model": "other"})
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jsonl", "a.part-1-of-2.jsonl", "a.part-2-of-2.jsonl"]
    with (
        open_answers(path, ABOUT),
        pytest.raises(UserError, match=r"a\.jsonl: another run"),
        open_answers(path, ABOUT, Share(0, 2)),
    ):
        pass


@pytest.mark.parametrize("share", [ALL, Share(0, 2), Share(0, 3)])
def test_parts_about_something_else_are_refused(tmp_path: Path, share: Share) -> None:
    path = tmp_path / "a.jsonl"
    with open_answers(path, ABOUT, Share(0, 2)):
        pass
    with (
        pytest.raises(UserError, match=r"a\.part-1-of-2\.jsonl: holds answers with model m, this run has other"),
        open_answers(path, {"model": "other"}, share),
    ):
        pass
    put_aside(path, {"model": "other"})
    with open_answers(path, {"model": "other"}, share):
        pass
    assert (tmp_path / "a.part-1-of-2.of_m.jsonl").exists()
