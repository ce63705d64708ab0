"""A recorded take at the pace at which it was recorded, as if it were being recorded now."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator

from mmor.live.parts import Parts, Presence, Tell, tell_user
from mmor.live.source import Moment
from operating_room.domain.domain import Domain
from operating_room.recordings.take import RecordedTake
from scene_graph_generation.preprocess.audio import Samples, read_clips


class Replay:
    """Hands out the seconds of a whole take. What was made of them later, or of the future, is not looked at."""

    def __init__(
        self,
        recorded: RecordedTake,
        inputs: Collection[str],
        speed: float = 1.0,
        queue: bool = False,
        tell: Tell = tell_user,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Look at nothing yet; for the arguments see `Follow`.

        Args:
            speed: seconds of the take in one second; 0 hands out each as soon as the one before is answered.
        """
        self.queue, self.clock, self._sleep = queue or not speed, clock, sleep
        self._recorded, self._speed = recorded, speed
        self.presence = Presence(tell)
        self.parts = Parts(recorded, inputs, self.presence, sound=False)
        self._clips: Iterator[tuple[str, Samples, int]] | None = None
        self._clip: tuple[str, Samples, int] | None = None

    @property
    def domain(self) -> Domain:
        """In whose words the take is."""
        return self._recorded.domain

    def __iter__(self) -> Iterator[Moment]:
        """The seconds, each when its time has come.

        Raises:
            UserError: the index is missing or damaged.
        """
        recorded, index = self._recorded, self._recorded.index
        times = [recorded.at(element.time) for element in index]
        start, position = self.clock(), -1
        due = [start + (at - times[0]) / self._speed if self._speed else start for at in times]
        while position + 1 < len(index):
            first = position + 1
            while (left := due[first] - self.clock()) > 0:
                self._sleep(left)
            newest = first
            while self._speed and newest + 1 < len(index) and due[newest + 1] <= self.clock():
                newest += 1
            position = first if self.queue else newest
            look = self.parts.look(index[position])
            self.parts.forget()
            self.presence.tell_broken(look)
            behind = times[newest] - times[position]
            yield Moment(
                look, times[position], due[position] if self._speed else self.clock(), behind, position - first
            )

    def sound(self, moment: Moment) -> tuple[Samples, int] | None:
        """The sound of the recording up to a second; clips that were cut from it may know of the second after."""
        if self._clips is None:
            recording = self._recorded.path("recording")
            if recording is None or not recording.exists():
                return None
            times = {element.time: self._recorded.at(element.time) for element in self._recorded.index}
            self._clips = read_clips(recording, times, causal=True)
        wanted = moment.look.timepoint.time
        while self._clip is None or int(self._clip[0]) < int(wanted):
            self._clip = next(self._clips, None)
            if self._clip is None:
                return None
        return self._clip[1:] if self._clip[0] == wanted else None
