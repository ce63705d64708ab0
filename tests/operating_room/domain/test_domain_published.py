"""The bundled domains are what was published: every constant, path, slot and rule of names that files depend on."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operating_room.domain import categories, takes, vocabulary
from operating_room.domain.collection import Collection
from operating_room.domain.collection import Take as NewTake
from operating_room.domain.domain import bundled, mmor
from operating_room.domain.labels import color_ids, run_lengths
from operating_room.domain.takes import FOURDOR, MMOR, SPLITS, TAKES, Take
from operating_room.errors import UserError
from operating_room.graphs import prompts
from operating_room.graphs.scene_graph import VOCABULARY
from operating_room.recordings import layout
from operating_room.recordings import views as old_views
from operating_room.recordings.dataset import Timepoint
from operating_room.recordings.folders import _own_take
from operating_room.scores import downstream

ROOT = Path("root")
FRAME = "000017"


def new(take: Take) -> NewTake:
    return mmor().collection(take.dataset).take(take.name)


def test_language_is_the_published_one() -> None:
    language = mmor().language
    assert language.entities == vocabulary.ENTITIES
    assert language.people == vocabulary.PEOPLE
    assert language.predicates == vocabulary.PREDICATES
    assert language.scored_predicates == vocabulary.SCORED_PREDICATES
    assert language.levels == vocabulary.PREDICATE_LEVELS
    assert language.role_synonyms == vocabulary.ROLE_SYNONYMS
    assert language.word_synonyms == vocabulary.WORD_SYNONYMS
    assert language.raw_names == vocabulary.RAW_ENTITY_NAMES
    assert language.prompted_entities == vocabulary.PROMPT_ENTITIES
    assert language.tools == vocabulary.TRACKER_OBJECTS
    assert (language.question, language.system) == (prompts.QUESTION, prompts.SYSTEM)
    assert language.vocabulary == VOCABULARY
    assert language.forgotten_spellings == {"closeto", "closeTo"}
    assert [language.entities[i] for i in language.entity_index.values()] == list(language.entity_index)
    assert list(language.predicate_index) == [name.lower() for name in vocabulary.SCORED_PREDICATES]


def test_labels_are_the_published_ones() -> None:
    labels = mmor().labels
    rows = [(c.name, c.color, c.label, c.category_id, c.entity, c.color_id) for c in labels.categories]
    assert rows == [(c.name, c.color, c.label, c.category_id, c.entity, c.color_id) for c in categories.CATEGORIES]
    assert list(labels.by_entity) == list(categories.BY_ENTITY)
    assert (labels.mistakes, labels.count) == (categories.KNOWN_MISTAKES, categories.LABEL_COUNT)
    assert labels.masks == layout.MASKS_PER_TIMEPOINT
    for name in ("colors", "labels", "label_to_category"):
        np.testing.assert_array_equal(getattr(labels, name), getattr(categories, name.upper()), strict=True)


@given(st.data())
def test_colours_are_read_as_before(data: st.DataObject) -> None:
    height, width, channels = (data.draw(st.integers(*bounds)) for bounds in ((1, 4), (1, 5), (3, 4)))
    known = [*categories.COLORS.tolist(), [1, 2, 3]]
    colors = data.draw(st.lists(st.sampled_from(known), min_size=height * width, max_size=height * width))
    picture = np.full((height, width, channels), 255, np.uint8)
    picture[..., :3] = np.array(colors, np.uint8).reshape(height, width, 3)
    for name in ("colors_to_categories", "colors_to_labels"):
        np.testing.assert_array_equal(getattr(mmor().labels, name)(picture), getattr(categories, name)(picture))
    np.testing.assert_array_equal(color_ids(picture), categories.color_ids(picture))
    for mine, others in zip(run_lengths(picture[0]), categories.run_lengths(picture[0])):
        np.testing.assert_array_equal(mine, others)


def test_a_domain_without_masks_has_empty_tables() -> None:
    labels = bundled("egoexor").labels
    picture = np.full((2, 3, 3), 7, np.uint8)
    assert (labels.colors.shape, labels.labels.shape) == ((0, 3), (0,))
    assert not labels.colors_to_labels(picture).any()
    assert not labels.label_to_category.any()


def test_tasks_are_the_published_ones() -> None:
    assert {task.name: task.classes for task in mmor().tasks} == downstream.CLASSES
    assert [task.words for task in mmor().tasks] == ["next action", "robot phase", "sterility breach"]
    assert mmor().task("robot_phase").spellings == vocabulary.ROBOT_PHASE_LABELS
    for task in mmor().tasks:
        assert f"predict the {task.words}. " in prompts.downstream_prompt(None, (), task.name)
    for take in takes.MMOR_TAKES:
        assert tuple(task.name for task in mmor().tasks_of(new(take))) == downstream.tasks_of(take)
    assert mmor().tasks_of(new(takes.FOURDOR_TAKES[0])) == ()  # whose takes have no such labels
    with pytest.raises(UserError, match=r"next_actoin.*choose one of next_action, robot_phase, sterility_breach"):
        mmor().task("next_actoin")


def test_takes_and_splits_are_the_published_ones() -> None:
    domain = mmor()
    assert [(t.dataset, t.name, t.sample_name, t.folder) for t in domain.takes] == [
        (t.dataset, t.name, t.sample_name, t.folder) for t in TAKES
    ]
    assert domain.datasets == takes.DATASETS
    assert domain.splits == SPLITS
    for split in SPLITS:
        for datasets in (None, (FOURDOR,), (MMOR,), ()):
            old = takes.split_takes(split) if datasets is None else takes.split_takes(split, datasets)
            assert domain.split_takes(split, datasets) == [new(take) for take in old]
    for take in TAKES:
        assert domain.splits_of(new(take)) == takes.splits_of(take)
    with pytest.raises(UserError) as before:
        takes.split_takes("trian")
    with pytest.raises(UserError, match=re.escape(str(before.value))):
        domain.split_takes("trian")


def test_roots_and_thinning_are_the_published_ones() -> None:
    domain = mmor()
    assert {c.name: c.root for c in domain.collections} == {d: layout.ROOT_NAMES[d] for d in domain.datasets}
    assert [dict(c.thinned) for c in domain.collections] == [{}, {"007_TKA": 3}]
    assert {c.name: c.frame_keys for c in domain.collections} == layout.FRAME_KEYS
    assert [c.title for c in domain.collections] == ["4D-OR", "MM-OR"]


@pytest.mark.parametrize("old", TAKES, ids=lambda take: take.name)
def test_every_path_is_the_published_one(old: Take) -> None:
    """Also those of MM-OR's files for takes of 4D-OR, which have the same form."""
    take, own, files = new(old), mmor().collection(old.dataset), mmor().collection(MMOR)
    assert [ROOT / p for p in own.index_files(take)] == list(layout.index_files(ROOT, old))
    assert [ROOT / p for p in own.annotation_folders(take)] == list(layout.relation_label_folders(ROOT, old))
    label = layout.relation_label(layout.relation_label_folders(ROOT, old)[0], FRAME)
    assert ROOT / own.annotation_files(take, FRAME)[0] == label
    of_take = {
        "seconds": layout.take_json,
        "tracks": layout.tracks,
        "recording": layout.recording,
        "subtitles": layout.subtitles,
        "next_action": layout.next_action,
        "robot_phase": layout.robot_phase,
        "sterility_breach": layout.sterility_breach,
    }
    for name, path in of_take.items():
        assert ROOT / files.path(name, take) == path(ROOT, old)
    of_time = {
        "audio": layout.audio_clip,
        "audio_embedding": layout.audio_embedding,
        "transcript": layout.transcript,
    }
    for name, path in of_time.items():
        assert ROOT / files.path(name, take, time=FRAME) == path(ROOT, old, FRAME)
    assert ROOT / files.path("robot_screen", take, simstation=FRAME) == layout.screen_summary(ROOT, old, FRAME)
    assert ROOT / files.picture(take, "trackercam", FRAME) == layout.tracker_view(ROOT, old, FRAME)
    cloud = {"pcd" if old.dataset == FOURDOR else "time": FRAME}
    assert ROOT / own.path("point_cloud", take, **cloud) == layout.point_cloud(ROOT, old, FRAME)
    for number in range(3):
        for name, from_annotation in (("masks", False), ("masks_from_annotation", True)):
            path = layout.small_mask(ROOT, old, FRAME, number, from_annotation)
            assert ROOT / own.path(name, take, time=FRAME, number=number) == path


