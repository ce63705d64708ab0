"""The page of `mmor report`: what a reader finds in it, and what becomes of files that are none."""

from __future__ import annotations

import csv
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmor.reports.page import LIMIT, write_report
from mmor.reports.pictures import Album
from mmor.reports.seconds import take_seconds
from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.files.atomic import write_json
from operating_room.graphs.graph_files import load_samples
from operating_room.graphs.scene_graph import Sample, Triplet
from operating_room.recordings.conversion import convert
from operating_room.recordings.dataset import Dataset
from operating_room.scores.comparison import compare
from operating_room_simulator.writer import synthesize
from tests.mmor.reports.results_files import TAKES, changed, graph_results, mask_results, page_of, task_results
from tests.operating_room.graphs import random_samples

TAKE = mmor().find_take("004_PKA")
SAID = "</p><script>alert(1)</script><!--<script> & \u2028 \"quoted\" 'too' ]]> __DATA__"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, list[Sample]]:
    """A short simulated take in which somebody says markup, and three timepoints that differ."""
    root = tmp_path_factory.mktemp("report")
    synthesize(root, [TAKE], 40, 3, size=(32, 24))
    convert(Dataset(root), root)
    take = Dataset(root).take(TAKE)
    for frame in range(40):
        path = take.path("transcript", frame_id=f"{frame:06d}", time=f"{frame:06d}")
        assert path is not None
        write_json(path, {"text": SAID})
    return Dataset(root), load_samples(root / "relationships_test.json")[6:37:15]


