"""What the cameras and glasses of a simulated take record at a timepoint."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
from jaxtyping import Float32

from operating_room_simulator.any_room.hall import Hall
from operating_room_simulator.any_room.scenes import Scene, Spot, gaze_row, hands_row, head_camera, pose, ways, wearers
from operating_room_simulator.any_room.story import Story
from operating_room_simulator.stage.rendering import View, carried, cloud, standing
from operating_room_simulator.stage.solids import Solids


@dataclass(frozen=True, eq=False)
class Shot:
    """One timepoint."""

    views: Mapping[str, View]  # by camera
    gaze: Float32[np.ndarray, "worn 4"]
    hands: Float32[np.ndarray, "worn 17"]


class Recorder:
    """The cameras of a take."""

    def __init__(self, story: Story, size: tuple[int, int], only: Collection[str] | None = None) -> None:
        """Those of the take's dataset, or only some; `size` is width and height of the pictures in px."""
        self.story = story
        self.size = size
        self.hall = Hall(story)
        self.collection = story.domain.collection(story.take)
        self.number = {camera.name: place for place, camera in enumerate(self.collection.cameras, start=1)}
        self.only = frozenset(self.number if only is None else only)
        self.worn = {name: person for name, person in wearers(story).items() if name in self.only}

    @cached_property
    def _ways(self) -> dict[str, list[Spot]]:
        return ways(self.hall, self.story)

    def scene(self, frame: int) -> Scene:
        """Who stands where at a timepoint."""
        return pose(self.hall, self.story, frame, {name: way[frame] for name, way in self._ways.items()})

    def shoot(self, frame: int) -> Shot:
        """All that is recorded at a timepoint; sensor noise follows from seed, take, camera and timepoint."""
        hall, scene = self.hall, self.scene(frame)
        views: dict[str, View] = {}
        gaze, hands = [], []
        for name, number in self.number.items():
            if name not in self.only:
                continue
            noise = np.random.default_rng([self.story.seed, hall.number, number, frame])
            if name in hall.cameras:
                views[name] = standing(
                    hall.key, hall.shell, lambda: hall.still, scene.moving, hall.cameras[name], self.size, noise
                )
            elif name in self.worn:
                camera, person = head_camera(hall, scene, name, self.worn[name]), self.worn[name]
                views[name] = carried(hall.shell, _together(hall.still, scene.moving), camera, self.size, noise)
                gaze.append(gaze_row(scene, camera, person, number, self.size, noise))
                hands.append(hands_row(scene, camera, person, number, self.size))
        rows = np.array(gaze, np.float32).reshape(-1, 4), np.array(hands, np.float32).reshape(-1, 17)
        return Shot(views, *rows)

    def points(self, frame: int, shot: Shot) -> Float32[np.ndarray, "points 6"]:
        """A coloured cloud of what the cameras of the room see: x, y, z in m, then red, green, blue in 0..1."""
        names = [camera.name for camera in self.collection.cameras_of("room_views") if camera.name in shot.views]
        noise = np.random.default_rng([self.story.seed, self.hall.number, 0, frame])
        return cloud([(self.hall.cameras[name], shot.views[name]) for name in names], noise)


def _together(one: Solids, other: Solids) -> Solids:
    names = [field.name for field in fields(Solids)]
    return Solids(*(np.concatenate([getattr(one, name), getattr(other, name)]) for name in names))