@pytest.mark.parametrize("old", TAKES, ids=lambda take: take.name)
def test_every_camera_is_the_published_one(old: Take) -> None:
    take, collection = new(old), mmor().collection(old.dataset)
    rooms = [camera.name for camera in collection.cameras_of("room_views")]
    assert rooms == [str(number) for number in layout.ROOM_CAMERAS[old.dataset]]
    stations = [camera.name for camera in collection.cameras_of("station_views")]
    assert [layout.camera_number(name) for name in stations] == (
        [] if old.dataset == FOURDOR else list(layout.STATION_CAMERAS)
    )
    assert tuple(camera.name for camera in collection.labelled_cameras) == layout.SEGMENTATION_CAMERAS[old.dataset]
    for name in (*rooms, *stations):
        view = layout.station_view if name in stations else layout.room_view
        assert ROOT / collection.picture(take, name, FRAME) == view(ROOT, old, layout.camera_number(name), FRAME)
        assert collection.camera[name].frame == layout.frame_key(old, name)
    for name in (camera.name for camera in collection.labelled_cameras):
        folder = collection.label_mask_folder(take, name)
        assert folder is not None
        assert ROOT / folder == layout.label_mask_folder(ROOT, old, name)
        for flag in (False, True):
            mask = collection.label_mask(take, name, FRAME, flag)
            assert mask is not None
            expected = layout.label_mask(ROOT, old, name, FRAME, flag)
            assert ROOT / mask == expected
            assert ROOT / collection.labelled_picture(take, name, mask.name) == layout.labelled_view(expected)
            assert ROOT / collection.panoptic_mask(take, name, FRAME, flag) == layout.panoptic_mask(
                ROOT, old, name, FRAME, flag
            )


