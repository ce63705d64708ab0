"""Ray casting: surfaces where they are, occlusion, labels, noise by seed, point clouds."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operating_room.domain.domain import mmor
from operating_room.domain.labels import Category, Labels
from operating_room_simulator.stage import rendering
from operating_room_simulator.stage.camera import look_at
from operating_room_simulator.stage.poses import Scene, pose
from operating_room_simulator.stage.rendering import point_cloud, render
from operating_room_simulator.stage.room import Room
from operating_room_simulator.stage.solids import BOX, CAPSULE, CYLINDER, ELLIPSOID, Solid, along, ball, stack
from operating_room_simulator.story.story import Surgery, script_surgery

WIDTH, HEIGHT = 64, 48
LABELS = mmor().labels
BY_ENTITY = LABELS.by_entity
EMPTY = stack([], LABELS)


@pytest.fixture(scope="module")
def surgery() -> Surgery:
    return script_surgery(mmor().find_take("001_PKA"), 4, 40)


@pytest.fixture(scope="module")
def room(surgery: Surgery) -> Room:
    return Room(surgery.take, surgery.seed, LABELS)


@pytest.fixture(scope="module")
def scenes(room: Room, surgery: Surgery) -> list[Scene]:
    return pose(room, surgery)


def only(room: Room, *solids: Solid) -> Scene:
    """A scene of nothing but these solids."""
    return Scene(0, {}, False, {}, {}, None, (), stack(solids, LABELS))


def inside(solid: Solid, points: np.ndarray, margin: float) -> np.ndarray:
    """Points of the world in a solid that is grown by `margin` m."""
    local = np.abs((points - solid.centre) @ np.array(solid.frame).T)
    half = np.array(solid.half) + margin
    if solid.kind == BOX:
        return (local <= half).all(1)
    if solid.kind == ELLIPSOID:
        return ((local / half) ** 2).sum(1) <= 1
    if solid.kind == CYLINDER:
        return (np.hypot(local[:, 0], local[:, 1]) <= half[0]) & (local[:, 2] <= half[2])
    local[:, 2] = np.maximum(local[:, 2] - solid.half[2], 0)
    return (local**2).sum(1) <= half[0] ** 2


LENGTHS = st.floats(0.05, 0.35)
SHIFTS = st.floats(-0.8, 0.8)


@settings(max_examples=30, deadline=None)
@given(
    kind=st.sampled_from([BOX, ELLIPSOID, CAPSULE, CYLINDER]),
    half=st.tuples(LENGTHS, LENGTHS, LENGTHS),
    direction=st.tuples(SHIFTS, SHIFTS, SHIFTS),
    shift=st.tuples(SHIFTS, SHIFTS, SHIFTS),
)
def test_pictures_show_the_surface_of_a_solid(
    room: Room, kind: int, half: tuple, direction: tuple, shift: tuple
) -> None:
    """Labelled pixels lie on the surface; pixels whose ray passes well through the solid are labelled."""
    centre = (shift[0], shift[1], 1.0 + 0.3 * shift[2])  # between floor and lamp
    if kind in (CAPSULE, CYLINDER):
        half = (half[0], half[0], half[2])
    solid = Solid(kind, centre, along((0, 0, 0), direction), half, (200, 100, 50), "anaesthetist")
    camera = room.cameras[0]
    view = render(room, only(room, solid), camera, WIDTH, HEIGHT)
    rows, columns = np.nonzero(view.labels == 7)
    pixels = np.column_stack([columns, rows]).astype(float)
    surface = camera.unproject(pixels, view.depth[rows, columns].astype(float), WIDTH, HEIGHT)
    assert inside(solid, surface, 0.01).all()
    assert not inside(solid, surface, -0.01).any()
    everywhere = np.stack(np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT)), -1).reshape(-1, 2).astype(float)
    through = np.zeros(len(everywhere), bool)
    for depth in np.arange(2.5, 6.5, 0.04):
        points = camera.unproject(everywhere, np.full(len(everywhere), depth), WIDTH, HEIGHT)
        through |= inside(solid, points, -0.03)
    assert (view.labels.reshape(-1)[through] == 7).all()


def test_the_nearer_solid_hides_the_other(room: Room) -> None:
    camera = room.cameras[0]
    middle = camera.position + 2.0 * camera.rotation[2]
    behind = camera.position + 3.0 * camera.rotation[2]
    near, far = ball(tuple(middle), 0.2, (255, 0, 0), "patient"), ball(tuple(behind), 0.2, (0, 255, 0), "circulator")
    for order in ((near, far), (far, near)):
        view = render(room, only(room, *order), camera, WIDTH, HEIGHT)
        assert view.labels[HEIGHT // 2, WIDTH // 2] == 5
        assert view.depth[HEIGHT // 2, WIDTH // 2] == pytest.approx(1.8, abs=0.01)
        assert 8 not in view.labels


def test_a_solid_around_or_behind_the_camera_is_harmless(room: Room) -> None:
    camera = room.cameras[0]
    behind = ball(tuple(camera.position - camera.rotation[2]), 0.3, (255, 0, 0), "patient")
    around = ball(tuple(camera.position), 0.3, (255, 0, 0), "patient")
    assert not render(room, only(room, behind, around), camera, WIDTH, HEIGHT).labels.any()


def test_unproject_inverts_projection() -> None:
    camera = look_at("room1", (3.0, 2.0, 2.5), (0.0, 0.0, 1.0), 70.0)
    points = np.array([[0.1, 0.2, 0.9], [-1.0, 0.5, 1.7], [0.0, 0.0, 1.0]])
    seen = points @ camera.rotation.T + camera.translation
    pixels = seen @ camera.intrinsics(320, 240).T
    pixels = pixels[:, :2] / pixels[:, 2:]
    assert np.allclose(camera.unproject(pixels, seen[:, 2], 320, 240), points)
    assert np.allclose(pixels[2], [159.5, 119.5])  # the target is in the middle


def test_same_seed_same_bytes_in_any_order(
    surgery: Surgery, scenes: list[Scene], room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = [[render(room, scene, camera, WIDTH, HEIGHT) for camera in room.cameras] for scene in scenes[:2]]
    monkeypatch.setattr(rendering, "_BACKDROPS", rendering._Backdrops())
    again = Room(surgery.take, surgery.seed, LABELS)
    other_scenes = pose(again, surgery)
    for second in (1, 0):
        for camera, view in reversed(list(zip(again.cameras, views[second], strict=True))):
            copy = render(again, other_scenes[second], camera, WIDTH, HEIGHT)
            assert copy.color.tobytes() == view.color.tobytes()
            assert copy.depth.tobytes() == view.depth.tobytes()
            assert copy.labels.tobytes() == view.labels.tobytes()


def test_kept_backdrops_are_bounded_in_bytes(room: Room, scenes: list[Scene], monkeypatch: pytest.MonkeyPatch) -> None:
    kept = rendering._Backdrops()
    monkeypatch.setattr(rendering, "_BACKDROPS", kept)
    monkeypatch.setattr(rendering, "_KEPT_BYTES", 3 * WIDTH * HEIGHT * (12 + 4 + 1))
    rooms = [room, Room(room.take, room.seed + 1, LABELS)]  # also of several takes together
    for each in rooms:
        for camera in each.cameras:
            render(each, scenes[20], camera, WIDTH, HEIGHT)
            assert sum(canvas.size for canvas in kept._kept.values()) <= rendering._KEPT_BYTES
    assert len(kept._kept) == 3
    (last, drawn) = next(reversed(kept._kept.items()))
    render(rooms[1], scenes[20], rooms[1].cameras[-1], WIDTH, HEIGHT)
    assert kept._kept[last] is drawn
    render(room, scenes[20], room.cameras[0], 4 * WIDTH, HEIGHT)  # larger than all that may be kept
    assert not kept._kept


def test_a_room_drawn_in_bands_is_the_room_drawn_at_once(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = rendering._empty_room(room.shell, room.cameras[0], WIDTH, HEIGHT)
    monkeypatch.setattr(rendering, "_BAND", 5 * WIDTH)
    bands = rendering._empty_room(room.shell, room.cameras[0], WIDTH, HEIGHT)
    assert np.allclose(whole.color, bands.color, rtol=1e-6)
    assert np.allclose(whole.depth, bands.depth, rtol=1e-6)
    assert whole.depth.min() > 0


def test_memory_of_published_pictures_is_as_said() -> None:
    """In a process of its own, whose highest mark is its own: one camera, so that the check takes seconds."""
    code = (
        "import resource\n"
        "from operating_room_simulator.stage import rendering\n"
        "from operating_room_simulator.stage.poses import pose\n"
        "from operating_room_simulator.stage.room import Room\n"
        "from operating_room_simulator.story.story import script_surgery\n"
        "from operating_room.domain.domain import mmor\n"
        "surgery = script_surgery(mmor().find_take('001_PKA'), 4, 40)\n"
        "room = Room(surgery.take, 4, mmor().labels)\n"
        "scene = pose(room, surgery)[20]\n"
        "rendering._KEPT_BYTES = 54_000_000\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for camera in room.cameras[:1]:\n"
        "    rendering.render(room, scene, camera, 2048, 1536)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024, rendering.memory(2048, 1536))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    taken, said = (int(word) for word in done.stdout.split())
    assert taken < said


def test_people_things_and_tools_are_in_the_masks(room: Room, scenes: list[Scene], surgery: Surgery) -> None:
    counts = {entity: [0, 0] for entity in BY_ENTITY}
    for moment, scene in zip(surgery.moments[::8], scenes[::8], strict=True):
        views = [render(room, scene, camera, 128, 96) for camera in room.cameras if not camera.infrared]
        seen = set(np.concatenate([np.unique(view.labels) for view in views]).tolist())
        assert seen <= set(LABELS.labels.tolist())
        for entity in {*scene.people, *scene.things, *scene.loose, *(["patient"] if scene.patient else [])}:
            if entity in BY_ENTITY:
                counts[entity][0] += 1
                counts[entity][1] += BY_ENTITY[entity].label in seen
        absent = {*BY_ENTITY} - {*moment.people, *moment.things, "cementer", "__background__"}
        assert not {BY_ENTITY[entity].label for entity in absent} & seen
    for entity, (present, visible) in counts.items():
        assert visible >= 0.8 * present, entity


def test_masks_are_labelled_by_the_domain(surgery: Surgery) -> None:
    """Another domain's categories: the same picture, its own labels, and background for what it does not know."""
    other = Labels((Category("none", (0, 0, 0), 0, 0, "none"), Category("table", (9, 9, 9), 77, 1, "operating_table")))
    views = []
    for labels in (LABELS, other):
        room = Room(surgery.take, surgery.seed, labels)
        views.append(render(room, pose(room, surgery)[20], room.cameras[0], WIDTH, HEIGHT))
    assert np.array_equal(views[0].color, views[1].color)
    table = views[0].labels == BY_ENTITY["operating_table"].label
    assert table.any()
    assert np.array_equal(views[1].labels, np.where(table, 77, 0))


