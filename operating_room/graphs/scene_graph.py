"""Scene graphs as triplets: reading generated text, normalising names, printing targets.

Data specification, sections 4.2 (target text) and 6 (parser, normalisation); quirk 2 of section 11 is mirrored.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, NamedTuple, TypeGuard

from operating_room.domain.language import Language
from operating_room.domain.numbers import file_number
from operating_room.errors import UserError

START, END = "<SG>", "</SG>"
_BLOCK = re.compile(r'""".*?"""', re.DOTALL)


def sample_id(take_name: str, frame_id: str) -> str:
    """The key of prediction files: `<take>_<frame>`."""
    return f"{take_name}_{frame_id}"


def split_sample_id(key: str) -> tuple[str, str]:
    """Take name, with its suffix, and frame id of a sample id."""
    take_name, _, frame_id = key.rpartition("_")
    return take_name, frame_id


class Triplet(NamedTuple):
    """One relation, in the order of the sample files and of generated text: subject, object, predicate."""

    subject: str
    object: str
    predicate: str


@dataclass(frozen=True)
class Sample:
    """The scene graph of one timepoint; `frame_id` is its position in the take's index file, six digits."""

    take_name: str  # with suffix: 001_PKA_MMOR, 001_4DOR
    frame_id: str
    triplets: tuple[Triplet, ...]

    @property
    def sample_id(self) -> str:
        """`<take>_<frame>`, the key of prediction files."""
        return sample_id(self.take_name, self.frame_id)

    @property
    def position(self) -> int:
        """Of the timepoint in its take.

        Raises:
            UserError: its frame_id is no number.
        """
        try:
            return int(file_number(self.frame_id))
        except ValueError as error:
            what = "frame_id must be a position in the take's index, like 000017"
            raise UserError(f"sample {self.sample_id[:100]!r}: {what}") from error

    @classmethod
    def of_id(cls, key: str, triplets: Iterable[Triplet] = ()) -> Sample:
        """The sample of a key of prediction files."""
        return cls(*split_sample_id(key), tuple(triplets))

    @classmethod
    def from_record(cls, record: Any) -> Sample:
        """Read one element of a `relationships_*.json`.

        A frame id that is a number is spelled with six digits, however it is stored; another text stays as it is, so
        that whoever needs the position can name the sample (`position`). Blanks around names are cut off.

        Raises:
            UserError: a field is missing or of another type.
        """
        match record:
            case {"take_name": str(take_name), "frame_id": frame_id, "relationships": list(relations)}:
                frame_id = _spell_frame_id(frame_id)
                if frame_id is not None and all(map(is_relation, relations)):
                    return cls(take_name, frame_id, as_triplets([name.strip() for name in r] for r in relations))
        raise UserError(
            "a sample needs take_name, frame_id and relationships as [subject, object, predicate] triples; "
            f"got {str(record)[:120]}"
        )

    def to_record(self) -> dict[str, Any]:
        """The element of a `relationships_*.json`."""
        return {
            "take_name": self.take_name,
            "frame_id": self.frame_id,
            "relationships": [list(t) for t in self.triplets],
        }


def parse(text: str) -> list[Triplet]:
    """Triplets of a generated text, names as written. Text that holds no triplet gives an empty list; never raises."""
    text = _BLOCK.sub("", text)
    start, end = text.find(START), text.find(END)
    if 0 <= start < end:
        text = text.split(START)[1].split(END)[0]
    triplets = []
    for piece in text.split(";"):
        for noise in (".", "</s>", "<s>"):
            piece = piece.replace(noise, "")
        fields = [field.strip() for field in piece.strip().split(",")]
        if len(fields) == 3:
            triplets.append(Triplet(*fields))
    return triplets


def normalise(triplet: Triplet, language: Language) -> Triplet | None:
    """The triplet in scoring names (predicate in lower case), or None if a name is outside the vocabulary.

    One vocabulary for all three slots, as published.
    """
    subject, object_, predicate = triplet
    words = Triplet(language.entity_name(subject), language.entity_name(object_), language.predicate_name(predicate))
    return words if language.vocabulary.issuperset(words) else None


def true_relation(triplet: Triplet, language: Language) -> Triplet:
    """`normalise` of a relation that people wrote: two entities and a predicate, each in its place.

    Raises:
        UserError: a name is in no table, or stands in another's place.
    """
    subject, object_, predicate = triplet
    entity = language.entity_name, language.entities, "entity"
    slots = (
        (subject, *entity),
        (object_, *entity),
        (predicate, language.predicate_name, language.predicates, "predicate"),
    )
    known, wrong = [], []
    for name, spell, table, kind in slots:
        known.append(spell(name))
        if known[-1] not in map(str.lower, table):
            near = get_close_matches(name, table, 1)
            wrong.append(f"{name!r} is no {kind}" + (f" (is it {near[0]}?)" if near else ""))
    if wrong:
        raise UserError(
            f"the true relation {','.join(triplet)} must be subject,object,predicate in the names of the domain: "
            f"{', '.join(wrong)}"
        )
    return Triplet(*known)


def target_text(triplets: Iterable[Triplet]) -> str:
    """The answer a model is trained to give: `<SG> head surgeon,patient,drilling; ... </SG>`, `<SG> </SG>` if empty."""
    body = "".join(f"{spoken(s)},{spoken(o)},{p}; " for s, o, p in triplets).rstrip("; ")
    return f"{START} {body} {END}" if body else f"{START} {END}"


def as_said(triplets: Iterable[Triplet]) -> list[Triplet]:
    """A graph as an answer tells it, which is what memory holds at inference and in training."""
    return parse(target_text(triplets))


def by_take(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    """Samples by their take, those of each in the order of time, whatever the order of the file they are from."""
    takes: defaultdict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        takes[sample.take_name].append(sample)
    # Six digits or more, so that the longer number is the larger one; a frame id that is no number is told elsewhere.
    return {name: sorted(of_take, key=lambda s: (len(s.frame_id), s.frame_id)) for name, of_take in takes.items()}


def is_relation(value: Any) -> bool:
    """Whether a value of a JSON file is a relation: a list of three names."""
    return isinstance(value, list) and len(value) == 3 and all(isinstance(name, str) for name in value)


def are_relations(value: Any) -> TypeGuard[list[list[str]]]:
    """Whether a value of a JSON file is a list of relations."""
    return isinstance(value, list) and all(map(is_relation, value))


def as_triplets(relationships: Iterable[Sequence[str]]) -> tuple[Triplet, ...]:
    """Triplets from (subject, object, predicate) sequences."""
    return tuple(Triplet(*relation) for relation in relationships)


def _spell_frame_id(value: Any) -> str | None:
    """The frame id as file names have it; None if it is neither number nor text."""
    try:
        return file_number(value)
    except ValueError:
        return value if isinstance(value, str) else None


def spoken(entity: str) -> str:
    """An entity as target texts spell it."""
    return entity.lower().replace("_", " ")