def test_a_camera_without_masks_has_no_folder_of_them() -> None:
    collection = mmor().collection(MMOR)
    assert collection.label_mask(collection.published[0], "2", FRAME) is None


def test_folders_beside_are_the_published_ones_and_the_robot_logs() -> None:
    collection = mmor().collection(MMOR)
    assert collection.folders_beside == layout.folders_beside() | {"take_timestamp_to_robot_logs"}


def views(room: dict[int, Path], station: dict[int, Path], tracker: Path | None) -> dict[str, Path]:
    found = {str(number): path for number, path in room.items()}
    found |= {f"simstation{number}": path for number, path in station.items()}
    return found if tracker is None else {**found, "trackercam": tracker}


@given(st.data())
def test_slots_are_the_published_ones(data: st.DataObject) -> None:
    old = data.draw(st.sampled_from((TAKES[0], TAKES[-1])))
    collection = mmor().collection(old.dataset)
    room = {n: Path(f"room{n}") for n in data.draw(st.sets(st.sampled_from(layout.ROOM_CAMERAS[old.dataset])))}
    station, tracker = {}, None
    if old.dataset == MMOR:
        station = {n: Path(f"station{n}") for n in data.draw(st.sets(st.sampled_from(layout.STATION_CAMERAS)))}
        tracker = data.draw(st.sampled_from((None, Path("tracker"))))
    point = Timepoint(old, FRAME, FRAME, room, station_views=station, tracker_view=tracker)
    seen = views(room, station, tracker)
    assert collection.training_pictures(seen) == old_views.training_pictures(point)
    assert collection.evaluation_pictures(seen) == old_views.evaluation_pictures(point)
    assert len(collection.evaluation_pictures(seen)) <= collection.max_views <= mmor().max_views == 7


