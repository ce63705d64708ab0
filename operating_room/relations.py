"""Raw relation labels of both datasets -> scene graph samples, and the files that hold samples.

Data specification, section 3. Raw relations are (subject, predicate, object), samples (subject, object, predicate).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from operating_room import layout
from operating_room.dataset import Dataset, RecordedTake
from operating_room.errors import UserError
from operating_room.files import write_json, write_text
from operating_room.folders import folders_of_no_take, list_names
from operating_room.progress import track
from operating_room.readers import read_bytes, read_json, require
from operating_room.scene_graph import Sample, Triplet, is_relation, true_relation
from operating_room.takes import FOURDOR, OWN, TAKES, Take, split_takes
from operating_room.vocabulary import RAW_ENTITY_NAMES

SPLIT_NAMES = {"train": "train", "val": "validation", "test": "test"}  # split -> its name in file names

_PATIENT, _TABLE, _INSTRUMENT = "patient", "operating_table", "instrument"
_WITH_INSTRUMENT = ("cutting", "drilling", "sawing", "suturing", "hammering", "cementing", "cleaning")
_HUMAN, _IGNORED_HUMANS, _DEFAULT_ROLE = "human_", ("human_7", "human_8"), "circulator"
_ROLE_NAMES = {"circulating-nurse": "circulator"}
_PREDICTIONS = "predictions map sample ids to lists of [subject, predicate, object]"
_THINNED_TAKE, _THINNING = "007_TKA", 3  # of this take every third label file counts


@dataclass(frozen=True)
class Conversion:
    """What `convert` wrote, and one line for each label file or folder that could not be used."""

    written: list[Path]
    problems: list[str]


def load_samples(path: Path) -> list[Sample]:
    """The samples of a `relationships_*.json` (or `.json.gz`) in the order of the file.

    Raises:
        UserError: missing or unreadable, no list of samples, or a sample twice.
    """
    records = read_json(path)
    if not isinstance(records, list):
        raise UserError(f"{path}: must be a list of samples with take_name, frame_id and relationships")
    try:
        samples = [Sample.from_record(record) for record in records]
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    (sample_id, count), *_ = Counter(sample.sample_id for sample in samples).most_common(1) or [("", 0)]
    if count > 1:
        raise UserError(f"{path}: sample {sample_id} is there {count} times; remove all but one")
    return samples


def save_samples(path: Path, samples: Iterable[Sample]) -> None:
    """Write samples as a `relationships_*.json`."""
    write_json(path, [sample.to_record() for sample in samples])


def load_predictions(path: Path) -> dict[str, list[Triplet]]:
    """Predicted graphs by sample id, names as generated; stored as sample id -> [subject, predicate, object] lists.

    Raises:
        UserError: missing or unreadable, or of another form.
    """
    require(path, "`mmor scene-graph infer`")
    records = read_json(path)
    if not isinstance(records, dict):
        raise UserError(f"{path}: {_PREDICTIONS}")
    for sample_id, graph in records.items():
        wrong = [graph] if not isinstance(graph, list) else [one for one in graph if not is_relation(one)]
        if wrong:
            raise UserError(f"{path}: {sample_id} has {str(wrong[0])[:80]!r}; {_PREDICTIONS}")
    return {key: [Triplet(s, o, p) for s, p, o in graph] for key, graph in records.items()}


def save_predictions(path: Path, predictions: Mapping[str, Iterable[Triplet]]) -> None:
    """Write predicted graphs in the published form."""
    write_json(path, {key: [[s, p, o] for s, o, p in triplets] for key, triplets in predictions.items()})


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
    recorded = RecordedTake(root, take)
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
        named = layout.file_number(path.stem) == path.stem
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
            true_relation(triplet)
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
