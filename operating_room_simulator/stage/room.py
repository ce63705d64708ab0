"""The simulated operating room of one take: size, materials, light, cameras, parked things, looks of people."""

from __future__ import annotations

import colorsys
import math
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float

from operating_room.domain.collection import Take
from operating_room.domain.labels import Labels
from operating_room_simulator.stage.camera import Camera, look_at
from operating_room_simulator.stage.furniture import TABLE_TOP, Placement, thing_solids
from operating_room_simulator.stage.solids import (
    BOX,
    CYLINDER,
    UPRIGHT,
    Color,
    Number,
    Point,
    Solid,
    Solids,
    rod,
    stack,
)
from operating_room_simulator.stage.tent import Tent, tent_at
from operating_room_simulator.story.news import News
from operating_room_simulator.story.steps import playbook_of


@dataclass(frozen=True)
class Light:
    """The surgical lamp and the even light of the ceiling."""

    lamp: Point  # position, m
    power: float
    ambient: float


@dataclass(frozen=True, eq=False)
class Shell:
    """What a room is from inside: its box, the colours of its floor and walls, its light."""

    low: Float[np.ndarray, "3"]  # corner, m
    high: Float[np.ndarray, "3"]  # the opposite one
    floor: Color
    wall: Color
    band: Color  # along the walls, to 1 m
    light: Light


@dataclass(frozen=True)
class Looks:
    """Body and clothes of one role in one take. Colours tell the role; hue, brightness and size vary by take."""

    height: float  # m
    width: float  # 1 = average
    gown: Color
    cap: Color
    skin: Color
    gloves: Color
    mask: Color | None  # None: bare face
    sleeves: bool  # False: bare forearms
    hood: bool  # surgical helmet: the cap covers the whole head but the face


# Hue (degrees), saturation, value of gown and cap, then: long sleeves, hood, mask.
_CLOTHES: dict[str, tuple[Point, Point, bool, bool, bool]] = {
    "head_surgeon": ((218, 0.72, 0.72), (210, 0.06, 0.95), True, True, True),
    "assistant_surgeon": ((190, 0.62, 0.74), (190, 0.6, 0.62), True, False, True),
    "nurse": ((140, 0.55, 0.6), (140, 0.5, 0.5), True, False, True),
    "circulator": ((318, 0.42, 0.7), (318, 0.45, 0.55), False, False, True),
    "anaesthetist": ((250, 0.6, 0.34), (2, 0.75, 0.68), False, False, True),
    "mps": ((30, 0.06, 0.42), (30, 0.1, 0.16), False, False, True),
    "student": ((54, 0.42, 0.86), (54, 0.4, 0.8), True, False, True),
    "unrelated_person": ((22, 0.72, 0.48), (25, 0.6, 0.16), True, False, False),
    "patient": ((205, 0.12, 0.85), (120, 0.2, 0.8), False, False, False),
}
_MATERIALS: dict[str, Point] = {  # hue (degrees), saturation, value; varied by take
    "metal": (210, 0.05, 0.55),
    "steel": (210, 0.04, 0.78),
    "mattress": (230, 0.25, 0.22),
    "pillow": (200, 0.05, 0.92),
    "cloth": (195, 0.5, 0.55),
    "tray": (210, 0.03, 0.68),
    "carton": (32, 0.45, 0.65),
    "device": (60, 0.04, 0.86),
    "device_dark": (220, 0.15, 0.28),
    "console": (270, 0.22, 0.36),
    "console_top": (270, 0.1, 0.55),
    "robot": (60, 0.02, 0.97),
    "robot_trim": (95, 0.55, 0.62),
    "c_arm_trim": (205, 0.6, 0.55),
    "tracker": (210, 0.03, 0.93),
    "drape": (203, 0.38, 0.8),
    "drill": (215, 0.15, 0.3),
    "saw": (215, 0.25, 0.42),
    "cementer": (24, 0.65, 0.6),
    "robot_screen": (215, 0.5, 0.95),
    "vital_screen": (130, 0.75, 0.7),
    "monitor_screen": (190, 0.7, 0.85),
    "floor": (200, 0.08, 0.6),
    "wall": (170, 0.06, 0.8),
    "band": (170, 0.16, 0.66),
    "door": (28, 0.35, 0.58),
    "cupboard": (210, 0.08, 0.74),
}
_FINE_MATERIALS: dict[str, Point] = {  # of small things that tell a deed; only where there is news
    "thread": (290, 0.85, 0.8),
    "gold": (46, 0.85, 0.88),
    "blade_grip": (222, 0.9, 0.85),
    "swab": (105, 0.5, 0.92),
}
_VARIED = {"floor", "wall", "band", "door", "cupboard", "cloth", "carton", "mattress"}  # these may change a lot