class _Tags(HTMLParser):
    """Elements and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_one_page_of_all_kinds_needs_no_other_file_and_no_script(
    tmp_path: Path, recorded: tuple[Dataset, list[Sample]]
) -> None:
    dataset, samples = recorded
    files = graph_results(tmp_path / "g.json", 2, samples), mask_results(tmp_path / "m.json")
    page = page_of(tmp_path, *files, task_results(tmp_path / "t.json"), album=Album(dataset))
    tags = _Tags(page).tags
    assert not [tag for tag, _ in tags if tag in ("script", "link", "iframe", "object")]
    links = [value for _, attributes in tags for name in ("src", "href") if (value := attributes.get(name))]
    assert links
    assert all(link.startswith(("data:image/", "#")) for link in links)
    assert not re.search(r"url\((?!#)|@import|https?://", re.sub(r"github\.com/\S+", "", page))
    assert len(page.encode()) < LIMIT


def test_what_was_said_is_shown_as_text(tmp_path: Path, recorded: tuple[Dataset, list[Sample]]) -> None:
    """Fault 60: the page stayed empty when somebody was heard to say such a thing."""
    dataset, samples = recorded
    results = graph_results(tmp_path / "g.json", 2, samples)
    odd = changed(results, tmp_path / "odd.json", lambda r: r.update(notes=[SAID], about={"folder": SAID}))
    take = take_seconds(samples, {s.sample_id: s.triplets for s in samples}, Album(dataset), 1_000_000)
    page = page_of(tmp_path, odd, album=Album(dataset), title=SAID, about=SAID, before=[take])
    found = _Tags(page)
    assert found.text.count(SAID) >= 6
    assert page.rstrip().endswith("</main></body></html>")
    assert "script" not in {tag for tag, _ in found.tags}


def test_the_numbers_are_those_of_the_file_in_page_and_csv(tmp_path: Path) -> None:
    results = graph_results(tmp_path / "g.json")
    content = json.loads(results.read_text())
    page = page_of(tmp_path, results, csv=tmp_path / "csv")
    text = _Tags(page).text
    assert f"{content['overall']['macro']['f1-score']:.3f}" in text
    with (tmp_path / "csv" / "predicates.csv").open() as file:
        rows = {row["predicate"]: row for row in csv.DictReader(file)}
    stored = content["overall"]["predicates"]
    assert rows.keys() == set(content["overall"]["macro_over"])
    assert all(float(row["F1"]) == stored[name]["f1-score"] for name, row in rows.items())
    assert all(int(row["support"]) == stored[name]["support"] for name, row in rows.items())
    with (tmp_path / "csv" / "segments.csv").open() as file:
        segments = {row["predicate"]: row for row in csv.DictReader(file)}
    assert float(segments["all"]["F1@50"]) == content["triplets"]["segments"]["all"]["f1@50"]
    with (tmp_path / "csv" / "time_lines.csv").open() as file:
        lines = list(csv.DictReader(file))
    for key, drawn in (("truth", ("true",)), ("predicted", ("right", "wrong"))):
        of_holding = [one for one in lines if one["predicate"] == "holding" and one["what"] in drawn]
        graphs = [sample[key] for sample in content["samples"].values()]
        assert sum(int(one["timepoints"]) for one in of_holding) == sum(
            any("holding" in triplet for triplet in graph) for graph in graphs
        )
    for name in ("confusion", "calibration", "delays", "hallucinations", "worst_seconds", "takes", "entities"):
        assert (tmp_path / "csv" / f"{name}.csv").stat().st_size


def test_a_file_of_a_version_ago_gets_the_same_numbers_from_its_timepoints(tmp_path: Path) -> None:
    new = graph_results(tmp_path / "g.json")
    old = changed(new, tmp_path / "old.json", lambda r: r.pop("triplets"))
    page_of(tmp_path, new, csv=tmp_path / "a")
    page = page_of(tmp_path, old, csv=tmp_path / "b")
    assert "of an older version" in page
    for name in ("segments", "delays", "calibration", "like_with_like"):
        assert (tmp_path / "a" / f"{name}.csv").read_text() == (tmp_path / "b" / f"{name}.csv").read_text()


def test_a_file_without_timepoints_says_what_is_missing(tmp_path: Path) -> None:
    def older(results: dict[str, Any]) -> None:
        for key in ("triplets", "samples", "modalities"):
            results.pop(key)

    page = page_of(tmp_path, changed(graph_results(tmp_path / "g.json"), tmp_path / "o.json", older))
    assert page.count("The results file holds no timepoints") == 3
    assert "Not known: predictions came as a file" in page


def test_egoexor_s_score_stands_beside_ours(tmp_path: Path) -> None:
    scores = {"f1_official": {"all": {"macro_f1": 0.123}}, "f1_truth": {"all": {"macro_f1": 0.456}}}
    told = {"egoexor": {"definitions": {"differ": "They differ."}, **scores}}
    page = page_of(tmp_path, changed(graph_results(tmp_path / "g.json"), tmp_path / "e.json", lambda r: r.update(told)))
    assert re.search(r"They differ\..*f1_official.*0\.123.*0\.456", page, re.DOTALL)


def test_two_results_are_compared_and_chance_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    good, bad = graph_results(tmp_path / "a" / "r.json", 50), graph_results(tmp_path / "b" / "r.json", 1)
    page = page_of(tmp_path, good, bad, csv=tmp_path / "csv")
    assert "a/r.json and b/r.json" in page
    with (tmp_path / "csv" / "a_r_json_and_b_r" / "change_predicates.csv").open() as file:
        rows = {row["score"]: row for row in csv.DictReader(file)}
    assert float(rows["macro f1-score"]["change"]) < 0
    assert rows["macro f1-score"]["more than chance"] == "yes"
    with (tmp_path / "csv" / "a_r_json_and_b_r" / "change_triplets.csv").open() as file:
        others = {row["measure"]: float(row["change"]) for row in csv.DictReader(file) if row["change"]}
    assert others["F1 of whole triplets"] < 0
    assert (tmp_path / "csv" / "b_r" / "predicates.csv").exists()


def test_the_paper_s_mean_over_all_classes_stands_beside_its_published_numbers(tmp_path: Path) -> None:
    def seldom(results: dict[str, Any]) -> None:
        results["tasks"]["robot_phase"]["model"]["overall"]["macro avg"] |= {"f1-score": 0.111}

    path = changed(task_results(tmp_path / "all.json"), tmp_path / "t.json", seldom)
    assert "is how MM-OR's paper" in page_of(tmp_path, path, csv=tmp_path / "csv").replace("&#x27;", "'")
    with (tmp_path / "csv" / "tasks.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["macro F1"], row["macro F1 over all classes"]) == ("1.0", "0.111")


def test_one_block_does_not_tell_chance_on_the_page_either(tmp_path: Path) -> None:
    """As `mmor compare` of the same files says: `of one block: chance unknown`."""
    few = random_samples(20, 1, TAKES[:1])
    good, bad = graph_results(tmp_path / "a.json", 50, few), graph_results(tmp_path / "b.json", 1, few)
    assert "of one block: chance unknown" in str(compare(good, bad, mmor()))
    page_of(tmp_path, good, bad, csv=tmp_path / "csv")
    with (tmp_path / "csv" / "a_json_and_b" / "change_predicates.csv").open() as file:
        assert {row["more than chance"] for row in csv.DictReader(file)} == {"unknown"}


def test_pictures_shrink_and_go_before_the_page_is_too_large(
    tmp_path: Path, recorded: tuple[Dataset, list[Sample]]
) -> None:
    dataset, samples = recorded
    results = graph_results(tmp_path / "g.json", 1, samples)
    bare = page_of(tmp_path, results)
    assert "Without pictures" in bare
    assert "<img" not in bare
    whole = page_of(tmp_path, results, album=Album(dataset))
    assert whole.count("<img") == 4 * len(samples)
    small = page_of(tmp_path, results, album=Album(dataset), limit=len(bare.encode()) + 5_000)
    assert len(small.encode()) <= len(bare.encode()) + 5_000
    assert "<img" not in small
    timepoint = Album(dataset).timepoint(samples[0])
    assert timepoint is not None
    counts = []
    for budget in (1_000_000, 3_000, 1_500, 100):
        views, _ = Album(dataset).fitting(timepoint, budget)
        assert sum(len(view.picture) for view in views) <= budget
        counts.append(len(views))
    assert counts == sorted(counts, reverse=True)
    assert (counts[0], counts[-1]) == (4, 0)
    with pytest.raises(UserError, match="would be larger than"):
        page_of(tmp_path, results, limit=10_000)


def test_masks_of_another_shape_than_their_picture_are_told(
    tmp_path: Path, recorded: tuple[Dataset, list[Sample]]
) -> None:
    dataset, samples = recorded
    said = {sample.sample_id: sample.triplets for sample in samples}
    camera = next(path for s in samples for path in getattr(Album(dataset).timepoint(s), "views", {}).values())
    Image.new("RGB", (320, 32)).save(tmp_path / "odd.png")
    html = take_seconds(samples, said, Album(dataset, {camera: tmp_path / "odd.png"}), 10_000_000).html("a")
    assert html.count("odd.png: is 320x32 px, its picture") == 1


def test_a_take_second_by_second(recorded: tuple[Dataset, list[Sample]]) -> None:
    dataset, samples = recorded
    said = {sample.sample_id: sample.triplets for sample in samples}
    html = take_seconds(samples, said, Album(dataset), 10_000_000).html("a")
    assert [html.index(f"timepoint {s.frame_id}") for s in samples] == sorted(
        html.index(f"timepoint {s.frame_id}") for s in samples
    )
    assert html.count("<figcaption>room 1<") == len(samples)
    assert "annotated" in html
    assert html.count("✓ ") >= sum(len(set(s.triplets)) for s in samples)
    assert not re.search(r'class="(missed|wrong)"', html)
    one = take_seconds(samples, said, Album(dataset), len(html) // 2).html("a")
    assert f"timepoint {samples[1].frame_id}" in one  # the middle comes first
    assert "1 of 3 timepoints" in one


def test_a_broken_picture_costs_itself(tmp_path: Path, recorded: tuple[Dataset, list[Sample]]) -> None:
    dataset, samples = recorded
    results = graph_results(tmp_path / "g.json", 1, samples)
    album = Album(dataset)
    timepoint = album.timepoint(samples[0])
    assert timepoint is not None
    picture = timepoint.views["1"]
    whole = picture.read_bytes()
    try:
        picture.write_bytes(whole[: len(whole) // 2])
        page = page_of(tmp_path, results, album=Album(dataset))
    finally:
        picture.write_bytes(whole)
    assert f"Left out: {picture}" in page
    assert page.count("<img") == 4 * len(samples) - 1  # and not the others of its second


def test_files_that_are_no_results_are_told_what_to_do(tmp_path: Path, recorded: tuple[Dataset, list[Sample]]) -> None:
    results = graph_results(tmp_path / "g.json")
    predicted = tmp_path / "g.predictions.json"
    advice = f"score them first: `mmor scene-graph evaluate --predictions {predicted} --out results.json`"
    with pytest.raises(UserError, match=f"holds predictions, not results; {re.escape(advice)}"):
        page_of(tmp_path, predicted)
    (tmp_path / "pred.json").write_text(json.dumps({"annotations": [{"video_id": "a"}]}))
    with pytest.raises(UserError, match="masks as they were predicted"):
        page_of(tmp_path, tmp_path / "pred.json")
    with pytest.raises(UserError, match="given twice"):
        page_of(tmp_path, results, tmp_path / "." / "g.json")
    other = changed(results, tmp_path / "e.json", lambda r: r["about"].update(domain="egoexor"))
    with pytest.raises(UserError, match="is about the domain egoexor, not mmor"):
        page_of(tmp_path, results, other)
    with pytest.raises(UserError, match="would replace"):
        write_report([results], results)
    with pytest.raises(UserError, match="none of the takes of the results is there"):
        page_of(tmp_path, results, album=Album(recorded[0]))
    (tmp_path / "cut.json").write_text(results.read_text()[:-200])
    with pytest.raises(UserError, match=r"cut\.json"):
        page_of(tmp_path, tmp_path / "cut.json")


@pytest.mark.parametrize(
    ("modality", "content"),
    [("robot_screen", {"0": {"type": "text"}}), ("tracks", b"[{"), ("tracks", [{"ids": []}] * 40)],
)
def test_an_odd_record_costs_itself(
    recorded: tuple[Dataset, list[Sample]], tmp_path: Path, modality: str, content: Any
) -> None:
    dataset, samples = recorded
    data = tmp_path / "data"
    shutil.copytree(dataset.root, data)
    take = Dataset(data).take(TAKE)
    if modality == "tracks":
        path = take.path("tracks")
        assert path is not None
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    else:
        for timepoint in take.timepoints:
            for path in timepoint.several(modality).values():
                write_json(path, content)
    results = graph_results(tmp_path / "r.json", 1, samples)
    write_report([results], tmp_path / "page.html", album=Album(Dataset(data)))
    page = (tmp_path / "page.html").read_text()
    assert "Left out: " in _Tags(page).text
    assert page.count("<img") == 4 * len(samples)  # it cost the pictures of its second


def test_a_pause_of_the_recording_ends_a_stretch_of_the_time_lines(tmp_path: Path) -> None:
    """Nobody knows what was true in the ten minutes without timepoints."""
    holding = (Triplet("nurse", "saw", "holding"),)
    samples = [Sample("001_4DOR", f"{place:06d}", holding) for place in range(40)]
    path = graph_results(tmp_path / "r.json", 50, samples)
    content = json.loads(path.read_text())
    for place, record in enumerate(content["samples"].values()):
        record["at_s"] = float(place if place < 20 else place + 600)
    write_json(path, content)
    write_report([path], tmp_path / "page.html", csv=tmp_path / "csv")
    with (tmp_path / "csv" / "time_lines.csv").open() as file:
        rows = [[row["first, s"], row["last, s"], row["timepoints"]] for row in csv.DictReader(file)]
    assert rows == 2 * [["0.0", "19.0", "20"], ["620.0", "639.0", "20"]]  # true, and right


def test_time_lines_are_in_the_seconds_of_the_results(tmp_path: Path) -> None:
    path = graph_results(tmp_path / "r.json")
    ends = []
    for period in (1.0, 0.5):
        content = json.loads(path.read_text())
        for place, record in enumerate(content["samples"].values()):
            record["at_s"] = period * place
        write_json(path, content)
        write_report([path], tmp_path / "page.html", csv=tmp_path / "csv")
        with (tmp_path / "csv" / "time_lines.csv").open() as file:
            ends.append([float(row["last, s"]) for row in csv.DictReader(file)])
    assert ends[1] == [end / 2 for end in ends[0]]
