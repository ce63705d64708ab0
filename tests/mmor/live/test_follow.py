"""Following a take that is being written: what comes when, and what is told of what does not come."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmor.cli import app
from mmor.live.parts import Look, Parts
from mmor.live.source import GIVE_UP_S, Follow, Moment
from mmor.live.take import take_of_folder
from operating_room.errors import UserError
from operating_room.recordings.index import Element
from tests.mmor.live.recorder import JPEG, Recorder, frames, house_recorder, missing
from tests.operating_room.tiny_dataset import write
from tests.operating_room.tiny_house import write_house


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return house_recorder(tmp_path)


def answered(source: Follow, count: int) -> Iterator[Moment]:
    """So many moments, each of which is answered at once."""
    for moment in islice(source, count):
        source.presence.note(moment.look.present, moment.look.absent, moment.look.timepoint.frame_id)
        yield moment


def test_seconds_come_as_they_are_written(recorder: Recorder) -> None:
    recorder.shoots(range(1, 5))
    recorder.at(0, lambda: recorder.shoot(0))
    moments, at = [], []
    for moment in islice(recorder.followed(), 5):
        moments.append(moment)
        at.append(recorder.now)
    assert frames(moments) == [0, 1, 2, 3, 4]
    assert [round(time) for time in at] == [0, 1, 2, 3, 4]
    assert [moment.at_s for moment in moments] == [0, 1, 2, 3, 4]
    assert not recorder.told
    assert not any(moment.look.absent or moment.skipped for moment in moments)
    assert set(moments[-1].look.timepoint.views) == {"ceiling", "door", "glasses"}


def test_a_picture_that_is_half_written_is_waited_for(recorder: Recorder) -> None:
    recorder.shoot(0, "ceiling", "glasses")
    recorder.shoot(0, "door", content=JPEG[:700])
    recorder.at(0.5, lambda: recorder.shoot(0, "door"))
    moment = next(iter(recorder.followed()))
    assert 0.5 <= recorder.now < 0.6
    assert not moment.look.absent
    assert not recorder.told


def test_a_picture_that_stays_half_written_costs_its_view_only(recorder: Recorder) -> None:
    for second in range(2):
        recorder.shoot(second, "ceiling", "glasses")
        recorder.shoot(second, "door", content=JPEG[:700])
    moments = list(answered(recorder.followed(queue=True), 2))
    assert 1 <= recorder.now < 1.1  # both were waited for until then
    assert [missing(moment) for moment in moments] == [["door"], ["door"]]
    assert set(moments[0].look.timepoint.views) == {"ceiling", "glasses"}
    (line,) = recorder.told
    assert line.startswith("000000: goes on without room_views/door")
    assert "000000.jpg: is not a readable" in line


def test_a_camera_that_stops_is_told_once_and_not_waited_for(recorder: Recorder) -> None:
    recorder.shoots(range(20), "ceiling", "glasses")
    recorder.shoots(range(5), "door")
    recorder.shoots(range(15, 20), "door")
    late, found = [], []
    for moment in answered(recorder.followed(queue=True), 20):
        late.append(round(recorder.now - moment.at_s, 1))
        found.append(missing(moment))
    assert found == [[]] * 5 + [["door"]] * 10 + [[]] * 5
    assert late == [0] * 5 + [1] * 3 + [0] * 12
    assert recorder.told == [
        "000007: 3 timepoints in a row without room_views/door; going on without, until that is there again",
        "000015: room_views/door is there now",
    ]


def test_a_camera_that_appears_late_joins(recorder: Recorder) -> None:
    recorder.shoots(range(12), "ceiling", "glasses")
    for second in range(6, 12):  # a little later than the others
        recorder.at(second + 0.2, lambda second=second: recorder.shoot(second, "door"))
    found = [missing(moment) for moment in answered(recorder.followed(queue=True), 12)]
    assert found[:6] == [["door"]] * 6
    assert found[7:] == [[]] * 5
    assert [line.partition(":")[0] for line in recorder.told] == ["000002", "000007"]


def test_a_leftover_of_a_second_does_not_hide_those_behind_it(recorder: Recorder) -> None:
    """Nothing came any more, and nothing was told."""
    recorder.shoots(range(5))
    recorder.shoots(range(6, 10))
    recorder.at(5, lambda: write(recorder.folder / "views" / "door" / "000005.jpg.tmp", b"x"))
    assert frames(list(islice(recorder.followed(queue=True), 9))) == [0, 1, 2, 3, 4, 6, 7, 8, 9]


def test_a_camera_that_the_model_is_not_shown_may_begin_first(recorder: Recorder) -> None:
    recorder.shoots(range(12), "screen")
    recorder.shoots(range(5, 12), "ceiling", "door", "glasses")
    assert frames(list(islice(recorder.followed(queue=True), 6))) == [5, 6, 7, 8, 9, 10]


def test_seconds_that_come_a_little_late_are_not_looked_for_in_the_whole_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To list a take of a day takes seconds; with a period of 2 s it was done at every second that was late."""
    recorder, searches = house_recorder(tmp_path, 2.0), list[float]()
    monkeypatch.setattr(Follow, "_search", lambda self: searches.append(self.clock()))
    for second in range(20):
        recorder.at(2 * second + (0.2 if second % 2 else 0), lambda second=second: recorder.shoot(second))
    assert frames(list(islice(recorder.followed(queue=True), 20))) == list(range(20))
    assert not [at for at in searches if at > 0]


