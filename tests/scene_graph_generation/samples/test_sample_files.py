"""Training files: the same records as JSON and as shards, in random order, whole or absent."""

from __future__ import annotations

import errno
import gc
import json
import os
import resource
import shutil
import signal
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

import pytest

from operating_room.errors import UserError
from operating_room.files.atomic import write_json
from scene_graph_generation.samples import sample_files
from scene_graph_generation.samples.sample_files import Joined, find_shards, read_shards, shard_folder, write_samples
from scene_graph_generation.samples.training_data import read_records
from tests.operating_room.tiny_dataset import write

FORK = get_context("fork")


def records(count: int = 50, tag: str = "Säge\u2028\n") -> list[dict[str, Any]]:
    return [{"id": f"{tag}{number}", "timepoint": number} for number in range(count)]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of samples; piles of ten records."""
    monkeypatch.setattr(sample_files, "PILE", 10)
    return tmp_path / "llava_samples" / "train_drophistory0.5_MIXED.json"


def by_time(found: Any) -> list[dict[str, Any]]:
    return sorted(found, key=lambda record: record["timepoint"])


def test_json_and_shards_hold_the_same_in_random_order(path: Path) -> None:
    assert write_samples(path, iter(records()), 50, Random(0)) == 50
    whole = json.loads(path.read_text())
    shards = read_shards(shard_folder(path))
    assert list(shards) == whole == [shards[i] for i in range(50)]
    assert shards[-1] == whole[-1]
    assert by_time(whole) == records()
    assert whole != records()
    assert len(list(shard_folder(path).glob("*.jsonl"))) == 5
    assert [file.name for file in path.parent.iterdir() if file.name.startswith(".")] == []
    with pytest.raises(IndexError):
        shards[50]


def test_order_depends_on_the_seed_only(path: Path) -> None:
    contents = []
    for seed in (1, 1, 2):
        write_samples(path, records(), 50, Random(seed))
        contents.append(path.read_bytes())
    assert contents[0] == contents[1] != contents[2]


def test_every_place_is_as_likely(path: Path) -> None:
    firsts = []
    for seed in range(300):
        write_samples(path, records(6), 21, Random(seed))  # three piles
        firsts.append(json.loads(path.read_text())[0]["timepoint"])
    assert all(25 < firsts.count(number) < 80 for number in range(6))


def test_few_files_are_open_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As few as macOS allows: 256 with all that is open already."""
    monkeypatch.setattr(sample_files, "PILE", 1)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, most))
    try:
        assert write_samples(path, records(), 10_000, Random(0)) == len(read_shards(shard_folder(path))) == 50
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_no_record_is_no_training_file(path: Path) -> None:
    assert write_samples(path, [], 0, Random(0)) == 0
    assert not path.exists()
    write_samples(path, records(3), 3, Random(0))
    before = path.read_bytes()
    assert write_samples(path, [], 0, Random(0)) == 0  # what is there stays
    assert path.read_bytes() == before
    assert len(read_shards(shard_folder(path))) == 3


def test_shards_of_another_json_do_not_count(path: Path) -> None:
    write_samples(path, records(), 50, Random(0))
    assert find_shards(path) == shard_folder(path) == find_shards(shard_folder(path))
    write_json(path, records(3))
    assert find_shards(path) is None


def edit_json(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"0"', b'"9"', 1) if b'"0"' in content else content[:-9] + b"x" + content[-8:])


def edit_shard(path: Path) -> None:
    shard = shard_folder(path) / "00001.jsonl"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)


def swap_shards(path: Path) -> None:
    first, second = (shard_folder(path) / f"0000{i}.jsonl" for i in range(2))
    contents = first.read_bytes(), second.read_bytes()
    second.write_bytes(contents[0])
    first.write_bytes(contents[1])


def lose_shard(path: Path) -> None:
    (shard_folder(path) / "00001.jsonl").unlink()


@pytest.mark.parametrize("change", [edit_json, edit_shard, swap_shards, lose_shard])
def test_shards_that_differ_from_the_json_in_a_byte_do_not_count(path: Path, change: Callable[[Path], None]) -> None:
    """Whichever of the two was edited, damaged or copied: their sizes stay the same."""
    write_samples(path, records(), 50, Random(0))
    size = path.stat().st_size
    change(path)
    assert path.stat().st_size == size
    assert find_shards(path) is None


@pytest.mark.parametrize("damage", ["cut", "missing", "index", "line", "depth"])
def test_damaged_shards_are_named(path: Path, damage: str) -> None:
    write_samples(path, records(), 50, Random(0))
    shard = shard_folder(path) / "00001.jsonl"
    if damage == "cut":
        os.truncate(shard, shard.stat().st_size - 5)
    elif damage == "missing":
        shard.unlink()
    elif damage == "index":
        shard = write(shard.with_name("index.json"), "{}")
    elif damage == "depth":
        lines = shard.read_bytes().splitlines(keepends=True)
        shard.write_bytes(b"[" * 100_000 + b"\n" + b"".join(lines[1:]))
    else:
        shard.write_bytes(shard.read_bytes().replace(b"{", b"[", 1))
    with pytest.raises(UserError, match=shard.name) as error:
        list(read_shards(shard_folder(path)))
    assert "\n" not in str(error.value)


