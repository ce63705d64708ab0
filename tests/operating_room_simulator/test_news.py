"""A room with news: what one sense tells is in its files and in no others, and the records fit the graphs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from operating_room.domain.collection import Take
from operating_room.domain.domain import find_domain, mmor
from operating_room.errors import UserError
from operating_room.files.readers import read_label_mask
from operating_room.graphs.scene_graph import Sample, Triplet
from operating_room.recordings import raw_labels as relations
from operating_room.recordings.conversion import label_files
from operating_room.recordings.take import RecordedTake
from operating_room_simulator.records import write_index, write_records
from operating_room_simulator.stage.poses import Scene, pose
from operating_room_simulator.stage.rendering import point_cloud, render
from operating_room_simulator.stage.room import Room
from operating_room_simulator.stage.small_things import small_things
from operating_room_simulator.stage.solids import Solid, ball, stack
from operating_room_simulator.story.annotated import annotated_surgery
from operating_room_simulator.story.news import EVERY, MEMORY, News
from operating_room_simulator.story.senses import told
from operating_room_simulator.story.story import Surgery, closed, script_surgery
from operating_room_simulator.writer import synthesize, write_takes
from tests.operating_room.published import mask_place

TAKE = "001_PKA"
WORDS = ("take_transcripts",)
ALL_VIEWS = ("colorimage", "simstation", "segmentation", "small_things", "take_point_clouds", "trackercam")


def _at_work(deed: str, tool: str, news: News, seconds: int = 2) -> Surgery:
    """The head surgeon at the patient for some seconds."""
    at = "mako_robot" if deed in ("calibrating", "touching") else "patient"
    graph = closed(
        [
            Triplet("head_surgeon", at, deed),
            Triplet("head_surgeon", "patient", "touching"),
            Triplet("head_surgeon", tool, "holding"),
            Triplet("assistant_surgeon", "patient", "touching"),
            Triplet("mako_robot", "patient", "closeTo"),
            Triplet("drape", "patient", "lyingOn"),
        ]
    )
    take = mmor().find_take(TAKE)
    surgery = annotated_surgery(take, [Sample(take.sample_name, f"{i:06d}", graph) for i in range(seconds)], 0)
    moments = surgery.moments
    if at == "mako_robot":  # also while nobody calibrates
        moments = tuple(replace(moment, step="calibration") for moment in moments)
    return replace(surgery, moments=moments, news=news)


def _evidence(root: Path, surgery: Surgery) -> Mapping[str, str]:
    """The digest of every file of a take that a model may look at."""
    write_takes(root, [surgery], size=(96, 72))
    labels = ("relation_labels", "take_timestamp_to", ".synthetic", "small_things.yaml")
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not any(name in str(path) for name in labels)
    }


@pytest.mark.parametrize(
    ("witness", "deeds", "telling"),
    [
        ("sound", (("drilling", "drill"), ("hammering", "hammer")), ("take_audios",)),
        ("speech", (("cementing", "instrument"), ("cutting", "instrument")), (*WORDS, "take_audios")),
        ("screen", (("drilling", "drill"), ("sawing", "saw")), ("screen_summaries", "simstation/camera01")),
        ("tracker", (("calibrating", "instrument"), ("touching", "instrument")), ("take_tracks",)),
        ("views", (("suturing", "instrument"), ("cleaning", "instrument")), ALL_VIEWS),
        (MEMORY, (("cutting", "instrument"), ("suturing", "instrument")), ()),
    ],
)
def test_only_the_witness_tells_two_deeds_apart(
    witness: str, deeds: Sequence[tuple[str, str]], telling: Sequence[str], tmp_path: Path
) -> None:
    news = News(tuple((deed, witness) for deed, _ in deeds if deed != "touching"))
    first, second = (_evidence(tmp_path / deed, _at_work(deed, tool, news)) for deed, tool in deeds)
    different = {name for name in first.keys() | second.keys() if first.get(name) != second.get(name)}
    assert {name for name in telling if any(name in path for path in different)} >= set(telling[:1])
    assert not [path for path in different if not any(name in path for name in telling)]


def test_with_every_sense_telling_all_of_them_tell(tmp_path: Path) -> None:
    """What the tests above find equal is equal by news alone."""
    news = News((("drilling", EVERY), ("sawing", EVERY)))
    first, second = (
        _evidence(tmp_path / deed, _at_work(deed, tool, news))
        for deed, tool in (("drilling", "drill"), ("sawing", "saw"))
    )
    different = [name for name in first if first[name] != second.get(name)]
    for name in ("take_audios", "screen_summaries", "simstation", "colorimage", "segmentation", "take_point_clouds"):
        assert any(name in path for path in different), name


def test_a_deed_announced_early_is_in_the_words_before_hands_move() -> None:
    news = News((("cementing", "views"),), early=("cementing",))
    surgery = _at_work("cementing", "instrument", news, seconds=6)

    def doing(sense: str) -> list[bool]:
        moments = told(surgery, sense).moments
        return [any(t.predicate == "cementing" for t in moment.triplets) for moment in moments]

    assert doing("speech") == [True] * 3 + [False] * 3
    assert doing("views") == [False] * 3 + [True] * 3
    assert not any(doing("sound") + doing("screen") + doing("tracker"))


def test_a_thing_in_the_circulators_hand_is_seen_as_it_is_taken() -> None:
    take = mmor().find_take(TAKE)
    samples = [
        Sample(take.sample_name, f"{i:06d}", closed([Triplet("circulator", tool, "holding")] if i < 5 else []))
        for i, tool in enumerate(("drill",) * 6)
    ]
    surgery = replace(annotated_surgery(take, samples, 0), news=News(()))
    seen = told(surgery, "views").moments
    assert [Triplet("circulator", "drill", "holding") in moment.triplets for moment in seen] == [True] * 2 + [False] * 4
    assert not [
        name for moment in seen[2:5] for name in moment.things if name in ("drill", "hammer", "saw", "instrument")
    ]


@pytest.mark.parametrize("take", ["001_PKA", "003_TKA", "001_4DOR"])
def test_no_other_sense_has_a_witnessed_deed(take: str) -> None:
    for seed in range(4):
        surgery = script_surgery(mmor().find_take(take), seed, 60, news=True)
        assert surgery.news is not None
        for sense in ("views", "sound", "speech", "screen", "tracker"):
            moments = told(surgery, sense).moments
            for deed, witness in surgery.news.witnesses:
                if witness not in (EVERY, sense) and (sense != "speech" or deed not in surgery.news.early):
                    assert not [t for moment in moments for t in moment.triplets if t.predicate == deed]


def test_every_sense_is_a_witness_somewhere() -> None:
    found = {
        witness
        for take in mmor().collection("MMOR").published[:12]
        if (news := script_surgery(take, 0, 40, news=True).news) is not None
        for _, witness in news.witnesses
    }
    assert found == {EVERY, MEMORY, "views", "sound", "speech", "screen", "tracker"}


def _room(news: News) -> Room:
    return Room(mmor().find_take(TAKE), 3, small_things().labels, news)


def _only(*solids: Solid) -> Scene:
    return Scene(0, {}, False, {}, {}, None, (), stack(solids, small_things().labels))


def test_who_stands_in_the_tent_is_in_the_cloud_and_in_no_picture() -> None:
    room = _room(News((), tent=True))
    assert room.tent is not None
    x, y, z = ((low + high) / 2 for low, high in zip(room.tent.low, room.tent.high, strict=True))
    scenes = [_only(ball((x + shift, y, z), 0.3, (200, 10, 10), "circulator")) for shift in (-0.5, 0.5)]
    shots = [{c.name: render(room, scene, c, 64, 48) for c in room.cameras} for scene in scenes]
    for name, view in shots[0].items():
        assert np.array_equal(view.color, shots[1][name].color), name
        assert np.array_equal(view.labels, shots[1][name].labels), name
        assert np.array_equal(view.depth, shots[1][name].depth), name
    for scene, views, shift in zip(scenes, shots, (-0.5, 0.5), strict=True):
        cloud = point_cloud(room, scene, views, 2000)
        assert cloud.shape == (2000, 6)
        inside = cloud[room.tent.holds(cloud[:, :3].astype(float)) & (cloud[:, 3] > 0.7), :3]
        assert len(inside) > 50
        assert np.linalg.norm(inside - [x + shift, y, z], axis=1) == pytest.approx(0.3, abs=0.01)


def test_people_who_look_alike_are_told_by_masks_alone() -> None:
    alike = _room(News((), alike=(("head_surgeon", "nurse"),))).looks
    assert alike["nurse"].gown == alike["head_surgeon"].gown != alike["circulator"].gown
    assert _room(News(())).looks["nurse"].gown != alike["nurse"].gown


@pytest.mark.parametrize(
    ("deed", "thing", "patches"),
    [
        ("suturing", "needle", 2),
        ("cutting", "scalpel", 2),
        ("cleaning", "cloth", 9),
        ("cementing", "cementer", 9),
        ("drilling", "drill", 7),
        ("sawing", "saw", 9),
        ("hammering", "hammer", 5),
    ],
)
def test_tools_at_work_are_seen_large(deed: str, thing: str, patches: int) -> None:
    """In pictures of 160x120 px, padded to squares, a view that is shown has so many patches of 16 px with some of it.

    They were large in `simstation0` alone, which a model is shown only where there are no room cameras.
    """
    surgery = _at_work(deed, "instrument", News(((deed, "views"),)))
    labels = small_things().labels
    best = []
    for seed in range(6):
        room = Room(surgery.take, seed, labels, surgery.news)
        scene = pose(room, told(surgery, "views"))[0]
        shown = [camera for camera in room.cameras if camera.name.startswith("room")]
        views = [render(room, scene, camera, 160, 120) for camera in shown]
        there = [np.argwhere(view.labels == labels.by_entity[thing].label) for view in views]
        best.append(max(len(np.unique((pixels + np.array([20, 0])) // 16, axis=0)) for pixels in there))
    assert sorted(best)[2] >= patches, best


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("news")
    news = News((("suturing", "views"),), dropped=(("room4", 1, 2), ("station0", 0, 1)))
    write_takes(folder, [_at_work("suturing", "instrument", news)], size=(96, 72))
    return folder


def test_small_things_have_masks_of_their_own(root: Path) -> None:
    """By a domain file that lies beside the takes; in the published masks the needle is part of the surgeon."""
    domain = find_domain(root / "small_things.yaml")
    assert domain == small_things()
    take, folder = mmor().find_take(TAKE), root / "MM-OR_data"
    needle = domain.labels.by_entity["needle"].label
    pictures = sorted((folder / TAKE / "simstation").glob("camera00_*.jpg"))
    number = pictures[0].stem.removeprefix("camera00_")
    plain = read_label_mask(mask_place(folder, take, "simstation0", number))
    collection = domain.collection(take)
    mask = collection.label_mask(take, "simstation0", number)
    assert mask is not None
    fine = read_label_mask(folder / mask)
    assert (fine == needle).any()
    assert set(np.unique(plain)) <= set(mmor().labels.labels)
    assert (plain[fine == needle] == mmor().labels.by_entity["head_surgeon"].label).all()


def test_dropped_cameras_have_neither_picture_nor_mask(root: Path) -> None:
    folder = root / "MM-OR_data" / TAKE
    for name, pictures, masks in (
        ("camera04", "colorimage", "segmentation_export_4"),
        ("camera00", "simstation", "simstation_segmentation_export_0"),
        ("camera05", "colorimage", "segmentation_export_5"),
    ):
        there = {len(list((folder / place).glob(f"{name}_*"))) for place in (pictures, masks)}
        assert there == ({2} if name == "camera05" else {1}), name


def test_other_options_are_refused(tmp_path: Path) -> None:
    take = mmor().find_take("002_4DOR")
    surgery = script_surgery(take, 0, 40)
    short = replace(surgery, moments=surgery.moments[:1])
    news = replace(short, news=News(()))
    write_takes(tmp_path / "a", [news], size=(32, 24))
    with pytest.raises(UserError, match="news 3, not None"):
        write_takes(tmp_path / "a", [short], size=(32, 24))
    write_takes(tmp_path / "b", [short], size=(32, 24))
    with pytest.raises(UserError, match="news None, not 3"):
        write_takes(tmp_path / "b", [news], size=(32, 24))
    assert not (tmp_path / "b" / "small_things.yaml").exists()


@pytest.mark.parametrize("take", mmor().takes[::6], ids=lambda take: take.name)
def test_label_conversion_gives_the_story_back(take: Take, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("operating_room_simulator.records._write_recording", lambda *_: None)
    surgery = script_surgery(take, 1, 60, news=True)
    write_records(tmp_path, surgery)
    write_index(tmp_path, surgery)
    samples = [relations.read_labels(path, take, mmor()) for path in label_files(RecordedTake(tmp_path, take, mmor()))]
    step = 3 if take.name == "007_TKA" else 1
    assert [sample.triplets for sample in samples] == [moment.triplets for moment in surgery.moments[::step]]


def test_scripted_takes_can_have_news(tmp_path: Path) -> None:
    synthesize(tmp_path, [mmor().find_take("002_4DOR")], 40, size=(32, 24), news=True)
    assert (tmp_path / "4D-OR_data" / ".synthetic" / "002_4DOR.json").exists()