PARTS = ["001_PKA", "_MMOR", "_4DOR", "4DOR", "001", "101_4DOR", "export_holistic_take", "1", "010", "_processed", "/"]
NAMES = st.one_of(
    st.lists(st.sampled_from(PARTS), max_size=4).map("".join),
    st.text("0123456789_-./ aMORé\n", max_size=12),
    st.integers(0, 1000).map(lambda number: f"export_holistic_take{number}_processed"),
    st.from_regex(r"[0-9]{2,4}_4DOR/?", fullmatch=True),
    st.sampled_from(TAKES).map(lambda take: take.sample_name),
    st.sampled_from(TAKES).map(lambda take: take.folder),
)


@given(NAMES)
def test_names_are_found_and_refused_as_before(name: str) -> None:
    try:
        old = takes.find_take(name)
    except UserError as error:
        with pytest.raises(UserError, match=re.escape(str(error))):
            mmor().find_take(name)
    else:
        found = mmor().find_take(name)
        assert (found.dataset, found.name) == (old.dataset, old.name)
        assert (found.sample_name, found.folder) == (old.sample_name, old.folder)
        assert mmor().find_take(found.sample_name) == found


@given(NAMES, st.sampled_from((FOURDOR, MMOR)))
def test_folders_of_own_takes_are_told_as_before(name: str, dataset: str) -> None:
    collection: Collection = mmor().collection(dataset)
    if name == "take_timestamp_to_robot_logs":
        return
    old = _own_take(name, dataset)
    found = mmor().own_take(collection, name)
    assert (found and (found.dataset, found.name)) == (old and (old.dataset, old.name))


def test_egoexor_has_the_names_of_its_evaluator_and_the_prompt_of_its_samples() -> None:
    """Counts, ends and spellings: the lists as a whole are facts of its own publication."""
    language = bundled("egoexor").language
    assert (len(language.entities), len(language.predicates)) == (36, 22)
    assert (len(language.prompted_entities), len(language.prompted_predicates)) == (34, 22)
    ids = {**language.entity_index, **{name: 36 + index for name, index in language.predicate_index.items()}}
    published = {"anesthetist": 0, "operating_table": 23, "patient": 24, "vertebrae": 35, "anaesthetising": 36}
    assert published.items() <= ids.items()
    assert {"looking": 39, "closeto": 40, "lyingon": 50, "wearing": 57, "none": 58}.items() <= ids.items()
    missing = set(language.entities) - {language.entity_name(name) for name in language.prompted_entities}
    assert missing == {"microscope", "syringe"}
    raw = {"operation_table": "operating_table", "anaesthetist": "anesthetist", "microcope": "microscope"}
    raw |= {"closeTo": "closeto", "lyingOn": "lyingon", "checking": "looking", "anesthasing": "anaesthetising"}
    assert language.raw_names == raw
    assert language.question.startswith("Entities: [assistant, anaesthetist, circulator, head surgeon, operating table")
    assert (
        "vertebrae, herbal disk, dressing material]. Predicates: [disinfection, close to, touching" in language.question
    )
    assert language.question.endswith("wearing, anaesthetising]. " + mmor().language.instruction)


def test_egoexor_has_the_published_sources() -> None:
    (collection,) = bundled("egoexor").collections
    ego = [camera.name for camera in collection.cameras_of("ego_views")]
    assert ego == ["head_surgeon", "assistant", "circulator", "anesthetist"]
    assert len(collection.cameras) == 13
    assert collection.period == pytest.approx(1 / 15)
    assert bundled("egoexor").find_take("MISS_1_1").folder == "takes/MISS_1_1"