def test_tracking_camera_is_dark_but_for_markers(room: Room, scenes: list[Scene], surgery: Surgery) -> None:
    second = next(m.second for m in surgery.moments if m.step == "drilling")
    color = render(room, scenes[second], room.camera("tracker"), 160, 120).color
    assert (color[..., 0] == color[..., 2]).all()
    assert np.median(color) < 80
    assert color.max() == 255


def test_point_cloud(room: Room, scenes: list[Scene]) -> None:
    views = {camera.name: render(room, scenes[20], camera, WIDTH, HEIGHT) for camera in room.cameras}
    cloud = point_cloud(room, scenes[20], views, 1000)
    assert cloud.shape == (1000, 6)
    low, high = room.shell.low, room.shell.high
    assert (cloud[:, :3] >= low - 0.1).all()
    assert (cloud[:, :3] <= high + 0.1).all()
    assert 0 <= cloud[:, 3:].min() <= cloud[:, 3:].max() <= 1
    assert np.array_equal(cloud, point_cloud(room, scenes[20], views, 1000))
    assert point_cloud(room, scenes[20], {}).shape == (0, 6)


def test_bytes_do_not_depend_on_the_process() -> None:
    """Sets of strings are ordered differently in each Python process; pictures must not follow them."""
    code = (
        "import hashlib\n"
        "from operating_room_simulator.stage.poses import pose\n"
        "from operating_room_simulator.stage.rendering import render\n"
        "from operating_room_simulator.stage.room import Room\n"
        "from operating_room_simulator.story.story import script_surgery\n"
        "from operating_room.domain.domain import mmor\n"
        "surgery = script_surgery(mmor().find_take('003_TKA'), 7, 40)\n"
        "room = Room(surgery.take, surgery.seed, mmor().labels)\n"
        "digest = hashlib.sha256()\n"
        "for scene in pose(room, surgery):\n"
        "    digest.update(render(room, scene, room.cameras[0], 64, 48).color.tobytes())\n"
        "print(digest.hexdigest())\n"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1