def test_the_folder_of_samples_in_place_of_a_file_in_it(path: Path) -> None:
    """`samples --out DIR`, then `train --samples DIR`: an index.json was to be copied again, which never was."""
    write_samples(path, records(), 50, Random(0))
    folder = find_shards(path.parent)
    assert folder == path.parent
    with pytest.raises(UserError, match=f"a folder without index.json.*give a file in it, such as {path.name}$"):
        read_shards(folder)


def test_records_are_not_read_before_they_are_asked_for(path: Path) -> None:
    """Not even by those who check types at run time, as tests do."""
    write_samples(path, records(), 50, Random(0))
    for shard in shard_folder(path).glob("*.jsonl"):
        shard.write_bytes(shard.read_bytes().replace(b"{", b"["))
    shards = read_shards(shard_folder(path))
    assert len(Joined([shards, shards])) == 100
    with pytest.raises(UserError, match="line 1 is no sample"):
        shards[0]


def test_training_reads_shards_in_the_order_of_the_json(path: Path) -> None:
    turns = [{"from": "human", "value": "?"}, {"from": "gpt", "value": "<SG> </SG>"}]
    talks = [{**record, "conversations": turns} for record in records()]
    write_samples(path, talks, 50, Random(0))
    streamed = read_records(path)
    assert isinstance(streamed, Joined)
    assert list(streamed) == json.loads(path.read_text()) == list(read_records(shard_folder(path)))
    shutil.rmtree(shard_folder(path))
    assert list(read_records(path)) == json.loads(path.read_text())
    write_samples(path, records(), 50, Random(0))
    with pytest.raises(UserError, match="needs an id and two turns"):
        read_records(path)


def test_a_json_without_shards_is_not_held_as_objects(path: Path) -> None:
    """As those of the published code are: each process that reads samples got a copy of all of them."""
    turns = [{"from": "human", "value": "?"}, {"from": "gpt", "value": "<SG> </SG>"}]
    talks = [{**record, "conversations": turns, "pc": None, "share": 0.1} for record in records(500)]
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(talks, ensure_ascii=False))
    gc.collect()
    before = len(gc.get_objects())
    held = read_records(path)
    gc.collect()
    assert len(gc.get_objects()) - before < 100
    assert len(held) == 500
    assert list(held) == talks == [held[place] for place in range(500)]
    assert held[-1] == talks[-1]
    with pytest.raises(IndexError):
        held[500]


def test_several_files_are_one_after_the_other(path: Path) -> None:
    write_samples(path, records(), 50, Random(0))
    shards = read_shards(shard_folder(path))
    joined = Joined([records(3), shards, records(2)])
    assert list(joined) == [*records(3), *shards, *records(2)]
    assert [joined[i] for i in range(1, 5)] == [*records(3)[1:], shards[0], shards[1]]


def die_while_writing(path: Path) -> None:
    """Write samples and end by SIGKILL after 30 of them."""

    def dying() -> Any:
        yield from records(30)
        os.kill(os.getpid(), signal.SIGKILL)

    write_samples(path, dying(), 50, Random(3))


def test_a_killed_run_changes_nothing_and_the_next_one_cleans_up(path: Path) -> None:
    write_samples(path, records(), 50, Random(0))
    before = path.read_bytes()
    process = FORK.Process(target=die_while_writing, args=(path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert path.read_bytes() == before
    assert len(read_shards(shard_folder(path))) == 50
    assert [file for file in path.parent.iterdir() if ".partial" in file.name]
    write_samples(path, records(20), 20, Random(0))
    assert {file.name for file in path.parent.iterdir()} == {path.name, shard_folder(path).name}


def test_a_full_disk_is_one_sentence_and_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_samples(path, records(), 50, Random(0))
    before = path.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(UserError, match="No space left on device"):
            write_samples(path, records(20), 20, Random(0))
    assert path.read_bytes() == before
    assert {file.name for file in path.parent.iterdir()} == {path.name, shard_folder(path).name}


def write_tagged(path: Path, tag: str) -> None:
    for seed in range(5):
        write_samples(path, records(50, tag), 50, Random(seed))


def test_two_runs_at_once_leave_one_whole_result(path: Path) -> None:
    processes = [FORK.Process(target=write_tagged, args=(path, tag)) for tag in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    for found in (json.loads(path.read_text()), list(read_shards(shard_folder(path)))):
        assert by_time(found) in (records(50, "a"), records(50, "b"))
    assert {file.name for file in path.parent.iterdir()} == {path.name, shard_folder(path).name}
