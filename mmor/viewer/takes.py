"""What is shown: the takes of a dataset, and beside them what was predicted for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import RLock

from mmor.lenses import lens
from mmor.viewer.cache import Cache
from mmor.viewer.graphs import Live, LiveLine, Said, read_graphs
from mmor.viewer.pictures import TRUTH, MaskFolder
from operating_room.domain.collection import Take
from operating_room.domain.domain import Domain
from operating_room.errors import UserError
from operating_room.files.camera_files import Calibration
from operating_room.graphs.memory import Change, Memory, changes_before, memory_text, truncate
from operating_room.graphs.scene_graph import Sample, Triplet, as_said, sample_id, split_sample_id
from operating_room.recordings.dataset import Dataset
from operating_room.recordings.index import Element
from operating_room.recordings.raw_labels import read_labels
from operating_room.recordings.take import RecordedTake
from operating_room.recordings.timepoint import Timepoint
from operating_room.recordings.transcripts import words_of

CACHE_BYTES = 256 << 20  # pictures of several minutes of ten cameras
MOST_PREDICTIONS = 2  # beside each other; more cannot be told apart in a picture
_NOTHING = "none"  # what the page has for no masks
LIVE = "live"  # the name of what `mmor live` says among predicted graphs


class ViewedTake:
    """A take on disk and its graphs; what needs the whole take is made when it is first asked for."""

    def __init__(self, recorded: RecordedTake) -> None:
        self.recorded, self.problems = recorded.readable()
        self._lock = RLock()  # requests come in several threads
        self._logs: dict[str, tuple[Change, ...]] = {}

    @property
    def take(self) -> Take:
        """Which take."""
        return self.recorded.take

    @property
    def index(self) -> Sequence[Element]:
        """What is known of each timepoint before its files are looked for.

        Raises:
            UserError: the index is missing or damaged.
        """
        with self._lock:
            return self.recorded.index

    def timepoint(self, position: int) -> Timepoint:
        """With the files that were there when the folders of the take were first looked at.

        Of all timepoints together that takes seconds in a take of hours, and a live one is looked at anew each second.

        Raises:
            UserError: there is no such position, or the index is missing or damaged.
        """
        with self._lock:
            return self.recorded.timepoint(f"{position:06d}")

    @cached_property
    def times(self) -> list[float]:
        """When each timepoint is, in s since the take began.

        Raises:
            UserError: the index is missing or damaged.
        """
        return [self.recorded.at(element.time) for element in self.index]

    @cached_property
    def words(self) -> Callable[[Timepoint], str | None]:
        """What was said up to a timepoint; see `words_of`."""
        return words_of(self.recorded)

    @cached_property
    def truth(self) -> Mapping[int, tuple[Triplet, ...]]:
        """Position -> labelled graph. A label file that cannot be used costs its own second, which tells why.

        Raises:
            UserError: the index is missing or damaged.
        """
        with self._lock:
            found, folder = {}, self.recorded.annotation_folder
            names = frozenset() if folder is None else self.recorded.list_folder(folder)
            labelled = [n for n, element in enumerate(self.index) if f"{element.frame_id}.json" in names]
            for position in labelled:
                try:
                    sample = label_of(self.timepoint(position))
                except UserError:  # told where the second is shown
                    continue
                if sample is not None:
                    found[position] = sample.triplets
            return found

    @cached_property
    def lenses(self) -> tuple[Mapping[str, Calibration], Sequence[str]]:
        """How cameras with a camera file project, and what is wrong with files that cannot be used.

        Raises:
            UserError: the index is missing or damaged.
        """
        with self._lock:
            _ = self.index  # what is wrong with the take is not told as if it were of its cameras
            found, problems = dict[str, Calibration](), list[str]()
            for camera in self.recorded.collection.camera:
                try:
                    of_camera = lens(self.recorded, camera)
                except UserError as error:  # costs its own camera
                    problems.append(str(error))
                    continue
                if of_camera is not None:
                    found[camera] = of_camera
            return found, problems

    def predicted(self, said: Said) -> dict[int, Sequence[Triplet]]:
        """Position -> what was said of this take."""
        name = self.take.sample_name
        keys = ((position, sample_id(name, element.frame_id)) for position, element in enumerate(self.index))
        return {position: said.graphs[key] for position, key in keys if key in said.graphs}

    def memory(self, position: int, source: str, graphs: Mapping[int, Iterable[Triplet]]) -> str:
        """What a prompt tells of the past: of the graphs of a source before a position."""
        with self._lock:
            if source not in self._logs:
                memory = Memory.of(self.recorded.domain.language)
                for at, triplets in sorted(graphs.items()):
                    memory.add(as_said(triplets), int(self.index[at].time))
                self._logs[source] = tuple(memory.log)
            log = self._logs[source]
        return truncate(memory_text(changes_before(log, int(self.index[position].time))))


def label_of(timepoint: Timepoint) -> Sample | None:
    """The labelled graph of a timepoint; None where there is none.

    Raises:
        UserError: its file cannot be used.
    """
    path = timepoint.one("annotation")
    return None if path is None else read_labels(path, timepoint.take, timepoint.domain)


@dataclass
class Shown:
    """All that the page can ask for."""

    dataset: Dataset
    masks: dict[str, MaskFolder] = field(default_factory=dict)  # by the name that the page has for them
    graphs: dict[str, Said] = field(default_factory=dict)
    live: Live | None = None
    first: Take | None = None  # the take that was asked for
    cache: Cache = field(default_factory=lambda: Cache(CACHE_BYTES))
    _viewed: dict[str, ViewedTake] = field(default_factory=dict)
    _at_least: dict[str, int] = field(default_factory=dict)  # timepoints of takes, by what was live
    _lock: RLock = field(default_factory=RLock)

    @property
    def domain(self) -> Domain:
        """In whose words the takes are."""
        return self.dataset.domain

    def takes(self) -> list[Take]:
        """The takes on disk now."""
        return self.dataset.takes()

    def take(self, name: str) -> ViewedTake:
        """The take of a sample name (001_PKA_MMOR).

        Raises:
            UserError: it is not on disk.
        """
        with self._lock:
            if name not in self._viewed:
                take = next((take for take in self.takes() if take.sample_name == name), None)
                if take is None:
                    raise UserError(f"{self.dataset.root}: no take {name[:80]!r}; choose one of the list")
                root, at_least = self.dataset.roots[take.dataset], self._at_least.get(name, 0)
                self._viewed[name] = ViewedTake(RecordedTake(root, take, self.domain, at_least=at_least))
            return self._viewed[name]

    def timepoint(self, name: str, position: int) -> tuple[ViewedTake, Timepoint]:
        """A take and one of its timepoints.

        Raises:
            UserError: there is no such take or position.
        """
        viewed = self.take(name)
        if not 0 <= position < len(viewed.index):
            raise UserError(f"take {viewed.take.name}: has no timepoint {position}, only 0 to {len(viewed.index) - 1}")
        return viewed, viewed.timepoint(position)

    def follow(self) -> tuple[list[LiveLine], int] | None:
        """Look at what `mmor live` has written meanwhile, and at the take again if it has grown.

        Returns:
            the last minute and the number of damaged lines; None where nothing is live.

        Raises:
            UserError: the file is gone.
        """
        if self.live is None:
            return None
        with self._lock:  # the lines change while another request looks
            self.live.update()
            self.graphs[LIVE] = self.live.said
            found = list(self.live.lines), self.live.damaged
            if not found[0]:
                return found
            newest = found[0][-1]
            known, position = self._viewed.get(newest.take), int(newest.frame_id)
            self._at_least[newest.take] = max(self._at_least.get(newest.take, 0), position + 1)
            if known is not None and (position >= len(known.index) or not known.timepoint(position).views):
                del self._viewed[newest.take]
            return found


def open_shown(
    dataset: Dataset,
    take: Take | None = None,
    masks: Sequence[Path] = (),
    graphs: Sequence[Path] = (),
    live: Path | None = None,
) -> Shown:
    """Look at what is to be shown before a page is opened.

    Args:
        dataset: where the takes are.
        take: the one to begin with; None shows a list.
        masks: output folders of a segmenter, two at most.
        graphs: results or predictions, two at most.
        live: what `mmor live` is writing.

    Raises:
        UserError: something is missing, damaged, of another domain, or of none of the takes.
    """
    for what, given in (("--masks", masks), ("--graphs", graphs)):
        if len(given) > MOST_PREDICTIONS:
            raise UserError(f"{what}: {len(given)} are given, and {MOST_PREDICTIONS} at most can be compared")
    possible = dataset.takes() if take is None else [take]
    where = dataset.root if take is None else f"take {take.name}"
    said = {}
    for name, path in _named(graphs).items():
        said[name] = read_graphs(path, dataset.domain)
        of = {split_sample_id(key)[0] for key in said[name].graphs}
        if not of & {one.sample_name for one in possible}:
            told = ", ".join(sorted(of)[:6]) or "nothing"
            raise UserError(f"{path}: says nothing of {where}; it is about {told}; choose the takes or another file")
    folders = {name: MaskFolder(path) for name, path in _named(masks).items()}
    for folder in folders.values():
        folder.require(dataset.domain)
        if not any(folder.covers(one, dataset.domain.collection(one)) for one in possible):
            raise UserError(f"{folder.given}: holds no masks of {where}; choose the take or another folder")
    shown = Shown(dataset, folders, said, None if live is None else Live(live), take)
    if take is not None:
        _ = shown.take(take.sample_name).times  # what is wrong with it is told now, and the page opens sooner
    shown.follow()
    if shown.live is not None:
        shown.live.require()
    return shown


def _named(paths: Sequence[Path]) -> dict[str, Path]:
    """Paths by what tells them apart in a page: their names, with that of the folder above where these are equal.

    Or are those that the page has for annotations, for what is live and for nothing, which it would show in their
    place; `|` stands between the two names of what is compared.
    """
    names = [(path.name.removesuffix(".json") or str(path)).replace("|", "_") for path in paths]
    if len(set(names)) < len(names) or {TRUTH, LIVE, _NOTHING}.intersection(names):
        above = [path.absolute().parent.name.replace("|", "_") for path in paths]
        names = [f"{folder}/{name}" for folder, name in zip(above, names)]
    if len(set(names)) < len(names):
        names = [f"{number} {name}" for number, name in enumerate(names, 1)]
    return dict(zip(names, paths))
