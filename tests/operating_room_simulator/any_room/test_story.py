"""Stories of any domain: words of the domain only, one thing at a time, frequencies by level."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from operating_room.domain.domain import Domain, bundled, mmor
from operating_room.errors import UserError
from operating_room_simulator.any_room.cast import cast_of
from operating_room_simulator.any_room.scenes import wearers
from operating_room_simulator.any_room.shots import Recorder
from operating_room_simulator.any_room.sounds import second, subtitles
from operating_room_simulator.any_room.story import tell
from tests.operating_room.domain.tiny_domains import domains
from tests.operating_room_simulator.any_room.tiny_rooms import SIZE, eye_clinic, tale


@pytest.fixture(scope="module")
def eye(tmp_path_factory: pytest.TempPathFactory) -> Domain:
    return eye_clinic(tmp_path_factory.mktemp("eye"))


def test_names_say_who_acts_and_what_is_large(eye: Domain) -> None:
    cast = cast_of(eye)
    assert cast.staff == ("surgeon", "helper", "nurse")
    assert (cast.patient, cast.bed, cast.table) == ("patient", "operating_chair", "instrument_table")
    assert cast.large == ("microscope_stand", "instrument_table")
    assert cast.small == ("laser", "lens", "blade")
    assert {name for name, kind in cast.kinds.items() if kind == "act"} == {
        *("incising", "implanting", "adjusting", "handingOver")
    }


@pytest.mark.parametrize("seed", range(4))
def test_nobody_does_two_things_and_nothing_is_in_two_hands(eye: Domain, seed: int) -> None:
    story = tale(eye, seed=seed, seconds=120)
    for each in story.activities:
        for other in story.activities:
            if each is other or other.start_s >= each.end_s or each.start_s >= other.end_s:
                continue
            assert each.person != other.person
            held = [{name for name in (a.object, a.tool) if name in story.cast.small} for a in (each, other)]
            assert not held[0] & held[1]


def test_less_telling_predicates_are_seen_more_often(eye: Domain) -> None:
    story = tale(eye, seconds=900)
    counts = Counter(activity.predicate for activity in story.activities)
    levels = [sum(counts[name] for name in level if name != "lyingOn") for level in eye.language.levels]
    assert levels[0] < levels[1] < levels[2]
    assert set(counts) == set(eye.language.predicates) - {"lyingOn"}  # that is for the patient


def test_same_seed_same_story(eye: Domain) -> None:
    story = tale(eye)
    assert story.activities == tale(eye).activities
    assert story.activities != tale(eye, seed=1).activities
    assert story.activities != tale(eye, "eye_2").activities


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(domains(), st.floats(0.2, 2.0))
def test_graphs_of_any_domain_use_its_words_once_a_pair(domain: Domain, period: float) -> None:
    take = domain.collections[0].take("X1")
    try:
        habits = cast_of(domain).habits
    except UserError as error:
        lonely = set(domain.language.people) <= {"patient"}
        told = "names no people" if lonely else "has no predicate"
        if told not in str(error):
            raise
        return
    assert habits
    story = tell(domain, take, 0, 12, period)
    recorder = Recorder(story, SIZE)
    for frame in range(story.frames):
        graph = story.graph(frame)
        assert len({triplet[:2] for triplet in graph}) == len(graph)
        for subject, object_, predicate in graph:
            assert {subject, object_} <= set(domain.language.entities)
            assert subject != object_
            assert predicate in domain.language.predicates
        assert set(recorder.scene(frame).figures) == set(story.cast.staff)


def test_relations_can_be_seen(eye: Domain) -> None:
    """Who acts on a thing reaches it with a hand; who holds a thing has it in the hand."""
    story = tale(eye, seconds=400)
    recorder = Recorder(story, SIZE)
    reached, held = [], []
    for scene in map(recorder.scene, range(story.frames)):
        for name, activity in story.now(scene.frame).items():
            figure, started = scene.figures[name], story.time(scene.frame) - activity.start_s
            kind = story.cast.kinds[activity.predicate]
            if kind == "act" and activity.object not in story.cast.small and started > 1.5:
                hands = np.array([figure.right_hand, figure.left_hand])
                reached.append(np.linalg.norm(hands - np.array(scene.attention[name]), axis=1).min())
            if kind == "hold":
                held.append(activity.object in figure.tools)
    assert len(reached) > 50
    assert np.quantile(reached, 0.9) < 0.35  # m
    assert len(held) > 50
    assert all(held)


def test_nobody_runs(eye: Domain) -> None:
    story = tale(eye, seconds=60, period=0.25)
    scenes = list(map(Recorder(story, SIZE).scene, range(story.frames)))
    for before, after in itertools.pairwise(scenes):
        for name in story.cast.staff:
            one, other = before.figures[name], after.figures[name]
            assert np.hypot(one.x - other.x, one.y - other.y) <= 1.6 * story.period + 1e-9


def test_acts_are_heard_and_spoken_of(eye: Domain) -> None:
    story = tale(eye, seconds=120)
    loud = {number for number in range(120) if np.abs(second(story, number, 8000)).max() > 0.05}
    acts = [each for each in story.activities if story.cast.kinds[each.predicate] == "act"]
    assert {int(each.start_s) + 1 for each in acts if each.end_s > each.start_s + 2} <= loud
    said = subtitles(story)
    assert len(said) > 5
    assert all(one.end_s <= other.start_s for one, other in itertools.pairwise(said))
    assert second(story, 3, 8000).tobytes() == second(story, 3, 8000).tobytes()


def test_glasses_are_worn_by_those_they_are_named_after() -> None:
    story = tale(bundled("egoexor"), "MISS_1_1", seconds=2, period=1.0)
    assert wearers(story) == {name: name for name in ("head_surgeon", "assistant", "circulator", "anesthetist")}


def test_bad_lengths_are_refused_in_one_line(eye: Domain) -> None:
    for seconds, period in ((0, 1.0), (5, 10.0), (1e6, 0.001)):
        with pytest.raises(UserError, match="a take of") as error:
            tale(eye, seconds=seconds, period=period)
        assert "\n" not in str(error.value)


def test_any_bundled_domain_has_a_cast() -> None:
    for domain in (mmor(), bundled("egoexor")):
        cast = cast_of(domain)
        assert cast.bed == "operating_table"
        assert cast.patient == "patient"


def test_what_is_done_between_two_times_is_all_of_it(eye: Domain) -> None:
    story = tale(eye, seconds=200)
    for start in (0.0, 3.7, 50.0, 199.0):
        for length in (0.0, 1.0, 30.0):
            found = story.between(start, start + length)
            assert found == [a for a in story.activities if a.start_s <= start + length and a.end_s > start]
