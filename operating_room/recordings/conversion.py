"""The raw labels of all takes -> the files that training and evaluation read (data specification, section 3)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from operating_room.domain.collection import Take
from operating_room.domain.domain import OWN
from operating_room.domain.house import SPLITS_FILE
from operating_room.errors import UserError
from operating_room.files.atomic import write_text
from operating_room.graphs.graph_files import SPLIT_NAMES, load_samples, save_samples
from operating_room.graphs.scene_graph import Sample, by_take
from operating_room.recordings.dataset import Dataset
from operating_room.recordings.folders import folders_of_no_take, holds_labels
from operating_room.recordings.raw_labels import INSTRUMENT, read_labels
from operating_room.recordings.take import RecordedTake
from operating_room.work.progress import track


@dataclass(frozen=True)
class Conversion:
    """What `convert` wrote, and one line for each label file or folder that could not be used."""

    written: list[Path]
    problems: list[str]
    notes: list[str] = field(default_factory=list)  # what stays of files that were there, a line for each


def convert(dataset: Dataset, out: Path) -> Conversion:
    """Convert the raw labels of all takes on disk to the files that training and evaluation read.

    Writes `relationships_{train,validation,test}.json` for the takes of the splits, `relationships_own.json` for takes
    of one's own if there are any, and `classes.txt` and `relationships.txt` with all names in use, those of the short
    clips included. Few takes shorten none of them: a file of names that has all of these is left as it is, and of a
    split that is there already, as the published one, takes without labels on disk stay. Label files that cannot be
    used are left out and reported; so are takes of the house layout in other splits only.

    Args:
        dataset: where the takes are.
        out: the folder to write to.

    Raises:
        UserError: there is no usable label file in the dataset, or `out` cannot be written.
    """
    domain, roots = dataset.domain, dataset.roots
    own = dataset.select(OWN)
    samples: dict[Take, list[Sample]] = {take: [] for take in (*domain.takes, *own)}
    labelled: set[Take] = set()
    # Published takes, whose labels are read without an index, too.
    published = {roots[take.dataset] / take.folder for take in domain.takes if take.dataset in roots}
    problems = [
        f"{folder}: {reason}; its labels are left out"
        for name, root_of_dataset in roots.items()
        for folder, reason in folders_of_no_take(root_of_dataset, name, domain).items()
        if folder not in published and holds_labels(folder, domain.collection(name))
    ]
    for take in track([take for take in samples if take.dataset in roots], "converting relation labels"):
        try:
            files = label_files(dataset.take(take))
        except UserError as error:
            problems.append(f"{take.sample_name} is left out: {error}")
            continue
        labelled |= {take} if files else set()
        for path in files:
            try:
                samples[take].append(read_labels(path, take, domain))
            except UserError as error:
                problems.append(str(error))
    if not any(samples.values()):
        found = f"nothing can be used, the first of {len(problems)} problems: {problems[0]}" if problems else "no files"
        raise UserError(f"{dataset.root}: looked for relation labels in the folders of the takes; {found}")
    contents, notes = {}, []
    for split, name in SPLIT_NAMES.items():
        if split not in domain.splits:
            continue
        takes, path = domain.split_takes(split), out / f"relationships_{name}.json"
        before, damage = _of_takes(path, takes)
        kept = {t.sample_name: before[t.sample_name] for t in takes if t not in labelled and t.sample_name in before}
        notes += [
            f"{path}: had {len(before[t.sample_name])} timepoints of {t.sample_name}, {len(samples[t])} have usable "
            "labels on disk; copy its labels and the file again if these are too few"
            for t in takes
            if t in labelled and len(before.get(t.sample_name, ())) > len(samples[t])
        ]
        if damage is not None:
            notes.append(f"{damage}; it is written anew, from what is on disk")
        if kept:
            notes.append(f"{path}: takes without labels on disk stay in it: {', '.join(kept)}")
        contents[path.name] = [s for take in takes for s in kept.get(take.sample_name, samples[take])]
    if own:
        contents[f"relationships_{OWN}.json"] = [s for take in own for s in samples[take]]
    problems += [
        f"{roots[take.dataset] / SPLITS_FILE}: take {take.name} is in {', '.join(domain.splits_of(take))} and in none "
        "of train, val and test, so its labels are in no file; put it into one of these, or into no split as your own"
        for take, of_take in samples.items()
        if of_take and domain.collection(take).layout == "house"
        if not {*SPLIT_NAMES, OWN}.intersection(domain.splits_of(take) or [OWN])
    ]
    for name, of_split in contents.items():
        save_samples(out / name, of_split)
    triplets = [triplet for of_take in samples.values() for sample in of_take for triplet in sample.triplets]
    entities = {name for t in triplets for name in (t.subject, t.object)}
    entities |= {INSTRUMENT}.intersection(domain.language.entities)
    names = {"classes.txt": entities, "relationships.txt": {t.predicate for t in triplets}}
    written = [out / name for name in contents]
    for name, words in names.items():
        if _lacks(out / name, words):
            write_text(out / name, "\n".join(sorted(words)))
            written.append(out / name)
    return Conversion(written, problems, notes)


def label_files(recorded: RecordedTake) -> list[Path]:
    """The raw label files of a take that count, in the order of their names; of 007_TKA only every third does."""
    folder = recorded.annotation_folder
    names = [] if folder is None else sorted(name for name in recorded.list_folder(folder) if name.endswith(".json"))
    files = [folder / name for name in names if folder is not None]
    return files[:: recorded.collection.thinned.get(recorded.take.name, 1)]


def changes_since(dataset: Dataset, split: str, path: Path, samples: Sequence[Sample]) -> str | None:
    """What takes and labels of the house layout say otherwise than the file that was once made of them.

    There it is made of what people write and correct, day by day. Only label files that are newer than it are read.

    Args:
        dataset: where the takes are.
        split: of the file.
        path: the file.
        samples: what it holds.

    Raises:
        UserError: a folder of a take cannot be listed.
    """
    if split not in (OWN, *dataset.domain.splits):
        return None  # somebody has written the file
    takes = {take.sample_name: take for take in dataset.takes() if dataset.domain.collection(take).layout == "house"}
    of_split = {take.sample_name for take in dataset.select(split)}
    listed, made = by_take(samples), path.stat().st_mtime_ns
    moved = [name for name in listed if name in takes and name not in of_split]
    lacking, others = [], []
    for name, take in takes.items():
        files = label_files(dataset.take(take)) if name in of_split else []
        there = {sample.frame_id: set(sample.triplets) for sample in listed.get(name, ())}
        now = {file.stem: there.get(file.stem) for file in files}
        for file in files:
            if now[file.stem] is None or file.stat().st_mtime_ns > made:
                with suppress(UserError):  # which converting tells
                    now[file.stem] = set(read_labels(file, take, dataset.domain).triplets)
        now = {frame: graph for frame, graph in now.items() if graph is not None}
        if now and not there:
            lacking.append(name)
        elif now and now != there:
            others.append(name)
    told = {
        "lacks {}": lacking,
        "has other labels of {} than are in their folders now": others,
        f"has {{}}, not of {split} any more": moved,
    }
    return "; ".join(form.format(", ".join(names)) for form, names in told.items() if names) or None


def _of_takes(path: Path, takes: Iterable[Take]) -> tuple[dict[str, list[Sample]], UserError | None]:
    """What a file of samples, if it is there, has of these takes, and what is wrong with it if it cannot be read."""
    if not path.exists():
        return {}, None
    wanted = {take.sample_name for take in takes}
    try:
        return {name: found for name, found in by_take(load_samples(path)).items() if name in wanted}, None
    except UserError as error:
        return {}, error


def _lacks(path: Path, words: Iterable[str]) -> bool:
    """Whether a file with a name per line lacks one of these, or is not there."""
    return not path.exists() or not set(words) <= set(path.read_text("utf-8-sig", "replace").splitlines())
