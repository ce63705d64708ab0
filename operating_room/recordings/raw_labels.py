"""Raw relation labels of both datasets -> scene graph samples.

Data specification, section 3. Raw relations are (subject, predicate, object), samples (subject, object, predicate).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from operating_room.domain.domain import mmor
from operating_room.domain.numbers import file_number
from operating_room.domain.takes import FOURDOR, OWN, TAKES, Take, split_takes
from operating_room.domain.vocabulary import RAW_ENTITY_NAMES
from operating_room.errors import UserError
from operating_room.files.atomic import write_text
from operating_room.files.readers import read_bytes, read_json
from operating_room.graphs.graph_files import SPLIT_NAMES, save_samples
from operating_room.graphs.scene_graph import Sample, Triplet, true_relation
from operating_room.recordings.dataset import Dataset, RecordedTake
from operating_room.recordings.folders import folders_of_no_take, list_names
from operating_room.work.progress import track

_PATIENT, _TABLE, _INSTRUMENT = "patient", "operating_table", "instrument"
_WITH_INSTRUMENT = ("cutting", "drilling", "sawing", "suturing", "hammering", "cementing", "cleaning")
_HUMAN, _IGNORED_HUMANS, _DEFAULT_ROLE = "human_", ("human_7", "human_8"), "circulator"
_ROLE_NAMES = {"circulating-nurse": "circulator"}
_THINNED_TAKE, _THINNING = "007_TKA", 3  # of this take every third label file counts


@dataclass(frozen=True)
class Conversion:
    """What `convert` wrote, and one line for each label file or folder that could not be used."""

    written: list[Path]
    problems: list[str]


def convert(root: Path, out: Path) -> Conversion:
    """Convert the raw labels of all takes on disk to the files that training and evaluation read.

    Writes `relationships_{train,validation,test}.json` for the takes of the splits, `relationships_own.json` for takes
    of one's own if there are any, and `classes.txt` and `relationships.txt` with all names in use, those of the short
    clips included; such a file that has all these names is left as it is, so that few takes never shorten it. Label
    files that cannot be used are left out and reported.

    Args:
        root: the folder that holds `MM-OR_data`, `4D-OR_data` or both, or is one of them.
        out: the folder to write to.

    Raises:
        UserError: there is no usable label file below `root`, or `out` cannot be written.
    """
    dataset = Dataset(root)
    roots = dataset.roots
    own = [take for take in dataset.takes() if take not in TAKES]
    samples: dict[Take, list[Sample]] = {take: [] for take in (*TAKES, *own)}
    published = {take.folder for take in TAKES}  # whose labels are read without an index, too
    problems = [
        f"{folder}: {reason}; its labels are left out"
        for name, root_of_dataset in roots.items()
        for folder, reason in folders_of_no_take(root_of_dataset, name).items()
        if folder.name not in published and _has_labels(folder)
    ]
    for take in track([take for take in samples if take.dataset in roots], "converting relation labels"):
        try:
            files = label_files(roots[take.dataset], take)
        except UserError as error:
            problems.append(f"{take.sample_name} is left out: {error}")
            continue
        for path in files:
            try:
                samples[take].append(read_labels(path, take))
            except UserError as error:
                problems.append(str(error))
    if not any(samples.values()):
        found = f"nothing can be used, the first of {len(problems)} problems: {problems[0]}" if problems else "no files"
        raise UserError(f"{root}: looked for relation labels in the folders of the takes; {found}")
    contents = {
        f"relationships_{name}.json": [s for take in split_takes(split) for s in samples[take]]
        for split, name in SPLIT_NAMES.items()
    }
    if own:
        contents[f"relationships_{OWN}.json"] = [s for take in own for s in samples[take]]
    for name, of_split in contents.items():
        save_samples(out / name, of_split)
    triplets = [triplet for of_take in samples.values() for sample in of_take for triplet in sample.triplets]
    entities = {_INSTRUMENT} | {name for t in triplets for name in (t.subject, t.object)}
    names = {"classes.txt": entities, "relationships.txt": {t.predicate for t in triplets}}
    written = [out / name for name in contents]
    for name, words in names.items():
        if _lacks(out / name, words):
            write_text(out / name, "\n".join(sorted(words)))
            written.append(out / name)
    return Conversion(written, problems)


def label_files(root: Path, take: Take) -> list[Path]:
    """The raw label files of a take that count, in the order of their names.

    Args:
        root: the folder of the take's dataset.
        take: the take; of 007_TKA only every third file counts.
    """
    recorded = RecordedTake(root, take, mmor())
    folder = recorded.annotation_folder
    names = [] if folder is None else sorted(name for name in recorded.list_folder(folder) if name.endswith(".json"))
    files = [folder / name for name in names if folder is not None]
    return files[::_THINNING] if take.name == _THINNED_TAKE else files


def _has_labels(folder: Path) -> bool:
    try:
        return any(name.startswith("relation_labels") for name in list_names(folder))
    except UserError:
        return True  # nobody can say


def _lacks(path: Path, words: Iterable[str]) -> bool:
    """Whether a file with a name per line lacks one of these, or is not there."""
    return not path.exists() or not set(words) <= set(read_bytes(path).decode("utf-8", "replace").split("\n"))


def read_labels(path: Path, take: Take) -> Sample:
    """The sample of one raw label file; its name is the frame id.

    Raises:
        UserError: unreadable, not of the form of the take's dataset, two entities related in two ways, a name that is
            in no table, or a file name that is no frame id.
    """
    try:
        named = file_number(path.stem) == path.stem
    except ValueError:
        named = False
    if not named:
        raise UserError(f"{path}: the name must be a frame id of six digits, as in 000017.json; rename it")
    raw = read_json(path)
    try:
        relations = _read_fourdor(raw) if take.dataset == FOURDOR else _read_mmor(raw)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path}: is no {take.dataset} relation label file (needs rel_annotations as lists of names"
            f"{', human_name_annotations' if take.dataset == FOURDOR else ''}); correct it or copy it again"
        ) from error
    triplets = complete(relations)
    if take.dataset == FOURDOR:
        triplets |= {Triplet(t.subject, _INSTRUMENT, "holding") for t in relations if t.predicate in _WITH_INSTRUMENT}
    pairs = Counter((t.subject, t.object) for t in triplets)
    for pair in sorted(pair for pair, count in pairs.items() if count > 1):
        predicates = sorted(t.predicate for t in triplets if (t.subject, t.object) == pair)
        raise UserError(f"{path}: {' and '.join(predicates)} between {pair[0]} and {pair[1]}; only one can stay")
    for triplet in sorted(triplets):
        try:
            true_relation(triplet, mmor().language)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
    return Sample(take.sample_name, path.stem, tuple(sorted(triplets)))


def _read_fourdor(raw: Any) -> set[Triplet]:
    """Relations of a 4D-OR label file, people called by their role (steps 1 to 3)."""
    roles = {
        human: _ROLE_NAMES.get(role, role) for human, role in raw["human_name_annotations"].items() if role != "none"
    }
    relations = set()
    for subject, predicate, object_ in map(_names, raw["rel_annotations"]):
        if subject in _IGNORED_HUMANS or object_ in _IGNORED_HUMANS:
            continue
        named = [roles.get(name, _DEFAULT_ROLE) if _HUMAN in name else name for name in (subject, object_)]
        relations.add(Triplet(_entity(named[0]), _entity(named[1]), _predicate(predicate)))
    return relations


def _read_mmor(raw: Any) -> set[Triplet]:
    """Relations of an MM-OR label file, short names spelled out (step 3)."""
    relations = set()
    for subject, predicate, object_ in map(_names, raw["rel_annotations"]):
        named = [RAW_ENTITY_NAMES.get(_entity(name), _entity(name)) for name in (subject, object_)]
        relations.add(Triplet(*named, _predicate(predicate)))
    return relations


def _names(relation: Any) -> list[str]:
    """The three names of a relation as stored; the body parts that 4D-OR adds are cut off."""
    if not isinstance(relation, list) or len(relation) < 3 or not all(isinstance(name, str) for name in relation[:3]):
        raise ValueError(f"{relation!r} is no list of three names")
    return relation[:3]


def _entity(name: str) -> str:
    return name.lower().replace("-", "_")


def _predicate(name: str) -> str:
    name = name[:1].lower() + name[1:]
    return "manipulating" if name == "operating" else name


def complete(relations: set[Triplet]) -> set[Triplet]:
    """Add what the position of patient and table implies (data specification, section 3, steps 4 and 5).

    The patient lies on the operating table whenever either occurs; whoever has to do with the patient is close to it.
    """
    relations = set(relations)
    if any(name in (_PATIENT, _TABLE) for t in relations for name in (t.subject, t.object)):
        relations.add(Triplet(_PATIENT, _TABLE, "lyingOn"))
    with_patient = {t.subject for t in relations if t.object == _PATIENT} | {
        t.object for t in relations if t.subject == _PATIENT
    }
    at_table = {t.subject for t in relations if t.object == _TABLE} | {_TABLE}
    return relations | {Triplet(name, _TABLE, "closeTo") for name in with_patient - at_table}
