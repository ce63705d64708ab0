"""The room of one simulated take of any domain: where things stand, what people look like, where cameras hang."""

from __future__ import annotations

import colorsys
import math
import zlib
from collections.abc import Mapping
from functools import cached_property

import numpy as np

from operating_room_simulator.any_room.cast import PATIENT
from operating_room_simulator.any_room.story import Story
from operating_room_simulator.stage.camera import Camera, look_at
from operating_room_simulator.stage.furniture import TABLE_TOP, Footprint, Placement
from operating_room_simulator.stage.room import Light, Looks, Shell
from operating_room_simulator.stage.solids import (
    BOX,
    CYLINDER,
    ELLIPSOID,
    UPRIGHT,
    Color,
    Number,
    Point,
    Solid,
    Solids,
    ball,
    rod,
    stack,
    turned,
)

BED = Footprint(1.0, 0.3, TABLE_TOP)
_MIDDLE = (0.0, 0.0, 0.9)
_METAL: Color = (140.0, 144.0, 150.0)
_CORNERS = ((1, 1), (-1, -1), (-1, 1), (1, -1), (0, 1), (0, -1), (1, 0), (-1, 0))  # where room cameras hang, in turn


class Hall:
    """One room. Everything in it follows from the take, its seed and its domain."""

    def __init__(self, story: Story) -> None:
        cast, self.labels = story.cast, story.domain.labels
        self.key = (story.take, story.seed, story.domain.digest)  # of what stands still
        self.number = zlib.crc32(story.take.sample_name.encode())
        draw = np.random.default_rng([story.seed, self.number])
        crowded = 0.06 * max(0, len(cast.large) - 8)  # m; many things need longer walls
        self.half_x = float(draw.uniform(3.2, 3.6)) + crowded
        self.half_y = float(draw.uniform(2.8, 3.1)) + crowded
        self.height = float(draw.uniform(2.9, 3.2))
        tones = [_tone(draw.uniform(150, 230), 0.07, value) for value in (0.6, 0.8, 0.68)]
        light = Light((0.2, 0.1, self.height - 0.7), float(draw.uniform(0.8, 1.2)), float(draw.uniform(0.65, 0.8)))
        self.shell = Shell(
            np.array([-self.half_x, -self.half_y, 0.0]),
            np.array([self.half_x, self.half_y, self.height]),
            *tones,
            light,
        )
        turn = float(draw.uniform(0, 1))  # of all hues together, a little
        self.hues = {name: _hue(number, turn) for number, name in enumerate(story.domain.language.entities)}
        self.looks = {name: self._looks(draw, name) for name in (*cast.staff, *((PATIENT,) if cast.patient else ()))}
        self.bed = cast.bed or ""
        self.large: dict[str, Placement] = {}
        self.feet: dict[str, Footprint] = {}
        for number, name in enumerate(cast.large):
            self._place(draw, name, (number + 0.5) / len(cast.large))
        self.lying = self._lay_out(cast.small, cast.table)
        people = len(cast.staff)
        ring = [2 * math.pi * (number + 0.5) / people for number in range(people)]
        self.idle = {
            name: (1.75 * math.cos(angle), 1.5 * math.sin(angle)) for name, angle in zip(cast.staff, ring)
        }  # m
        self.at_bed = {name: self._bed_side(number, people) for number, name in enumerate(cast.staff)}
        self.cameras = self._cameras(draw, story)

    @cached_property
    def still(self) -> Solids:
        """The solids of all that stands still."""
        solids = [
            Solid(BOX, (0, 0, BED.top - 0.06), UPRIGHT, (1.0, 0.29, 0.06), _tone(230, 0.25, 0.35), self.bed),
            Solid(BOX, (0, 0, 0.42), UPRIGHT, (0.25, 0.15, 0.42), _METAL, self.bed),
        ]
        for name, place in self.large.items():
            solids += self._thing(name, place)
        return stack(solids, self.labels)

    def color(self, name: str, value: float = 0.75) -> Color:
        """The colour of a thing: its hue tells which one it is."""
        return _tone(self.hues[name], 0.65, value)

    def small_solids(self, name: str, at: Point) -> list[Solid]:
        """A small thing; larger than life, so that small pictures show it."""
        color, form = self.color(name, 0.9), zlib.crc32(name.encode()) % 3
        x, y, z = at
        if form == 0:
            return [rod(CYLINDER, (x - 0.13, y, z), (x + 0.13, y, z + 0.05), 0.035, color, name)]
        if form == 1:
            return [Solid(BOX, (x, y, z + 0.04), turned(0.4), (0.11, 0.07, 0.04), color, name)]
        return [ball((x, y, z + 0.05), 0.075, color, name)]

    def _thing(self, name: str, place: Placement) -> list[Solid]:
        """A large thing: a table, a screen on a stand, or a cabinet of some height, by its name."""
        foot, frame, color = self.feet[name], turned(place.yaw), self.color(name)
        dark = self.color(name, 0.4)

        def box(centre: Point, half: Point, tone: Color) -> Solid:
            return Solid(BOX, place.at(*centre), frame, half, tone, name)

        if any(word in name for word in ("table", "desk", "cart", "trolley", "shelf")):
            legs = [
                rod(CYLINDER, place.at(x, y, 0), place.at(x, y, foot.top - 0.05), 0.025, _METAL, name)
                for x in (-0.8 * foot.half_x, 0.8 * foot.half_x)
                for y in (-0.8 * foot.half_y, 0.8 * foot.half_y)
            ]
            return [box((0, 0, foot.top - 0.04), (foot.half_x, foot.half_y, 0.04), color), *legs]
        if any(word in name for word in ("screen", "monitor")):
            return [
                rod(CYLINDER, place.at(0, 0, 0), place.at(0, 0, foot.top), 0.04, _METAL, name),
                box((0, 0, foot.top), (0.04, 0.36, 0.24), dark),
                box((0.045, 0, foot.top), (0.008, 0.32, 0.2), color),
            ]
        if any(word in name for word in ("door", "room")):
            return [box((-0.1, 0, 1.0), (0.04, 0.5, 1.0), color)]
        body = [box((0, 0, foot.top / 2), (foot.half_x, foot.half_y, foot.top / 2), color)]
        if zlib.crc32(name.encode()) % 2:
            body.append(Solid(ELLIPSOID, place.at(0, 0, foot.top + 0.12), frame, (0.2, 0.2, 0.18), dark, name))
        return body

    def _place(self, draw: np.random.Generator, name: str, share: float) -> None:
        """Stand a large thing along the walls, `share` of the way around."""
        wide, deep = 2 * (self.half_x - 0.55), 2 * (self.half_y - 0.55)
        along = share * 2 * (wide + deep)
        if along < wide:
            x, y, yaw = along - wide / 2, -deep / 2, math.pi / 2
        elif along < wide + deep:
            x, y, yaw = wide / 2, along - wide - deep / 2, math.pi
        elif along < 2 * wide + deep:
            x, y, yaw = wide / 2 - (along - wide - deep), deep / 2, -math.pi / 2
        else:
            x, y, yaw = -wide / 2, deep / 2 - (along - 2 * wide - deep), 0.0
        dx, dy = draw.uniform(-0.1, 0.1, 2)
        self.large[name] = Placement(float(x + dx), float(y + dy), float(yaw + draw.uniform(-0.1, 0.1)))
        table = any(word in name for word in ("table", "desk", "cart", "trolley", "shelf"))
        tall = 0.9 + 0.15 * (zlib.crc32(name.encode()) % 3)
        self.feet[name] = Footprint(0.28, 0.55, 0.92) if table else Footprint(0.25, 0.28, tall)

    def _lay_out(self, small: tuple[str, ...], table: str | None) -> dict[str, Point]:
        """Where small things lie: in rows on the table; on the foot of the bed if there is none."""
        found: dict[str, Point] = {}
        columns = max(1, math.ceil(len(small) / 2))
        for number, name in enumerate(small):
            row, column = number % 2, number // 2
            across = (column + 0.5) / columns - 0.5
            if table is None or table == self.bed:
                found[name] = (0.6 + 0.3 * across, 0.15 - 0.3 * row, BED.top + 0.02)
            else:
                foot = self.feet[table]
                found[name] = self.large[table].at(
                    (0.5 - row) * foot.half_x, 1.8 * across * foot.half_y, foot.top + 0.02
                )
        return found

    def _bed_side(self, number: int, people: int) -> tuple[float, float]:
        """A place of one's own at the bed (m): both sides in turn, from head to foot."""
        side, rank = 1 if number % 2 else -1, number // 2
        ranks = max(1, math.ceil(people / 2))
        return (-0.55 + 1.2 * (rank + 0.5) / ranks, 0.62 * side)

    def _looks(self, draw: np.random.Generator, name: str) -> Looks:
        hue, gown = self.hues[name], 0.6 + 0.15 * (zlib.crc32(name.encode()) % 3)
        masked = name != PATIENT
        return Looks(
            height=float(draw.uniform(1.62, 1.9)),
            width=float(draw.uniform(0.9, 1.12)),
            gown=_tone(hue, 0.6, gown),
            cap=_tone(hue, 0.45, 0.9),
            skin=_tone(24, 0.42, float(draw.uniform(0.55, 0.9))),
            gloves=_tone(40, 0.12, 0.94),
            mask=_tone(200, 0.25, 0.9) if masked else None,
            sleeves=masked,
            hood=False,
        )

    def _cameras(self, draw: np.random.Generator, story: Story) -> Mapping[str, Camera]:
        """The cameras that hang still: those of the room in its corners, those of stations nearer to the middle."""
        found, count = {}, {"room_views": 0, "station_views": 0, "tracker_view": 0}
        for camera in story.domain.collection(story.take).cameras:
            if camera.modality not in count:  # carried by people
                continue
            number = count[camera.modality]
            count[camera.modality] += 1
            east, north = _CORNERS[(number + (camera.modality != "room_views")) % len(_CORNERS)]
            near = 1.0 if camera.modality == "room_views" else 0.55
            jitter = draw.uniform(-0.1, 0.1, 3)
            eye = (
                near * east * (self.half_x - 0.2) + jitter[0] + 0.01,
                near * north * (self.half_y - 0.2) + jitter[1],
                2.6 + jitter[2],
            )
            red, green, blue = (float(gain) for gain in draw.uniform(0.95, 1.15, 3))
            found[camera.name] = look_at(
                camera.name,
                eye,
                _MIDDLE,
                float(draw.uniform(68, 78)) if near == 1.0 else 62.0,
                exposure=(red, green, blue),
                infrared=camera.modality == "tracker_view",
            )
        return found


def _hue(number: int, turn: float) -> float:
    """Far apart for neighbours in a list, whatever its length: steps of the golden angle; in degrees."""
    return (137.508 * number + 16 * turn) % 360


def _tone(hue: Number, saturation: Number, value: Number) -> Color:
    red, green, blue = colorsys.hsv_to_rgb(hue % 360 / 360, saturation, value)
    return (255 * red, 255 * green, 255 * blue)
