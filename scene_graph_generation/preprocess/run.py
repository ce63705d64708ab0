"""Take after take, or several at once: what the preprocessing steps have in common.

A step is a function that writes the missing files of one take. A take that cannot be finished keeps no other one from
it: what is wrong becomes one line. Files are whole or absent, so that a run that was killed is continued by the next.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from operating_room.domain.collection import Take
from operating_room.errors import UserError
from operating_room.files.atomic import write_json
from operating_room.files.readers import read_json
from operating_room.recordings.dataset import Dataset
from operating_room.recordings.folders import list_names
from operating_room.recordings.take import RecordedTake
from operating_room.recordings.transcripts import SETTINGS
from operating_room.scores.fingerprints import content_fingerprint, fingerprint
from operating_room.work.progress import Steps
from operating_room.work.workers import in_workers

Step = Callable[[RecordedTake], Iterable[Path]]  # yields what it has written

SOURCE = "source files"  # in the settings: a fingerprint of what the files were made of


@dataclass(frozen=True)
class Outcome:
    """Number of files written, and one line for each take that could not be finished."""

    written: int = 0
    problems: tuple[str, ...] = ()
    of: Mapping[str, Take] = field(default_factory=dict)  # problem -> its take, where it has one

    def __add__(self, other: Outcome) -> Outcome:
        """Both, each problem once."""
        problems = tuple(dict.fromkeys(self.problems + other.problems))
        return Outcome(self.written + other.written, problems, {**other.of, **self.of})

    def told(self, takes: Sequence[Take]) -> list[str]:
        """The problems in the order of the takes, however many processes have shared these."""
        places = {take: place for place, take in enumerate(takes)}
        return sorted(self.problems, key=lambda problem: places.get(self.of[problem], 0) if problem in self.of else -1)

    def require(self) -> int:
        """The number of files.

        Raises:
            UserError: there is a problem.
        """
        if self.problems:
            raise UserError("; ".join(self.problems))
        return self.written


def each_take(dataset: Dataset, takes: Sequence[Take], step: Step, title: str, workers: int = 1) -> Outcome:
    """Run a step for each take, several takes at once if there are workers.

    A take can last for an hour: where it is done by this process, its files are counted as they come.

    Raises:
        UserError: a worker was ended from outside.
    """
    recorded = [RecordedTake(dataset.take(take).root, take, dataset.domain) for take in takes]
    if workers == 1 or len(recorded) < 2:
        outcome = Outcome()
        with Steps(title, len(recorded)) as steps:
            for one in recorded:
                outcome += _attempt(step, one, lambda written: steps.advance(0, {"files": float(written)}))
                steps.advance()
        return outcome
    return sum(in_workers(partial(_attempt, step), recorded, workers, title), Outcome())


def places(recorded: RecordedTake, modality: str) -> dict[str, Path]:
    """Path of the file of each second of a take, by time stamp in the order of time; none if there can be no such file.

    Raises:
        UserError: the list of seconds is damaged.
    """
    numbers = {numbers["time"]: numbers for numbers in recorded.seconds.values()}
    paths = {time: recorded.path(modality, **of_it) for time, of_it in numbers.items()}
    return {time: path for time, path in paths.items() if path is not None}


def period_of(recorded: RecordedTake) -> tuple[str, ...]:
    """The time between timepoints where it says when they are; names of published files say it themselves."""
    return (f"{recorded.at('1')} s",) if recorded.collection.layout == "house" else ()


def missing(recorded: RecordedTake, files: Mapping[str, Path]) -> list[tuple[str, Path]]:
    """Those of `places` that are not there yet."""
    return [(time, path) for time, path in files.items() if not recorded.has(path)]


def settle(
    folder: Path,
    settings: Mapping[str, str],
    kind: str = "",
    sources: Iterable[Path] = (),
    made: Collection[str] = (),
    note: Path | None = None,
    also: Collection[str] = (),
) -> None:
    """Remember what the files of a folder are made of and how; a folder that has files from elsewhere stays without.

    Where a source has changed since, what was made of it is removed, so that it is missing and made again. It goes
    before the new settings are written: a run that is killed in between leaves nothing that passes for new.

    Args:
        folder: of one kind of file of a take.
        settings: how they are made.
        kind: of the files, where a folder has several.
        sources: what they are made of, told apart by name and content.
        made: the names of the files.
        note: where it is remembered if not in the folder itself.
        also: what else they follow from, and are made again for if it changes.

    Raises:
        UserError: there are files that were made in another way, which would be mixed with new ones, or the settings
            are damaged, or a source is not there.
    """
    path = note or folder / f"{SETTINGS}{kind}.json"
    content = content_fingerprint(sources)
    wanted = {**settings, SOURCE: fingerprint([content, *also]) if also else content}
    ending = kind + next((Path(name).suffix for name in made), "")
    there = {name for name in list_names(folder) if name.endswith(ending)}
    if path.exists():
        stored = read_json(path)
        if not isinstance(stored, dict):
            raise UserError(f"{path}: does not tell how the files beside it were made; remove the folder")
        differs = bool(there) and {**stored, SOURCE: None} != {**wanted, SOURCE: None}
        if differs and path.is_symlink() and all((folder / name).is_symlink() for name in there):
            for name in sorted(there):  # links of `--out` into the dataset, which keeps what it has
                remove(folder / name)
        elif differs:
            old, new = (", ".join(str(made[name]) for name in made if name != SOURCE) for made in (stored, wanted))
            raise UserError(f"{folder}: holds files made with {old}, not {new}; remove the folder or choose the same")
        if stored == wanted:
            return
        for name in sorted(there.intersection(made)):
            remove(folder / name)
    elif there:
        return
    write_json(path, wanted)


def notes_of(folder: Path) -> list[Path]:
    """The settings that tell how files of a folder were made; none of a folder that came with the dataset."""
    beside = (folder.parents[1] / f".{folder.parent.name}").glob(f"{folder.name}{SETTINGS}*.json")
    return [*folder.glob(f"{SETTINGS}*.json"), *beside]


def from_elsewhere(dataset: Dataset, takes: Sequence[Take], modality: str, source: str | None = None) -> list[Path]:
    """The folders of these takes whose files of a modality no step of ours has made: they stay, whatever is asked for.

    Args:
        dataset: where the takes are.
        takes: which ones; what cannot be looked into is told by the step.
        modality: of which a step makes the files.
        source: the file of the take that it makes them of; without it nothing could take their place.
    """
    found = []
    for recorded in map(dataset.unkept, takes):
        path = recorded.path(modality, time="", frame_id="", number=0)
        made_of = None if source is None else recorded.path(source)
        if path is None or (source is not None and made_of is None):
            continue
        ending = recorded.collection.files[modality].rpartition("}")[2]
        with suppress(UserError):
            there = any(name.endswith(ending) for name in recorded.list_folder(path.parent))
            if there and not notes_of(path.parent) and (made_of is None or recorded.has(made_of)):
                found.append(path.parent)
    return found


def half_copied(dataset: Dataset, names: Sequence[str] | None) -> Iterator[str]:
    """One line for each folder of published takes that has no index, so that none of its takes counts as there.

    Args:
        dataset: where to look.
        names: as in `Dataset.choose`; takes that are named one by one are required there.
    """
    domain = dataset.domain
    splits = [name for name in names or () if name in domain.splits]
    wanted = domain.takes if names is None else [take for name in splits for take in domain.split_takes(name)]
    known = {(take.dataset, take.folder) for take in dataset.takes()}
    for take in dict.fromkeys(take for take in wanted if (take.dataset, take.folder) not in known):
        if take.dataset in dataset.roots and (folder := dataset.roots[take.dataset] / take.folder).is_dir():
            index = domain.collection(take).index_files(take)[-1].name
            yield f"{folder}: has no {index}; copy the take again from the dataset archive"


def remove(path: Path) -> None:
    """Delete a file that is to be made again, if it is there.

    Raises:
        UserError: that is not allowed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{path}: is out of date and cannot be removed ({error.strerror}); check permissions"
        ) from error


def _attempt(step: Step, recorded: RecordedTake, tell: Callable[[int], object] = lambda _: None) -> Outcome:
    written = 0
    try:
        for _ in step(recorded):
            written += 1
            tell(written)
    except UserError as error:
        return Outcome(written, (str(error),), {str(error): recorded.take})
    return Outcome(written)
