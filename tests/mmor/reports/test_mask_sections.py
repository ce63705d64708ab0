"""Sections about masks: the numbers of a video and of a category, and two results side by side."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from operating_room.errors import UserError
from tests.mmor.reports.results_files import changed, mask_results, page_of, task_results


def test_masks_and_tasks_are_compared_too(tmp_path: Path) -> None:
    masks = mask_results(tmp_path / "m1.json", 9), mask_results(tmp_path / "m2.json", 5)
    tasks = task_results(tmp_path / "t1.json"), task_results(tmp_path / "t2.json", "turn off")
    page_of(tmp_path, *masks, *tasks, csv=tmp_path / "csv")
    with (tmp_path / "csv" / "Masks_m1_json_and_m2" / "change_masks.csv").open() as file:
        rows = {row["category"]: row for row in csv.DictReader(file)}
    assert float(rows["patient"]["change"]) == 0
    assert rows["patient"]["more than chance"] == "no"
    assert float(rows["drill"]["change"]) < 0
    assert rows["drill"]["more than chance"] == "yes"
    stored = json.loads(masks[0].read_text())
    assert float(rows["VPQ"]["first"]) == pytest.approx(stored["vpq"])
    assert (tmp_path / "csv" / "t1_json_and_t2" / "change_robot_phase_model.csv").exists()


def test_a_class_that_only_one_of_two_invents_costs_its_vpq_in_the_comparison_too(tmp_path: Path) -> None:
    def invented(results: dict[str, Any]) -> None:
        for window in results["windows"].values():
            wrong = {"iou": 0.0, "tp": 0, "fp": 6, "fn": 0}
            window["per_video"]["001_PKA_2"]["saw"] = wrong
            window["per_class"]["saw"] = wrong | dict.fromkeys(("pq", "sq", "rq", "precision", "recall"), 0.0)
            window["average"]["pq"] *= 2 / 3
        results["vpq"] *= 2 / 3  # the mean over three categories

    first = mask_results(tmp_path / "m1.json")
    second = changed(first, tmp_path / "m2.json", invented)
    page = page_of(tmp_path, first, second, csv=tmp_path / "csv")
    with (tmp_path / "csv" / "Masks_m1_json_and_m2" / "change_masks.csv").open() as file:
        rows = {row["category"]: row for row in csv.DictReader(file)}
    for key, path in (("first", first), ("second", second)):
        assert float(rows["VPQ"][key]) == pytest.approx(json.loads(path.read_text())["vpq"])
    assert "true nowhere, so 0 in its VPQ: saw." in page
    assert "saw" not in rows


def test_a_video_shorter_than_a_window_has_no_score_over_it(tmp_path: Path) -> None:
    def short(results: dict[str, Any]) -> None:
        results["windows"]["8"]["per_video"]["001_PKA_2"] = {}

    path = changed(mask_results(tmp_path / "whole.json"), tmp_path / "m.json", short)
    assert "frames with anything on them" not in page_of(tmp_path, path, csv=tmp_path / "csv")
    with (tmp_path / "csv" / "videos.csv").open() as file:
        rows = {row["video"]: row for row in csv.DictReader(file)}
    assert float(rows["001_PKA_2"]["VPQ, 4 frames"]) > 0
    assert rows["001_PKA_2"]["VPQ, 8 frames"] == rows["001_PKA_2"]["VPQ"] == ""
    assert float(rows["001_PKA_1"]["VPQ"]) > 0
    none = changed(path, tmp_path / "none.json", lambda content: content.update(windows_of_no_video=[8]))
    (tmp_path / "page.html").unlink()
    assert "No video has 8 frames with anything on them: 0 in the VPQ" in page_of(tmp_path, none)


def test_draws_without_the_videos_of_a_category_do_not_count_as_no_change(tmp_path: Path) -> None:
    def in_two_videos(results: dict[str, Any]) -> None:
        for window in results["windows"].values():
            del window["per_video"]["001_PKA_3"]["drill"]

    three = mask_results(tmp_path / "three1.json", 9), mask_results(tmp_path / "three2.json", 5)
    two = [changed(path, tmp_path / f"m{number}.json", in_two_videos) for number, path in enumerate(three, 1)]
    page_of(tmp_path, *two, csv=tmp_path / "csv")
    with (tmp_path / "csv" / "Masks_m1_json_and_m2" / "change_masks.csv").open() as file:
        rows = {row["category"]: row for row in csv.DictReader(file)}
    # Of both videos the same is lost: that is the change whichever of them are drawn.
    assert float(rows["drill"]["from"]) == pytest.approx(float(rows["drill"]["to"]))
    assert float(rows["drill"]["to"]) == pytest.approx(float(rows["drill"]["change"]))
    assert rows["drill"]["more than chance"] == "yes"


def test_one_video_does_not_tell_chance(tmp_path: Path) -> None:
    def only_first(results: dict[str, Any]) -> None:
        for window in results["windows"].values():
            window["per_video"] = {"001_PKA_1": window["per_video"]["001_PKA_1"]}

    three = mask_results(tmp_path / "three1.json", 9), mask_results(tmp_path / "three2.json", 5)
    one = [changed(path, tmp_path / f"m{number}.json", only_first) for number, path in enumerate(three, 1)]
    page_of(tmp_path, *one, csv=tmp_path / "csv")
    with (tmp_path / "csv" / "Masks_m1_json_and_m2" / "change_masks.csv").open() as file:
        rows = {row["category"]: row for row in csv.DictReader(file)}
    assert float(rows["drill"]["change"]) < 0
    assert {row["more than chance"] for row in rows.values()} == {"unknown"}


def test_masks_of_other_frames_are_not_compared(tmp_path: Path) -> None:
    """`--limit`, or corrected annotations: the same videos, and other true tubes in them."""

    def fewer(content: dict[str, Any]) -> None:
        content["windows"]["4"]["per_video"]["001_PKA_2"]["drill"]["fn"] -= 1

    whole = mask_results(tmp_path / "m1.json", 5)
    part = changed(whole, tmp_path / "m2.json", fewer)
    with pytest.raises(UserError, match=r"scored on other frames or annotated masks, first of 001_PKA_2; evaluate"):
        page_of(tmp_path, whole, part)


def test_what_masks_were_not_scored_is_told(tmp_path: Path) -> None:
    whole = mask_results(tmp_path / "m.json")
    lost = [f"video 001_PKA_{camera} is not scored: broken" for camera in range(4, 16)]
    part = changed(whole, tmp_path / "part.json", lambda content: content.update(left_out=lost))
    assert "Not all was scored" not in page_of(tmp_path, whole)
    (tmp_path / "page.html").unlink()
    assert "Not all was scored: video 001_PKA_4 is" in page_of(tmp_path, part)
    assert "(and 2 more)" in (tmp_path / "page.html").read_text()