class Room:
    """One operating room. Everything in it follows from the take and the seed; labels of masks, from the domain."""

    def __init__(self, take: Take, seed: int, labels: Labels, news: News | None = None) -> None:
        self.take = take
        self.seed = seed
        self.labels = labels
        self.news = news
        draw = np.random.default_rng([seed, zlib.crc32(take.sample_name.encode())])
        self.half_x = float(draw.uniform(3.35, 3.75))
        self.half_y = float(draw.uniform(2.85, 3.25))
        self.height = float(draw.uniform(2.9, 3.2))
        self.surgeon_side = int(draw.choice((-1, 1)))  # the side of the table (sign of y) where the head surgeon stands
        self.knee: Point = (float(draw.uniform(0.25, 0.45)), 0.09 * self.surgeon_side, TABLE_TOP + 0.26)
        self.light = Light(
            (float(draw.uniform(-0.1, 0.5)), float(draw.uniform(-0.4, 0.4)), self.height - 0.75),
            float(draw.uniform(0.8, 1.2)),
            float(draw.uniform(0.62, 0.82)),
        )
        self.palette = {
            name: _vary(draw, tone, *((35, 0.3, 0.18) if name in _VARIED else (8, 0.15, 0.1)))
            for name, tone in _MATERIALS.items()
        }
        self.looks = {role: _looks(draw, role) for role in _CLOTHES}
        self.parked = _parked(draw, self.surgeon_side, self.half_x, self.half_y)
        self.cameras = _cameras(draw, self)
        self.tent: Tent | None = None
        if news is not None:
            self._furnish(news, draw)

    def _furnish(self, news: News, draw: np.random.Generator) -> None:
        """What a room with news has besides: colours of small things, look-alike clothes, cameras near by, a tent."""
        self.palette |= {name: _vary(draw, tone, 6, 0.1, 0.08) for name, tone in _FINE_MATERIALS.items()}
        for team in news.alike:
            first = self.looks[team[0]]
            for role in team[1:]:
                self.looks[role] = replace(
                    self.looks[role],
                    **{name: getattr(first, name) for name in ("gown", "cap", "gloves", "mask", "sleeves", "hood")},
                )
        self.cameras = [_closer(camera, self, draw) for camera in self.cameras]
        if news.tent:
            self.tent = tent_at(self.half_x, self.half_y, self.surgeon_side)

    @cached_property
    def shell(self) -> Shell:
        """The empty room."""
        return Shell(
            np.array([-self.half_x, -self.half_y, 0.0]),
            np.array([self.half_x, self.half_y, self.height]),
            *(self.palette[name] for name in ("floor", "wall", "band")),
            self.light,
        )

    def camera(self, name: str) -> Camera:
        """The camera `room1`..., `station0`... or `tracker`."""
        return next(camera for camera in self.cameras if camera.name == name)

    def still_solids(self, still: Iterable[tuple[str, Placement]]) -> Solids:
        """The fittings of the room and the things that stand still."""
        solids = _fittings(self)
        if self.tent is not None:
            solids.append(self.tent.solid(self.palette["band"]))
        for entity, placement in still:
            solids += thing_solids(entity, placement, self.palette)
        return stack(solids, self.labels)


def _vary(draw: np.random.Generator, tone: Point, hue: Number, saturation: Number, value: Number) -> Color:
    """RGB of a tone whose hue is shifted by up to `hue` degrees, the rest by up to these shares."""
    h = (tone[0] + draw.uniform(-hue, hue)) / 360 % 1
    s = min(1.0, tone[1] * (1 + draw.uniform(-saturation, saturation)))
    v = min(1.0, tone[2] * (1 + draw.uniform(-value, value)))
    red, green, blue = colorsys.hsv_to_rgb(h, s, v)
    return (255 * red, 255 * green, 255 * blue)


def _looks(draw: np.random.Generator, role: str) -> Looks:
    gown, cap, sleeves, hood, mask = _CLOTHES[role]
    return Looks(
        height=float(draw.uniform(1.6, 1.92)),
        width=float(draw.uniform(0.88, 1.16)),
        gown=_vary(draw, gown, 7, 0.15, 0.12),
        cap=_vary(draw, cap, 7, 0.15, 0.12),
        skin=_vary(draw, (24, 0.42, float(draw.uniform(0.5, 0.92))), 4, 0.1, 0.05),
        gloves=_vary(draw, (40, 0.12, 0.94), 10, 0.3, 0.05),
        mask=_vary(draw, (200, 0.25, 0.9), 10, 0.3, 0.05) if mask else None,
        sleeves=sleeves,
        hood=hood,
    )


def _parked(draw: np.random.Generator, side: int, half_x: float, half_y: float) -> dict[str, Placement]:
    """Where things stand while no relation moves them. The table lies along x, the patient's head at negative x."""

    def place(x: float, y: float, yaw: float) -> Placement:
        jitter = draw.uniform(-0.1, 0.1, 2)
        return Placement(x + jitter[0], y + jitter[1], yaw + draw.uniform(-0.08, 0.08))

    up = math.pi / 2
    return {
        "operating_table": Placement(0.0, 0.0, 0.0),
        "instrument_table": place(2.42, side * 0.35, math.pi),
        "secondary_table": place(half_x - 0.55, -side * (half_y - 0.75), math.pi),
        "anesthesia_equipment": place(-(half_x - 0.65), side * 1.1, 0.0),
        "mps_station": place(-1.6, -side * (half_y - 0.55), side * up),
        "mako_robot": place(0.95, side * 1.95, -side * up),
        "monitor": place(-half_x + 0.45, -side * 1.3, 0.0),
        "c_arm": place(1.8, -side * (half_y - 0.5), math.pi),
        "tracker": place(-0.2, -side * (half_y - 0.45), side * up),
    }


