"""Raw relation labels of a timepoint -> a scene graph sample.

Data specification, section 3. Raw relations of MM-OR and 4D-OR are (subject, predicate, object), samples and the files
of the house layout (subject, object, predicate).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from operating_room.domain.collection import Take
from operating_room.domain.domain import Domain
from operating_room.domain.language import Language
from operating_room.domain.numbers import file_number
from operating_room.errors import UserError
from operating_room.files.readers import read_json
from operating_room.graphs.scene_graph import Sample, Triplet, true_relation

_PATIENT, _TABLE, INSTRUMENT = "patient", "operating_table", "instrument"
_WITH_INSTRUMENT = ("cutting", "drilling", "sawing", "suturing", "hammering", "cementing", "cleaning")
_HUMAN, _IGNORED_HUMANS, _DEFAULT_ROLE = "human_", ("human_7", "human_8"), "circulator"
_ROLE_NAMES = {"circulating-nurse": "circulator"}
_FORMS = {
    "mmor": "rel_annotations as lists of names",
    "4dor": "rel_annotations as lists of names, human_name_annotations",
    "triplets": "a list of [subject, object, predicate]",
}


def read_labels(path: Path, take: Take, domain: Domain) -> Sample:
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
    collection, language = domain.collection(take), domain.language
    try:
        triplets = _READERS[collection.labels](raw, language)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path}: is no {collection.name} relation label file (needs {_FORMS[collection.labels]}); "
            "correct it or copy it again"
        ) from error
    pairs = Counter((t.subject, t.object) for t in triplets)
    twice = sorted(pair for pair, count in pairs.items() if count > 1)
    for pair in twice if not language.several_predicates else ():
        predicates = sorted(t.predicate for t in triplets if (t.subject, t.object) == pair)
        told = "only one can stay, unless the language of the domain says several_predicates: true"
        raise UserError(f"{path}: {' and '.join(predicates)} between {pair[0]} and {pair[1]}; {told}")
    for triplet in sorted(triplets):
        try:
            true_relation(triplet, language)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
    return Sample(take.sample_name, path.stem, tuple(sorted(triplets)))


def _read_fourdor(raw: Any, _: Language) -> set[Triplet]:
    """Relations of a 4D-OR label file, people called by their role (steps 1 to 5), instruments implied (step 6)."""
    roles = {
        human: _ROLE_NAMES.get(role, role) for human, role in raw["human_name_annotations"].items() if role != "none"
    }
    relations = set()
    for subject, predicate, object_ in _relations(raw):
        if subject in _IGNORED_HUMANS or object_ in _IGNORED_HUMANS:
            continue
        named = [roles.get(name, _DEFAULT_ROLE) if _HUMAN in name else name for name in (subject, object_)]
        relations.add(Triplet(_entity(named[0]), _entity(named[1]), _predicate(predicate)))
    implied = {Triplet(t.subject, INSTRUMENT, "holding") for t in relations if t.predicate in _WITH_INSTRUMENT}
    return complete(relations) | implied


def _read_mmor(raw: Any, language: Language) -> set[Triplet]:
    """Relations of an MM-OR label file, short names spelled out (steps 3 to 5)."""
    relations = set()
    for subject, predicate, object_ in _relations(raw):
        named = [language.raw_names.get(_entity(name), _entity(name)) for name in (subject, object_)]
        relations.add(Triplet(*named, _predicate(predicate)))
    return complete(relations)


def _read_triplets(raw: Any, language: Language) -> set[Triplet]:
    """Relations of a file of the house layout, spelled as the domain does; what is no name of it stays as it stands."""
    if not isinstance(raw, list) or not all(isinstance(relation, list) and len(relation) == 3 for relation in raw):
        raise ValueError("no list of lists of three names")
    predicates = {name.lower(): name for name in language.predicates}

    def entity(name: str) -> str:
        spelled = language.entity_name(name)
        return spelled if spelled in language.entity_index else name

    return {
        Triplet(entity(subject), entity(object_), predicates.get(language.predicate_name(predicate), predicate))
        for subject, object_, predicate in map(_names, raw)
    }


_READERS = {"mmor": _read_mmor, "4dor": _read_fourdor, "triplets": _read_triplets}


def _relations(raw: Any) -> Iterator[list[str]]:
    """The relations of a label file of MM-OR or 4D-OR, see `_names`."""
    if not isinstance(raw["rel_annotations"], list):
        raise ValueError("rel_annotations is no list")  # an empty text or object would be an empty graph
    return map(_names, raw["rel_annotations"])


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
