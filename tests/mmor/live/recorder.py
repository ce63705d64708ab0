"""A recorder that writes a take while somebody follows it, by a clock that only moves when somebody waits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mmor.live.source import Follow, Moment
from mmor.live.take import take_of_folder
from tests.operating_room.tiny_dataset import picture, write
from tests.operating_room.tiny_house import DOMAIN

CAMERAS = ("ceiling", "door", "glasses")
INPUTS = ("views",)
JPEG = picture()


class Recorder:
    """Does things at their time; in between, others wait."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.now = folder, 0.0
        self.told: list[str] = []
        self._plan: list[tuple[float, Callable[[], object]]] = []

    def at(self, time: float, task: Callable[[], object]) -> None:
        """Plan to do something at a time, in s."""
        self._plan.append((time, task))
        self._plan.sort(key=lambda planned: planned[0])

    def clock(self) -> float:
        """What time it is."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while self._plan and self._plan[0][0] <= end:
            self.now, task = self._plan.pop(0)
            task()
        self.now = end
        assert end < 1000, "nothing happens any more"

    def shoot(self, second: int, *cameras: str, content: bytes = JPEG) -> None:
        """Write the pictures of a second."""
        for camera in cameras or CAMERAS:
            write(self.folder / "views" / camera / f"{second:06d}.jpg", content)

    def shoots(self, seconds: range, *cameras: str) -> None:
        """Plan the pictures of these seconds, each at its time."""
        for second in seconds:
            self.at(second, lambda second=second: self.shoot(second, *cameras))

    def followed(self, queue: bool = False, inputs: tuple[str, ...] = INPUTS) -> Follow:
        """Whoever follows the take."""
        return Follow(
            take_of_folder(self.folder), inputs, queue=queue, tell=self.told.append, clock=self.clock, sleep=self.sleep
        )


def house_recorder(root: Path, period: float = 1.0) -> Recorder:
    """Of a take in the house layout, of which nothing is recorded yet."""
    write(root / "domain.yaml", DOMAIN)
    folder = root / "takes" / "soup"
    write(folder / "take.yaml", f"period: {period}\nframes: 1\npictures: jpg\n")
    return Recorder(folder)


def frames(moments: list[Moment]) -> list[int]:
    """Which seconds these are."""
    return [int(moment.look.timepoint.frame_id) for moment in moments]


def missing(moment: Moment) -> list[str]:
    """The cameras that a second lacks."""
    return [camera for _, camera in moment.look.absent]