def test_who_is_too_slow_gets_the_newest_second(recorder: Recorder) -> None:
    recorder.shoots(range(20))
    moments = []
    for moment in islice(recorder.followed(), 4):
        moments.append(moment)
        recorder.sleep(3.5)
    assert frames(moments) == [0, 3, 7, 10]
    assert [moment.skipped for moment in moments] == [0, 2, 3, 2]


def test_with_a_queue_every_second_comes(recorder: Recorder) -> None:
    recorder.shoots(range(20))
    moments = []
    for moment in islice(recorder.followed(queue=True), 4):
        moments.append(moment)
        recorder.sleep(3.5)
    assert frames(moments) == [0, 1, 2, 3]
    assert [moment.behind_s for moment in moments] == [0, 2, 5, 7]
    assert not any(moment.skipped for moment in moments)


def test_who_comes_late_begins_with_the_newest_second(recorder: Recorder) -> None:
    for second in range(50):
        recorder.shoot(second)
    moment = next(iter(recorder.followed()))
    assert frames([moment]) == [49]
    assert not moment.skipped
    assert recorder.told == ["000049: begins here; --queue answers what was recorded before, too"]
    assert frames(list(islice(recorder.followed(queue=True), 3))) == [0, 1, 2]


def test_who_comes_late_does_not_look_at_the_whole_take(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a camera was missing, all pictures of hours were read before the first second was answered."""
    for second in range(100):
        recorder.shoot(second, "ceiling", "glasses")
    looked_at: set[str] = set()
    look = Parts.look

    def counted(self: Parts, element: Element) -> Look:
        looked_at.add(element.frame_id)
        return look(self, element)

    monkeypatch.setattr(Parts, "look", counted)
    moment = next(iter(recorder.followed()))
    assert frames([moment]) == [99]
    assert 1 <= recorder.now < 1.1  # the camera was waited for as ever
    assert min(looked_at) == "000089"


def test_numbers_that_are_left_out_are_passed_over(recorder: Recorder) -> None:
    recorder.shoots(range(3))
    recorder.shoots(range(40, 42))
    assert frames(list(islice(recorder.followed(), 5))) == [0, 1, 2, 40, 41]


def test_a_number_that_comes_again_is_not_answered_again(recorder: Recorder) -> None:
    recorder.shoots(range(4))
    moments = iter(recorder.followed())
    assert frames(list(islice(moments, 4))) == [0, 1, 2, 3]

    def begin_anew(second: int) -> None:
        recorder.shoot(second)
        for camera in ("ceiling", "door", "glasses"):  # files of these clocks are younger than the others
            os.utime(recorder.folder / "views" / camera / f"{second:06d}.jpg", ns=(1 << 61, 1 << 61))

    for second in range(4):
        recorder.at(4 + second, lambda second=second: begin_anew(second))
    recorder.at(20, lambda: recorder.shoot(4))
    assert frames([next(moments)]) == [4]
    (line,) = recorder.told
    assert line.startswith("the clock of the recorder went back from 000003 to 00000")


def test_a_camera_that_is_late_is_no_clock_that_goes_back(recorder: Recorder) -> None:
    """Where one camera wrote its picture of the second before last, the recorder's clock was said to be wrong."""
    recorder.shoots(range(4), "ceiling", "glasses")
    moments = iter(recorder.followed())
    assert frames(list(islice(moments, 4))) == [0, 1, 2, 3]

    def shoot_late() -> None:
        recorder.shoot(2, "door")
        os.utime(recorder.folder / "views" / "door" / "000002.jpg", ns=(1 << 61, 1 << 61))

    recorder.at(recorder.now + 1, shoot_late)
    recorder.at(recorder.now + 20, lambda: recorder.shoot(4))
    assert frames([next(moments)]) == [4]
    assert not any("clock" in line for line in recorder.told)


def test_a_folder_that_vanishes_and_comes_back(recorder: Recorder) -> None:
    recorder.shoots(range(3))
    aside = recorder.folder.with_name("aside")
    recorder.at(2.5, lambda: shutil.move(recorder.folder, aside))
    recorder.at(30, lambda: shutil.move(aside, recorder.folder))
    recorder.at(31, lambda: recorder.shoot(3))
    assert frames(list(islice(recorder.followed(), 4))) == [0, 1, 2, 3]
    assert [line.partition(": ")[2] for line in recorder.told] == [
        "has vanished; waiting for it for 60 s",
        "is there again",
    ]


def test_a_folder_that_is_a_link_to_a_disk_that_has_gone_is_waited_for(recorder: Recorder) -> None:
    disk, views = recorder.folder.parents[1] / "disk", recorder.folder / "views"
    disk.mkdir()
    views.symlink_to(disk)
    recorder.shoots(range(2))
    recorder.at(1.5, lambda: disk.rename(disk.with_name("gone")))
    recorder.at(30, lambda: disk.with_name("gone").rename(disk))
    recorder.at(31, lambda: recorder.shoot(2))
    assert frames(list(islice(recorder.followed(), 3))) == [0, 1, 2]
    (line,) = recorder.told
    assert "views: is a link to" in line
    assert line.endswith("waiting for it")


def test_a_disk_elsewhere_that_is_away_for_a_while(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder.shoots(range(4))
    source = recorder.followed()
    usual = source.parts.look

    def look(element: Element) -> Look:
        if 1 <= recorder.now < 2.5:
            raise OSError(errno.ESTALE, "Stale file handle")
        return usual(element)

    monkeypatch.setattr(source.parts, "look", look)
    assert frames(list(islice(source, 3))) == [0, 2, 3]
    assert [line.partition(": ")[2] for line in recorder.told] == [
        "has vanished; waiting for it for 60 s",
        "is there again",
    ]


def test_a_folder_that_vanishes_for_good_ends_with_one_line(recorder: Recorder) -> None:
    recorder.shoots(range(2))
    recorder.at(1.5, lambda: shutil.rmtree(recorder.folder))
    moments = iter(recorder.followed())
    assert frames(list(islice(moments, 2))) == [0, 1]
    with pytest.raises(UserError, match=r"soup: has vanished; mount or connect it again"):
        next(moments)
    assert GIVE_UP_S < recorder.now < GIVE_UP_S + 3
    assert len(recorder.told) == 1


def test_the_index_may_come_late(tmp_path: Path) -> None:
    recorder = house_recorder(tmp_path)
    description = (recorder.folder / "take.yaml").read_text()
    (recorder.folder / "take.yaml").unlink()
    recorder.shoot(0)
    recorder.at(5, lambda: write(recorder.folder / "take.yaml", description[:20]))  # half of it
    recorder.at(6, lambda: write(recorder.folder / "take.yaml", description))
    assert frames([next(iter(recorder.followed()))]) == [0]
    assert 6 <= recorder.now < 6.1
    (line,) = recorder.told
    assert line.endswith("takes/soup: waiting for take.yaml (has no index yet)")


def test_folders_of_no_take(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="MM-OR_data/nothing: no such folder"):
        next(iter(Recorder(tmp_path / "MM-OR_data" / "nothing").followed()))
    with pytest.raises(UserError, match=r"is no folder of a take; .* lie in .* or MM-OR_data/\{take\}"):
        take_of_folder(tmp_path / "elsewhere" / "001_PKA")
    # A recorder that names its takes as people do was told that the folder is in the wrong place.
    for folder in (write_house(tmp_path / "clinic") / "takes" / "Tag 1", tmp_path / "MM-OR_data" / "039 ä"):
        with pytest.raises(UserError, match=r"not read because of its name: take names have letters, .*; rename it"):
            take_of_folder(folder)
    with pytest.raises(UserError, match=r"takes of domain kitchen lie in takes/\{take\}"):
        take_of_folder(tmp_path / "clinic" / "records" / "soup")


def test_a_folder_that_is_told_from_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`../002_PKA`, where one is in the take before: the folder above it was called `..`."""
    here, there = (tmp_path / "MM-OR_data" / name for name in ("001_PKA", "002_PKA"))
    for folder in (here, there):
        folder.mkdir(parents=True)
    monkeypatch.chdir(here)
    recorded = take_of_folder(Path("../002_PKA"))
    assert (recorded.take.name, recorded.root) == ("002_PKA", tmp_path / "MM-OR_data")


class MmorRecorder(Recorder):
    """Of a take in MM-OR's layout: the index is written anew with each second."""

    def __init__(self, root: Path) -> None:
        super().__init__(root / "MM-OR_data" / "001_PKA")
        self.folder.mkdir(parents=True)
        self.index: list[list[object]] = []

    def add(self, time: int, frame: int) -> None:
        """Another second with one picture."""
        write(self.folder / "colorimage" / f"camera01_colorimage-{frame:06d}.jpg", JPEG)
        self.index.append([f"{time:06d}", {"azure": frame}])
        write(self.folder / "timestamp_to_pcd_and_frames_list.json", self.index)


def test_an_index_that_grows(tmp_path: Path) -> None:
    recorder = MmorRecorder(tmp_path)
    for position, time in enumerate([7, 8, 9]):
        recorder.at(position, lambda position=position, time=time: recorder.add(time, 100 + position))
    half = json.dumps([["000007", {}], ["000008", {}]])[:20]
    recorder.at(2.2, lambda: write(recorder.folder / "timestamp_to_pcd_and_frames_list.json", half))
    recorder.at(2.5, lambda: recorder.add(10, 103))
    moments = list(islice(recorder.followed(queue=True), 4))
    assert frames(moments) == [0, 1, 2, 3]
    assert [moment.at_s for moment in moments] == [7, 8, 9, 10]
    assert moments[3].look.timepoint.views["1"].name == "camera01_colorimage-000103.jpg"


def test_a_clock_that_jumps_back_is_told_once(tmp_path: Path) -> None:
    recorder = MmorRecorder(tmp_path)
    for position, time in enumerate([5, 6, 3, 4, 7]):
        recorder.at(position, lambda position=position, time=time: recorder.add(time, 100 + position))
    moments = list(islice(recorder.followed(queue=True), 3))
    assert frames(moments) == [0, 1, 4]
    assert [moment.at_s for moment in moments] == [5, 6, 7]
    lines = [line for line in recorder.told if "clock" in line]
    assert lines == [
        "the clock of the recorder went back from 000006 to 000003; each second is answered once, so the next one is "
        "the first after 000006"
    ]


def test_a_tracker_that_stops_costs_the_tracker(tmp_path: Path) -> None:
    recorder = MmorRecorder(tmp_path)
    tool = {"unique_id": "8000050", "button_state": 0, "Translation": [1, 2, 3], "euler_rot": [0, 0, 0]}
    tracks = recorder.folder.parent / "take_tracks" / "001_PKA.json"
    for second in range(10):
        recorder.at(second, lambda second=second: recorder.add(second, second))
        if second < 4:
            known = [{"unique_id_dicts": [tool], "n": n} for n in range(second + 1)]
            recorder.at(second, lambda known=known: write(tracks, known))
    recorder.at(3.5, lambda: write(tracks, "[{"))  # it ends in the middle of a line
    has = []
    for moment in answered(recorder.followed(queue=True, inputs=("views", "tracker")), 10):
        has.append(moment.look.timepoint.tracker is not None)
        assert moment.look.timepoint.views
    assert has == [True] * 4 + [False] * 6
    assert [line for line in recorder.told if "in a row without" in line and "tracker," not in line][-1:] == [
        "000006: 3 timepoints in a row without tracker; going on without, until that is there again"
    ]
    assert sum("goes on without tracker: " in line for line in recorder.told) == 1


def test_an_older_second_has_its_tracker_though_a_newer_one_was_looked_at_before(tmp_path: Path) -> None:
    """The newest second is looked at first; where it is not ready, one before it is, and the file has both."""
    recorder = MmorRecorder(tmp_path)
    tool = {"unique_id": "8000050", "button_state": 0, "Translation": [1, 2, 3], "euler_rot": [0, 0, 0]}
    tracks = recorder.folder.parent / "take_tracks" / "001_PKA.json"
    write(tracks, [{"unique_id_dicts": [tool]}] * 4)
    for second in range(4):
        recorder.at(second, lambda second=second: recorder.add(second, second))
    source = recorder.followed(inputs=("views", "tracker"))
    assert len(list(answered(source, 4))) == 4  # cameras that are not there are waited for no more
    write(tracks, [{"unique_id_dicts": [tool]}] * 6)
    newer = [f"{time:06d}" for time in (4, 5)]
    write(
        recorder.folder / "timestamp_to_pcd_and_frames_list.json",
        [*recorder.index, *([time, {"azure": int(time)}] for time in newer)],
    )
    write(recorder.folder / "colorimage" / "camera01_colorimage-000004.jpg", JPEG)  # that of 000005 comes late
    moment = next(iter(source))
    assert moment.look.timepoint.time == "000004"
    assert moment.look.timepoint.tracker is not None


def test_the_folder_for_the_lines_is_made(tmp_path: Path) -> None:
    """As by every other command; before, it had to be there."""
    out = tmp_path / "today" / "graphs.jsonl"
    result = CliRunner().invoke(app, ["live", str(tmp_path / "no_take"), "--out", str(out)])
    assert "no_take" in str(result.exception)
    assert out.parent.is_dir()
