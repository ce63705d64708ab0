"""What the server of the page answers."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from mmor.viewer.cache import Cache
from mmor.viewer.pictures import WIDTHS
from mmor.viewer.sensors import FRUSTUM, MOST_POINTS, MOST_SEEN, cloud, seen
from mmor.viewer.takes import Shown, open_shown
from operating_room.domain.domain import mmor
from operating_room.files.camera_files import Calibration, read_camera
from operating_room.files.readers import picture_size, read_audio, read_label_mask, read_point_cloud
from operating_room.recordings.dataset import Dataset
from operating_room_simulator.writer import Faults, synthesize
from tests.mmor.viewer.conftest import (
    MARKUP,
    MARKUP_AT,
    OF_TAKE,
    SECONDS,
    TAKE,
    WRONG,
    WRONG_FROM,
    Folder,
    ask,
    local,
    problem,
)
from tests.operating_room.tiny_house import write_house


def test_the_page_and_all_that_it_loads_come_from_the_server(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert "https://" not in page.text
    for name in ("viewer.js", "viewer.css", "three/three.module.min.js", "three/OrbitControls.js", "three/LICENSE"):
        assert client.get(f"/static/{name}").status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    assert "<script>" not in page.text
    assert "style=" not in page.text


def test_takes_are_listed_with_the_one_to_begin_with(client: TestClient) -> None:
    found = ask(client, "/api/takes")
    assert found["first"] == TAKE.sample_name
    assert [(take["title"], take["dataset"], take["splits"]) for take in found["takes"]] == [
        ("004_PKA", "MM-OR", ["test"])
    ]


def test_a_take_says_what_the_page_must_know(client: TestClient) -> None:
    take = ask(client, OF_TAKE)
    assert take["frame_ids"] == [f"{position:06d}" for position in range(SECONDS)]
    assert len(take["times"]) == SECONDS
    assert take["masks"] == ["truth", "masks"]
    assert take["graphs"] == ["wrong", "right"]
    assert take["sound"] is True
    assert take["categories"][0]["name"] == "__background__"


def test_a_second_holds_what_was_recorded_and_said(client: TestClient, shown: Shown) -> None:
    second = ask(client, f"{OF_TAKE}/{WRONG_FROM}?width=320&of=truth&of=masks")
    timepoint = shown.take(TAKE.sample_name).recorded.timepoints[WRONG_FROM]
    assert [view["camera"] for view in second["views"]] == list(timepoint.views)
    masks = {view["camera"]: view["masks"] for view in second["views"]}
    assert masks["1"] == ["truth", "masks"]
    assert masks["simstation0"] == ["truth"]
    assert masks["trackercam"] == []
    assert second["cloud"] is True
    assert second["problems"] == []
    assert second["screen"].startswith("main: ")
    wrong, right = second["graphs"]["wrong"]["triplets"], second["graphs"]["right"]["triplets"]
    assert [*WRONG, "wrong"] in wrong
    assert {row[3] for row in right} == {"right"}
    assert sorted(row[:3] for row in right) == sorted(second["truth"])


def test_pictures_come_in_the_asked_size_and_no_larger_than_they_are(client: TestClient, folder: Folder) -> None:
    for width in WIDTHS:
        answer = client.get(f"{OF_TAKE}/3/views/1?width={width}")
        assert answer.headers["content-type"] == "image/jpeg"
        assert Image.open(io.BytesIO(answer.content)).size == (64, 48)
    assert "choose one of 320" in problem(client, f"{OF_TAKE}/3/views/1?width=321")


def test_a_picture_that_is_known_is_not_sent_again(client: TestClient) -> None:
    first = client.get(f"{OF_TAKE}/3/views/1")
    again = client.get(f"{OF_TAKE}/3/views/1", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("of", ["truth", "masks"])
def test_masks_have_the_colours_of_their_categories(client: TestClient, shown: Shown, of: str) -> None:
    answer = client.get(f"{OF_TAKE}/4/masks/1?of={of}")
    image = Image.open(io.BytesIO(answer.content))
    timepoint, labels = shown.take(TAKE.sample_name).recorded.timepoints[4], shown.domain.labels
    categories = labels.label_to_category[read_label_mask(timepoint.several("label_masks")["1"])]
    assert np.array_equal(np.asarray(image), categories)
    pixels = np.asarray(image.convert("RGBA"))
    assert np.array_equal(pixels[..., :3][categories > 0], labels.colors[categories][categories > 0])
    assert np.array_equal(pixels[..., 3] == 0, categories == 0)  # one looks through the background


def test_a_second_between_annotated_ones_has_no_true_mask(client: TestClient) -> None:
    assert "has no such mask" in problem(client, f"{OF_TAKE}/3/masks/1?of=truth")


def test_the_cloud_is_that_of_the_file(client: TestClient, shown: Shown) -> None:
    content = client.get(f"{OF_TAKE}/4/cloud").content
    path = shown.take(TAKE.sample_name).recorded.timepoints[4].one("point_cloud")
    assert path is not None
    points = read_point_cloud(path)
    count = len(content) // 15
    assert count == len(points)
    assert np.array_equal(np.frombuffer(content, "<f4", 3 * count).reshape(-1, 3), points[:, :3])
    assert np.allclose(
        np.frombuffer(content, np.uint8, offset=12 * count).reshape(-1, 3) / 255, points[:, 3:], atol=2e-3
    )


def test_a_camera_sees_of_the_cloud_what_its_file_says(client: TestClient, shown: Shown) -> None:
    viewed = shown.take(TAKE.sample_name)
    cloud_file, camera_file = viewed.recorded.timepoints[4].one("point_cloud"), viewed.recorded.camera_file("2")
    assert cloud_file is not None
    assert camera_file is not None
    pixels, depth = read_camera(camera_file).color.project(read_point_cloud(cloud_file)[:, :3].astype(float))
    within = np.isfinite(pixels[:, 0])
    seen = np.frombuffer(client.get(f"{OF_TAKE}/4/seen/2").content, "<u2").reshape(-1, 3)
    assert 100 < len(seen) == within.sum()
    assert (np.diff(seen[:, 2].astype(int)) <= 0).all()  # far ones first
    expected = np.column_stack([(pixels[within] + 0.5) / [64, 48] * 65536, depth[within] * 1000])
    assert np.abs(seen - expected[np.argsort(-expected[:, 2])]).max() <= 1
    assert "no usable camera file" in problem(client, f"{OF_TAKE}/4/seen/simstation0")


def test_cameras_stand_where_their_files_say_and_a_broken_one_costs_itself(folder: Folder, tmp_path: Path) -> None:
    shutil.copytree(folder.data, tmp_path / "data")
    client = local(open_shown(Dataset(tmp_path / "data"), TAKE))
    found = ask(client, f"{OF_TAKE}/lenses")
    assert (sorted(found["frustums"]), found["problems"]) == (["1", "2", "3", "4", "5"], [])
    recorded = Dataset(tmp_path / "data").take(TAKE)
    files = [recorded.camera_file(camera) for camera in "12345"]
    assert files[0] is not None
    lens = read_camera(files[0]).color
    corners = np.array(found["frustums"]["1"])
    assert np.allclose(corners[0], lens.pose[:3, 3], atol=1e-3)
    pixels, depth = lens.project(0.99 * corners[1:] + 0.01 * corners[1:].mean(0))  # a little within
    assert np.allclose(depth, FRUSTUM, atol=1e-3)
    assert np.allclose(pixels, [[-0.5, -0.5], [63.5, -0.5], [63.5, 47.5], [-0.5, 47.5]], atol=0.5)
    files[0].write_text("{}")
    found = ask(local(open_shown(Dataset(tmp_path / "data"), TAKE)), f"{OF_TAKE}/lenses")
    assert sorted(found["frustums"]) == ["2", "3", "4", "5"]
    assert [str(files[0]) in told for told in found["problems"]] == [True]
    for path in files:
        assert path is not None
        path.unlink()
    found = ask(local(open_shown(Dataset(tmp_path / "data"), TAKE)), f"{OF_TAKE}/lenses")
    assert found == {"frustums": {}, "problems": []}


def test_many_points_are_thinned(tmp_path: Path) -> None:
    points = np.random.default_rng(0).uniform(-1, 1, (3 * MOST_POINTS, 3)).astype(np.float32)
    np.savez(tmp_path / "cloud.npz", points=points, colors=np.zeros((len(points), 3), np.uint8))
    pose = np.eye(4)
    pose[2, 3] = -5
    lens = Calibration(np.array([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]]), np.zeros(8), pose, (64, 48))
    cache = Cache(1 << 24)
    assert len(cloud(tmp_path / "cloud.npz", cache)) == 15 * MOST_POINTS
    seen_points = len(seen(tmp_path / "cloud.npz", "1", lens, cache)) // 6
    assert MOST_SEEN / 2 < seen_points <= MOST_SEEN


def test_sound_is_sent_in_parts_as_players_ask_for_it(client: TestClient, shown: Shown) -> None:
    recording = shown.take(TAKE.sample_name).recorded.path("recording")
    assert recording is not None
    part = client.get(f"{OF_TAKE}/sound", headers={"Range": "bytes=100-199"})
    assert part.status_code == 206
    assert part.headers["content-type"] == "audio/mpeg"
    assert part.content == recording.read_bytes()[100:200]


def test_the_waveform_has_the_loudest_sample_of_each_tenth_of_a_second(client: TestClient, shown: Shown) -> None:
    recording = shown.take(TAKE.sample_name).recorded.path("recording")
    assert recording is not None
    samples, rate = read_audio(recording)
    found = np.frombuffer(client.get(f"{OF_TAKE}/waveform").content, np.uint8)
    length = rate // 10
    loud = np.abs(samples).max(axis=1)
    expected = [min(1.0, loud[start : start + length].max()) * 255 for start in range(0, len(loud), length)]
    assert len(found) == len(expected)
    assert np.abs(found - expected).max() <= 0.5 + 1e-3


def test_memory_and_prompt_are_those_of_the_graphs_before(client: TestClient) -> None:
    texts = ask(client, f"{OF_TAKE}/{WRONG_FROM + 1}/texts")
    remembered = ",".join(WRONG)
    assert remembered in texts["wrong"]["memory"]
    assert remembered not in texts["right"]["memory"]
    assert texts["right"]["memory"] == texts["truth"]["memory"]
    assert texts["wrong"]["memory"] in texts["wrong"]["prompt"]
    assert ",".join(WRONG) in texts["wrong"]["answer"]
    assert texts["right"]["answer"] is None  # no texts lie beside these predictions


def test_the_time_line_knows_errors_and_disagreements(client: TestClient) -> None:
    found = ask(client, f"{OF_TAKE}/timeline")
    wrong, right = found["graphs"]["wrong"], found["graphs"]["right"]
    assert wrong["errors"] == {"holding": list(range(WRONG_FROM, SECONDS))}
    assert right["errors"] == {}
    assert right["predicates"] == found["truth"]
    assert found["disagreements"] == wrong["errors"]
    assert found["labelled"] == [[0, SECONDS]]


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("/api/takes/nobody", "no take 'nobody'"),
        ("/api/takes/..%2F..%2Fetc/0", ""),
        ("/api/takes/../0", ""),
        (f"{OF_TAKE}/{SECONDS}", f"only 0 to {SECONDS - 1}"),
        (f"{OF_TAKE}/3/views/9", "no picture of that camera"),
        (f"{OF_TAKE}/3/views/..%2f..%2fclasses.txt", ""),
        (f"{OF_TAKE}/4/masks/1?of=/etc/passwd", "no such mask"),
        ("/api/live", "mmor view --live"),
    ],
)
def test_what_is_not_there_is_said(client: TestClient, url: str, told: str) -> None:
    answer = client.get(url)
    assert answer.status_code == 404
    assert told in answer.text


@pytest.mark.parametrize("path", ["/static/../server.py", "/static/%2e%2e/server.py", "/static/..%2fserver.py"])
def test_nothing_beside_the_page_is_served(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_nothing_can_be_changed(client: TestClient) -> None:
    assert client.post("/api/takes").status_code == 405


def test_markup_in_a_transcript_stays_text(client: TestClient) -> None:
    answer = client.get(f"{OF_TAKE}/{MARKUP_AT}")
    assert answer.json()["words"] == MARKUP
    assert "<" not in client.get(f"{OF_TAKE}/{MARKUP_AT + 1}").json()["words"]  # not prepared: of the subtitles
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_take_without_room_cameras_and_one_whose_camera_ends_early(tmp_path: Path) -> None:
    takes = [mmor().find_take("004_PKA"), mmor().find_take("011_TKA")]
    synthesize(tmp_path, takes, 40, 3, size=(32, 24), faults=Faults(no_room_cameras=("004_PKA",)))
    shown = open_shown(Dataset(tmp_path))
    late = [timepoint.views["2"] for timepoint in shown.take("011_TKA_MMOR").recorded.timepoints[30:]]
    for path in late:
        path.unlink()
    client = local(open_shown(Dataset(tmp_path)))
    kinds = {view["kind"] for view in ask(client, "/api/takes/004_PKA_MMOR/10")["views"]}
    assert kinds == {"station", "tracking camera"}
    assert ask(client, "/api/takes/004_PKA_MMOR/10")["cloud"] is False
    cameras = [[view["camera"] for view in ask(client, f"/api/takes/011_TKA_MMOR/{at}")["views"]] for at in (29, 30)]
    assert set(cameras[0]) - set(cameras[1]) == {"2"}


def test_a_room_of_ones_own_with_gaze_and_hands(tmp_path: Path) -> None:
    root = write_house(tmp_path)
    timepoint = Dataset(root).take(Dataset(root).takes()[0]).timepoints[1]
    glasses, width, height = 4, *picture_size(timepoint.views["glasses"])
    gaze = np.array([[glasses, 0.5 * width, 0.25 * height, 0.7], [1, -1, -1, 0]], np.float32)
    np.save(timepoint.files["gaze"][""], gaze)
    hands = np.full((1, 17), np.nan, np.float32)
    hands[0, :3] = glasses, 0.75 * width, 0.5 * height
    np.save(timepoint.files["hands"][""], hands)
    client = local(open_shown(Dataset(root)))
    take = ask(client, "/api/takes/soup")
    assert take["times"] == [0.0, 0.5, 1.0, 1.5]
    assert take["predicates"] == ["stirring", "holding", "beside"]
    views = {view["camera"]: view for view in ask(client, "/api/takes/soup/1")["views"]}
    assert (views["glasses"]["gaze"], views["glasses"]["hands"]) == ([[0.5, 0.25]], [[0.75, 0.5]])
    assert views["ceiling"].get("gaze", []) == []
    for url in ("timeline", "waveform", "1/texts", "1/cloud", "1/masks/ceiling"):
        assert client.get(f"/api/takes/soup/{url}").status_code == 200


def test_many_visitors_of_a_live_take_get_whole_lines(folder: Folder, tmp_path: Path) -> None:
    path = tmp_path / "live.jsonl"
    path.touch()
    shown = open_shown(Dataset(folder.data), TAKE, live=path)
    line = '{"take": "%s", "frame_id": "%06d", "time": %d, "graph": []}\n'
    failed: list[BaseException] = []

    def visit() -> None:
        try:
            for _ in range(60):
                assert shown.follow() is not None
        except BaseException as error:  # noqa: BLE001 - of a thread, which would be lost
            failed.append(error)

    visitors = [Thread(target=visit) for _ in range(3)]
    for visitor in visitors:
        visitor.start()
    with path.open("a") as file:
        for second in range(2000):
            file.write(line % (TAKE.sample_name, second % 40, second))
            file.flush()
    for visitor in visitors:
        visitor.join()
    assert failed == []
    found = shown.follow()
    assert found is not None
    assert found[0][-1].at_s == 1999
