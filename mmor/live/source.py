"""The seconds of a take that is being recorded, one after the other, as they appear in its folder (docs/live.md)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from mmor.live.parts import Look, Part, Parts, Presence, Tell, tell_user
from operating_room.domain.domain import Domain
from operating_room.errors import UserError
from operating_room.files.readers import read_audio
from operating_room.recordings.folders import list_names
from operating_room.recordings.index import Element, read_elements
from operating_room.recordings.take import RecordedTake
from scene_graph_generation.preprocess.audio import Samples

POLL_S = 0.02  # between two looks at the folder
GIVE_UP_S = 60.0  # without the folder of the take
_QUIET_S = 2.0  # without anything new, after which there may be a reason
_SHARE = 20  # a search comes after so many times what the last one took
_BACK_S = 10.0  # before the newest second, in which an older one that is whole is looked for


@dataclass(frozen=True)
class Moment:
    """A second that is to be answered now."""

    look: Look
    at_s: float  # since the take began
    since: float  # when it was there, by the clock of the source
    behind_s: float  # by how much the newest second of the take is newer
    skipped: int  # seconds before it that nobody will answer


class Follow:
    """Follows the folder of a take that is being written.

    A second is handed out as soon as all that records is there and whole, or `patience` after its first file.
    """

    def __init__(
        self,
        recorded: RecordedTake,
        inputs: Collection[str],
        sound: bool = True,
        queue: bool = False,
        patience: float | None = None,
        tell: Tell = tell_user,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Look at nothing yet.

        Args:
            recorded: the take, of which nothing has been asked yet.
            inputs: what the model reads.
            sound: whether clips of sound are waited for.
            queue: every second is handed out; else the newest one that is ready, and those before it are left out.
            patience: s that a second waits for what is missing; None is the time between two seconds.
            tell: gets one line for whatever goes wrong.
            clock: s.
            sleep: waits for so many s.
        """
        self.queue, self.clock, self._sleep, self._tell, self._patience = queue, clock, sleep, tell, patience
        self._recorded = recorded
        self.presence = Presence(tell)
        self.parts = Parts(recorded, inputs, self.presence, sound)
        self._folder = recorded.root / recorded.take.folder
        self._pending: dict[int, tuple[Element, float]] = {}  # known, not handed out -> when it was first seen
        self._numbered = recorded.collection.layout == "house"
        self._newest = -1  # position
        self._newest_time = -1
        self._handed_out = False
        self._late: dict[Part, Path] = {}  # what the second before lacked
        self._index_state: tuple[int, int] | None = None
        self._last_news = self._last_search = clock()
        self._search_s = 0.0  # how long the last search took
        self._told: set[str] = set()
        self._lost_since: float | None = None

    @property
    def domain(self) -> Domain:
        """In whose words the take is."""
        return self._recorded.domain

    def __iter__(self) -> Iterator[Moment]:
        """The seconds, without end.

        Raises:
            UserError: there is no such folder, or it has vanished and does not come back.
        """
        require_there(self._recorded)
        while True:
            moment = self._next()
            if moment is None:
                self._sleep(POLL_S)
            else:
                yield moment

    def sound(self, moment: Moment) -> tuple[Samples, int] | None:
        """The clip of a second, as the recorder has written it."""
        clip = moment.look.timepoint.one("audio")
        return None if clip is None else read_audio(clip)

    def _next(self) -> Moment | None:
        """The second to hand out, if there is one now; a folder that cannot be read is taken for vanished.

        Raises:
            UserError: it has not been there for a minute.
        """
        try:
            is_there = self._folder.is_dir()
            moment = self._news() if is_there and self._has_index() else None
        except OSError:  # a disk of another machine that has gone, for one
            is_there, moment = False, None
        self._note_folder(is_there)
        return moment

    def _news(self) -> Moment | None:
        for part, path in list(self._late.items()):
            if path.exists():
                self.presence.late(part, self._newest)
                del self._late[part]
        now = self.clock()
        known = self._newest
        if self._numbered:
            self._count(now)
        else:
            self._read_index(now)
        if self._newest > known:
            self._last_news = now
        return self._choose(now)

    def _choose(self, now: float) -> Moment | None:
        """The second to hand out: the oldest one that is pending, or the newest one that is ready."""
        patience = self._recorded.at("000001") if self._patience is None else self._patience
        positions = list(self._pending)
        newest = self._recorded.at(self._pending[positions[-1]][0].time) if positions else 0.0
        for position in positions[:1] if self.queue else reversed(positions):
            element, since = self._pending[position]
            behind = newest - self._recorded.at(element.time)
            if not self.queue and behind > max(patience, _BACK_S):
                break  # who joins late would look at all files of the take while something is not there
            look = self.parts.look(element)
            if any(map(self.presence.awaits, look.absent)) and now - since < patience:
                continue
            self.presence.tell_broken(look)
            place = positions.index(position)
            skipped = place
            if place and not self._handed_out:
                self._tell(f"{element.frame_id}: begins here; --queue answers what was recorded before, too")
                skipped = 0
            for answered in positions[: place + 1]:
                del self._pending[answered]
            self.parts.forget()
            self._late = {part: path for part, path in look.absent.items() if path is not None}
            self._handed_out = True
            return Moment(look, self._recorded.at(element.time), since, behind, skipped)
        return None

    # Which seconds there are.

    def _count(self, now: float) -> None:
        """House layout: timepoints are numbered, so the next one is known by name."""
        while self.parts.begun(following := _numbered(self._newest + 1)):
            self._newest += 1
            self._pending[self._newest] = following, now
        quiet = now - max(self._last_news, self._last_search)
        # Seconds do not come to the millisecond; and to list a take of a day takes some, in which nothing else is seen.
        patience = max(_QUIET_S, 2 * self._recorded.at("000001"), _SHARE * self._search_s)
        if not self._pending and quiet >= patience:
            self._last_search = now
            self._search()
            self._search_s = self.clock() - now

    def _search(self) -> None:
        """Nothing new for a while: the recorder may have left numbers out, or begun to count anew."""
        try:
            listed = [name for folder in self.parts.folders() for name in list_names(folder)]
        except UserError as error:  # a disk that a folder is a link to has gone: it may come back
            self._tell_once("listing", f"{error}; waiting for it")
            return
        names = {int(name[:6]) for name in listed if _is_number(name)}
        further = sorted(number for number in names if number > self._newest)
        # Of a camera that the model is not shown, or of a file that was never finished, there may be more before it.
        begun = next((number for number in further if self.parts.begun(_numbered(number))), None)
        if begun is not None:
            self._newest = begun - 1
        elif not further and self._newest >= 0 and (again := self._written_again()):
            self._tell_clock(again, f"{self._newest:06d}")

    def _written_again(self) -> str | None:
        """An earlier second than the newest of which most files are newer; a few are of a camera that is late."""
        files = [
            (name[:6], path.stat().st_mtime_ns)
            for folder in self.parts.folders()
            for name in list_names(folder)
            if _is_number(name) and (path := folder / name).exists()
        ]
        last = max((time for number, time in files if int(number) == self._newest), default=None)
        there = Counter(number for number, _ in files)
        newer = Counter(number for number, time in files if last is not None and time > last)
        return max((number for number, count in newer.items() if 2 * count > there[number]), default=None)

    def _read_index(self, now: float) -> None:
        """MM-OR's and 4D-OR's layout: the index names the frames of each second; read when it has changed."""
        path = self._index_file()
        state = None if path is None else _state(path)
        if path is None or state is None or state == self._index_state:
            return
        try:
            elements = read_elements(path, self._recorded.collection.frame_keys)
        except UserError as error:
            if now - self._last_news > _QUIET_S:  # else it is being written
                self._tell_once("index", str(error))
            return
        self._index_state = state
        if len(elements) <= self._newest:  # begun anew
            self._newest = -1
            self._pending.clear()
        for position in range(self._newest + 1, len(elements)):
            stamp, frames = elements[position]
            self._newest = position
            if int(stamp) <= self._newest_time:
                self._tell_clock(stamp, f"{self._newest_time:06d}")
                continue
            self._newest_time = int(stamp)
            self._pending[position] = Element.at(position, stamp, frames), now

    def _index_file(self) -> Path | None:
        paths = [self._recorded.root / path for path in self._recorded.collection.index_files(self._recorded.take)]
        return next((path for path in paths if path.exists()), None)

    def _has_index(self) -> bool:
        """Whether the index is there; in the house layout it tells how pictures are called."""
        try:
            if self._index_file() is not None and self._recorded.pictures:
                return True
            problem = "has no index yet"
        except UserError as error:
            problem = str(error)
        if self.clock() - self._last_news > _QUIET_S:
            names = " or ".join(path.name for path in self._recorded.collection.index_files(self._recorded.take))
            self._tell_once("no index", f"{self._folder}: waiting for {names} ({problem})")
        return False

    # What is told.

    def _note_folder(self, is_there: bool) -> None:
        if is_there:
            if self._lost_since is not None:
                self._tell(f"{self._folder}: is there again")
            self._lost_since = None
            return
        now = self.clock()
        if self._lost_since is None:
            self._lost_since = now
            self._tell(f"{self._folder}: has vanished; waiting for it for {GIVE_UP_S:.0f} s")
        if now - self._lost_since > GIVE_UP_S:
            raise UserError(f"{self._folder}: has vanished; mount or connect it again, then start anew")

    def _tell_clock(self, now: str, newest: str) -> None:
        self._tell_once(
            "clock",
            f"the clock of the recorder went back from {newest} to {now}; each second is answered once, so the "
            f"next one is the first after {newest}",
        )

    def _tell_once(self, what: str, line: str) -> None:
        if what not in self._told:
            self._told.add(what)
            self._tell(line)


def require_there(recorded: RecordedTake) -> RecordedTake:
    """The take, whose folder is there.

    Raises:
        UserError: it is not.
    """
    if not (folder := recorded.root / recorded.take.folder).is_dir():
        raise UserError(f"{folder}: no such folder; give that of a take that is being recorded")
    return recorded


def _numbered(position: int) -> Element:
    return Element.at(position, f"{position:06d}", {})


def _is_number(name: str) -> bool:
    return name[:6].isdecimal() and name[6:7] in ("", ".")


def _state(path: Path) -> tuple[int, int] | None:
    """What changes when a file is written; None if it is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