def _fittings(room: Room) -> list[Solid]:
    """Door, cupboards and the surgical lamp; background for the segmentation."""
    x, y = room.half_x, room.half_y
    palette, side = room.palette, room.surgeon_side
    lamp = room.light.lamp
    return [
        Solid(BOX, (-1.6, side * y, 1.05), UPRIGHT, (0.6, 0.03, 1.05), palette["door"], ""),
        Solid(BOX, (-1.6, side * (y - 0.04), 1.5), UPRIGHT, (0.2, 0.01, 0.25), (190.0, 210.0, 220.0), ""),
        Solid(BOX, (x - 0.12, side * 1.9, 1.0), UPRIGHT, (0.14, 0.75, 1.0), palette["cupboard"], ""),
        Solid(BOX, (x - 0.27, side * 1.9, 1.0), UPRIGHT, (0.01, 0.01, 0.95), palette["device_dark"], ""),
        Solid(BOX, (1.0, -side * y, 1.7), UPRIGHT, (0.7, 0.04, 0.4), palette["device_dark"], ""),
        rod(CYLINDER, (lamp[0], lamp[1], lamp[2] + 0.1), (lamp[0], lamp[1], room.height), 0.03, palette["metal"], ""),
        rod(CYLINDER, lamp, (lamp[0], lamp[1], lamp[2] + 0.12), 0.3, palette["device"], ""),
    ]


def _closer(camera: Camera, room: Room, draw: np.random.Generator) -> Camera:
    """A detail camera that looks at the operated knee in place of some of those that look at the whole table.

    Of the room cameras it is those that a scene-graph model is shown (4 and 5; in 4D-OR 5): what nothing but views
    tells has to be in views that it gets. One of them hangs at the foot end, on the side where no robot stands.
    """
    multimodal = playbook_of(room.take).multimodal
    at_foot = "room4" if multimodal else "room5"
    views = {at_foot: 14.0, "station0": 26.0, "station2": 34.0}  # degrees; 14: 0.6 m across, hands and what is in them
    views |= {"room5": 24.0} if multimodal else {"room6": 24.0}
    if camera.name not in views:
        return camera
    aim = np.array(room.knee) + draw.uniform(-0.05, 0.05, 3) + [0.0, 0.0, 0.1]
    eye = camera.position
    if camera.name == at_foot:
        eye = np.array([2.1, -0.7 * room.surgeon_side, room.height - 0.4]) + draw.uniform(-0.1, 0.1, 3)
    return look_at(camera.name, tuple(eye), tuple(aim), views[camera.name], exposure=camera.exposure)


def _cameras(draw: np.random.Generator, room: Room) -> list[Camera]:
    """5 room, 3 station and one tracking camera in MM-OR, 6 room cameras in 4D-OR."""
    x, y, side = room.half_x - 0.12, room.half_y - 0.12, room.surgeon_side

    def camera(name: str, position: Point, target: Point, view: Number, *, infrared: bool = False) -> Camera:
        eye, aim = np.array(position) + draw.uniform(-0.1, 0.1, 3), np.array(target) + draw.uniform(-0.15, 0.15, 3)
        eye = np.clip(eye, [-x, -y, 0.5], [x, y, room.height - 0.15])
        gains = draw.uniform(0.93, 1.07, 3) * draw.uniform(1.0, 1.25) if not infrared else np.full(3, 0.3)
        red, green, blue = (float(gain) for gain in gains)
        view = float(view + draw.uniform(-3, 3))
        return look_at(name, tuple(eye), tuple(aim), view, exposure=(red, green, blue), infrared=infrared)

    middle = (0.2, 0.0, 0.85)
    high = 2.75
    cameras = [
        camera("room1", (x, side * y, high), middle, 72),
        camera("room2", (-x, side * y, high), middle, 72),
        camera("room3", (-x, -side * y, high), middle, 72),
        camera("room4", (x, -side * y, high), middle, 72),
        camera("room5", (0.5, side * y, high), (0.2, -0.3, 0.85), 84),
    ]
    if not playbook_of(room.take).multimodal:
        return [*cameras, camera("room6", (0.2, -side * y, high), (0.2, 0.3, 0.85), 84)]
    return [
        *cameras,
        camera("station0", (2.4, -side * 0.5, 2.45), (0.2, 0.0, 0.95), 62),
        camera("station2", (-1.3, side * 1.9, 2.3), (0.2, -0.5, 0.9), 76),
        camera("station3", (-1.1, -side * 2.2, 2.45), (0.3, 0.1, 0.9), 74),
        camera("tracker", room.parked["tracker"].at(0.3, 0.0, 1.9), (0.5, 0.2 * side, 1.0), 58, infrared=True),
    ]
