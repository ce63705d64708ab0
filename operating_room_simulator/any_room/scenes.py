"""Who stands where and does what with their hands at each timepoint; what glasses see of it, gaze and hands."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from operating_room_simulator.any_room.cast import PATIENT
from operating_room_simulator.any_room.hall import BED, Hall
from operating_room_simulator.any_room.story import Activity, Story
from operating_room_simulator.stage.bodies import Figure, arm_length, patient_solids, shoulder, standing_solids
from operating_room_simulator.stage.camera import Camera, look_at
from operating_room_simulator.stage.floor import walk
from operating_room_simulator.stage.furniture import TABLE_TOP, Placement
from operating_room_simulator.stage.gestures import on_top_of
from operating_room_simulator.stage.solids import CYLINDER, UPRIGHT, Point, Solid, Solids, between, stack, within

CONTACT, CLOSE = 0.36, 0.6  # m, from the edge of a thing to a person who touches it, and who is near it
_SPEED = 1.6  # m/s
_KNEE: Point = (0.35, 0.09, TABLE_TOP + 0.26)
_VIEW = 90.0  # degrees, of cameras on heads
_NOWHERE = (-1.0, -1.0, 1.0)  # a point of gaze that was not found: x, y in px, depth in m where unknown
_LOST = 0.04  # share of points of gaze that are not found
_WRIST, _NORMAL = 0.09, 0.06  # m, from the palm to the wrist, and to the tip of its normal

Spot = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Scene:
    """All that moves at one timepoint, in world coordinates (m)."""

    frame: int
    figures: Mapping[str, Figure]
    attention: Mapping[str, Point]  # what each person looks at
    moving: Solids


def ways(hall: Hall, story: Story) -> dict[str, list[Spot]]:
    """Where each person is (m) at each timepoint; nobody walks faster than people in a hurry."""
    doing = [story.now(frame) for frame in range(story.frames)]
    found = {}
    for name in story.cast.staff:
        spots = [_spot(hall, story, now, name) for now in doing]
        way = walk(spots, [name in now for now in doing], _SPEED * story.period)
        found[name] = [spot or hall.idle[name] for spot in way]
    return found


def _spot(hall: Hall, story: Story, now: Mapping[str, Activity], name: str) -> Spot:
    """Where somebody has to stand for what they do."""
    activity = now.get(name)
    kind = None if activity is None else story.cast.kinds[activity.predicate]
    if activity is None or kind == "look" or (kind == "hold" and activity.object in story.cast.small):
        return hall.idle[name]
    gap = CLOSE if kind == "near" else CONTACT
    target = activity.object
    if target in (PATIENT, story.cast.bed):
        x, y = hall.at_bed[name]
        return (x, y + math.copysign(gap - CONTACT, y))
    if target in hall.idle:  # stand beside another person, who goes to nobody meanwhile
        ox, oy = _spot(hall, story, now, target)
        x, y = hall.idle[name]
        far = math.hypot(x - ox, y - oy) or 1.0
        reach = 0.62 if kind != "near" else 0.8
        return (ox + reach * (x - ox) / far, oy + reach * (y - oy) / far)
    thing = target if target in hall.large else story.cast.table
    if thing is None or thing == story.cast.bed:  # small things on the foot of the bed
        return hall.at_bed[name]
    foot, place = hall.feet[thing], hall.large[thing]
    aside = 0.42 * (story.cast.staff.index(name) % 3 - 1)
    x, y, _ = place.at(foot.half_x + gap, aside, 0)
    return (x, y)


def pose(hall: Hall, story: Story, frame: int, spots: Mapping[str, Spot]) -> Scene:
    """The scene of a timepoint at which people are at these spots."""
    now = story.now(frame)
    loose = dict(hall.lying)
    figures: dict[str, Figure] = {}
    attention: dict[str, Point] = {}
    solids: list[Solid] = []
    for number, (name, spot) in enumerate(spots.items()):
        figure, point, held = _figure(hall, story, frame, number, now.get(name), name, spot, spots)
        figures[name], attention[name] = figure, point
        loose.update(held)
        solids += standing_solids(name, figure, hall.looks[name])
        solids.append(Solid(CYLINDER, (*spot, 0.0), UPRIGHT, (0.34, 0.34, 0.004), hall.shell.band, ""))  # shade
    for name, at in loose.items():
        solids += hall.small_solids(name, at)
    if story.cast.patient:
        operated = any(each.object == PATIENT and story.cast.kinds[each.predicate] == "act" for each in now.values())
        solids += patient_solids(hall.looks[PATIENT], _KNEE, operated)
    return Scene(frame, figures, attention, stack(solids, hall.labels))


def _figure(
    hall: Hall,
    story: Story,
    frame: int,
    number: int,
    activity: Activity | None,
    name: str,
    spot: Spot,
    spots: Mapping[str, Spot],
) -> tuple[Figure, Point, dict[str, Point]]:
    """A person, what they look at, and where the small things in their hands are."""
    time, (x, y), looks = story.time(frame), spot, hall.looks[name]
    idle_at = (0.0, 0.0, TABLE_TOP + 0.2)
    goal = idle_at if activity is None else _goal(hall, story, activity, spot, spots)
    facing = math.atan2(goal[1] - y, goal[0] - x) + 0.04 * math.sin(1.3 * time + 2 * number)
    place = Placement(x, y, facing)
    kind = None if activity is None else story.cast.kinds[activity.predicate]
    hands = [place.at(0.26, side * 0.12, 0.62 * looks.height) for side in (-1, 1)]  # right, left: before the belly
    held: dict[str, Point] = {}
    lean = 0.0
    if activity is not None and kind == "act":
        lean = min(max(math.dist(spot, goal[:2]) - 0.42, 0.0), 0.26)
        for side, aim in enumerate(_aims(story, activity, goal, time)):
            hands[side] = within(shoulder(place, looks, lean, 2 * side - 1), aim, arm_length(looks))
        held = {name: hands[0] for name in (activity.object, activity.tool) if name in story.cast.small}
    elif activity is not None and kind == "hold":
        hands[0] = goal = place.at(0.34, 0.0, 0.72 * looks.height)  # before the chest, where it is looked at
        held = {activity.object: goal}
    return Figure(x, y, facing, lean, hands[0], hands[1], tuple(held)), goal, held


def _aims(story: Story, activity: Activity, goal: Point, time: float) -> list[Point]:
    """Where the right hand goes for an act, and the left one for those that take both; each act has its own rhythm."""
    rank = list(story.cast.kinds).index(activity.predicate)
    x, y, z = goal
    z += 0.04 + 0.05 * math.sin(2 * math.pi * (0.2 + 0.15 * (rank % 5)) * time)
    hands = 2 if activity.tool is None and rank % 2 else 1
    return [(x + 0.06 * side, y + 0.06 * side, z) for side in range(hands)]


def _goal(hall: Hall, story: Story, activity: Activity, spot: Spot, spots: Mapping[str, Spot]) -> Point:
    """The point of the object that somebody at a spot touches or looks at."""
    name, (x, y) = activity.object, spot
    if name == PATIENT:
        return (min(max(x, -0.8), 0.8), min(max(y, -0.12), 0.12), TABLE_TOP + 0.2)
    if name == story.cast.bed:
        return on_top_of(Placement(0.0, 0.0), BED, x, y)
    if name in hall.large:
        return on_top_of(hall.large[name], hall.feet[name], x, y)
    if name in spots:
        return (*spots[name], 1.2)
    return hall.lying[name]


# Cameras on heads.


def wearers(story: Story) -> dict[str, str]:
    """Camera on a head -> whose: the person of its name, or else whoever has none yet."""
    cameras = [camera.name for camera in story.domain.collection(story.take).cameras_of("ego_views")]
    staff = story.cast.staff
    free = [name for name in staff if name not in cameras]
    found = {name: name for name in cameras if name in staff}
    found.update(zip((name for name in cameras if name not in staff), free))
    return {name: found[name] for name in cameras if name in found}


def head_camera(hall: Hall, scene: Scene, camera: str, person: str) -> Camera:
    """What somebody wears before the eyes: it looks where its wearer does, but a head turns less than eyes."""
    figure, looks = scene.figures[person], hall.looks[person]
    eye = figure.place.at(0.2 + 1.15 * figure.lean, 0.0, 0.94 * looks.height - 0.42 * figure.lean)
    x, y, z = scene.attention[person]
    sway = 0.12 * math.sin(0.7 * scene.frame + len(camera))
    return look_at(camera, eye, (x + sway, y - sway, z + 0.12 + 0.05 * math.cos(0.5 * scene.frame)), _VIEW)


def gaze_row(
    scene: Scene, camera: Camera, person: str, number: int, size: tuple[int, int], chance: np.random.Generator
) -> Float32[np.ndarray, "4"]:
    """Where somebody looks: number of the camera, x, y in px of its picture, depth in m."""
    noise = chance.normal(0, 0.01, 2) * size[0]
    lost = chance.random() < _LOST
    (x, y), depth = _project(camera, scene.attention[person], size)
    x, y = x + noise[0], y + noise[1]
    seen = not lost and depth > 0 and 0 <= x < size[0] and 0 <= y < size[1]
    return np.array([number, *((x, y, depth) if seen else _NOWHERE)], np.float32)


def hands_row(
    scene: Scene, camera: Camera, person: str, number: int, size: tuple[int, int]
) -> Float32[np.ndarray, "17"]:
    """Where the hands of somebody are: number of the camera; x, y in px of eight points, NaN for what is not seen.

    Left wrist, left palm, right wrist, right palm, then the tips of their surface normals in this order.
    """
    figure = scene.figures[person]
    body = (figure.x, figure.y, 1.2)
    points: list[Point] = []
    for palm in (figure.left_hand, figure.right_hand):
        points += [between(palm, body, _WRIST / (math.dist(palm, body) or 1.0)), palm]
    points += [(x, y, z + _NORMAL) for x, y, z in points]
    row = [float(number)]
    for point in points:
        (x, y), depth = _project(camera, point, size)
        seen = depth > 0 and 0 <= x < size[0] and 0 <= y < size[1]
        row += [x, y] if seen else [math.nan, math.nan]
    return np.array(row, np.float32)


def _project(camera: Camera, point: Sequence[float], size: tuple[int, int]) -> tuple[tuple[float, float], float]:
    """Pixel and depth (m) of a world point; where depth is not above 0 the pixel means nothing."""
    ahead = camera.rotation @ (np.array(point, float) - camera.position)
    u, v, w = (camera.intrinsics(*size) @ ahead).tolist()
    return ((u / w, v / w), w) if w > 1e-6 else ((0.0, 0.0), 0.0)
