from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from operating_room.domain.domain import mmor
from operating_room.files.readers import read_subtitles
from operating_room.graphs.prompts import human_prompt
from operating_room_simulator.sensors.signals import (
    screen_picture,
    screen_summaries,
    srt_text,
    subtitles,
    tracker_track,
)
from operating_room_simulator.story.phrases import ANNOUNCED, PHRASES
from operating_room_simulator.story.steps import STEPS
from operating_room_simulator.story.story import Surgery, script_surgery


@pytest.fixture(scope="module")
def surgery() -> Surgery:
    return script_surgery(mmor().find_take("005_TKA"), 2, 150)


def _seconds(surgery: Surgery, person: str, predicate: str) -> list[int]:
    wanted = (person, predicate)
    return [m.second for m in surgery.moments if wanted in {(t.subject, t.predicate) for t in m.triplets}]


def test_the_screen_shows_who_calibrates(surgery: Surgery) -> None:
    summaries = screen_summaries(surgery)
    assert len(summaries) == len(surgery.moments)
    shown = [{part["template_name"] for part in summary.values()} for summary in summaries]
    calibrating = _seconds(surgery, "head_surgeon", "calibrating")
    assert sum("femur points" in shown[second] for second in calibrating) > 0.8 * len(calibrating)
    assert all(second in calibrating for second, names in enumerate(shown) if "femur points" in names)


@pytest.mark.parametrize("size", [(16, 160), (100, 480), (16, 8192)])
def test_tall_pictures_have_a_screen_too(surgery: Surgery, size: tuple[int, int]) -> None:
    """Its margins followed from the height alone: wider than the picture, they were no box."""
    assert {screen_picture(moment, *size).shape for moment in surgery.moments} == {(size[1], size[0], 3)}


def test_screen_pictures_differ_between_steps_and_not_within(surgery: Surgery) -> None:
    by_step = {moment.step: screen_picture(moment, 96, 64) for moment in surgery.moments}
    assert by_step["sawing"].shape == (64, 96, 3)
    assert np.abs(by_step["sawing"].astype(int) - by_step["calibration"].astype(int)).mean() > 5


def test_the_tracker_sees_tools_in_use(surgery: Surgery) -> None:
    track = tracker_track(surgery, start=2)
    assert len(track) == len(surgery.moments) + 2
    assert track[0]["unique_id_dicts"] == track[1]["unique_id_dicts"] == []
    seen = [{mmor().language.tools[tool["unique_id"]] for tool in entry["unique_id_dicts"]} for entry in track[2:]]
    nurse, surgeon = _seconds(surgery, "nurse", "calibrating"), _seconds(surgery, "head_surgeon", "calibrating")
    assert sum("calibration_array" in seen[second] for second in nurse) > 0.7 * len(nurse)
    assert sum("green_tip" in seen[second] for second in surgeon) > 0.7 * len(surgeon)
    assert all(second in surgeon for second, tools in enumerate(seen) if "green_tip" in tools)
    assert not any("upper_tracker" in tools for tools in seen[: surgeon[0] // 3])


def test_signals_fit_the_prompt(surgery: Surgery) -> None:
    track, summaries = tracker_track(surgery), screen_summaries(surgery)
    for second in (0, 70, 149):
        text = human_prompt(mmor().language, summaries[second], track[second], None, None)
        assert "<robot_metadata_start>: main: " in text


def test_subtitles_follow_each_other_and_survive_the_file(surgery: Surgery, tmp_path: Path) -> None:
    said = subtitles(surgery, start=3)
    assert len(said) > 20
    times = [time for subtitle in said for time in (subtitle.start_s, subtitle.end_s)]
    assert times == sorted(times)
    assert times[0] >= 3
    (tmp_path / "take.srt").write_text(srt_text(said), encoding="utf-8")
    assert read_subtitles(tmp_path / "take.srt") == said


def test_hidden_actions_are_announced() -> None:
    """What sensors hardly show is mentioned within the last four subtitles in most of its seconds."""
    for action in ("cementing", "scanning", "suturing"):
        heard = total = 0
        for take in mmor().collection("MMOR").published[:8]:
            surgery = script_surgery(take, 0, 120)
            said = subtitles(surgery)
            for second in {s for who in ("head_surgeon", "circulator") for s in _seconds(surgery, who, action)}:
                recent = [subtitle.text for subtitle in said if subtitle.end_s <= second][-4:]
                total += 1
                heard += any(text in PHRASES[action] for text in recent)
        assert heard > 0.7 * total > 0


def test_teams_talk_differently() -> None:
    texts = [
        {s.text for s in subtitles(script_surgery(take, 0, 200))} for take in mmor().collection("MMOR").published[:2]
    ]
    assert texts[0] != texts[1]


def test_topics_are_predicates_or_steps() -> None:
    assert set(PHRASES) <= {*mmor().language.predicates, *STEPS}
    assert set(ANNOUNCED) <= set(PHRASES)
