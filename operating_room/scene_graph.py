"""Scene graphs as triplets: reading generated text, normalising names, printing targets.

Data specification, sections 4.2 (target text) and 6 (parser, normalisation); quirk 2 of section 11 is mirrored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from operating_room.errors import UserError
from operating_room.vocabulary import ENTITIES, PREDICATES, ROLE_SYNONYMS, WORD_SYNONYMS

START, END = "<SG>", "</SG>"
_BLOCK = re.compile(r'""".*?"""', re.DOTALL)
_LOWER_PREDICATES = frozenset(predicate.lower() for predicate in PREDICATES)
VOCABULARY = frozenset(ENTITIES) | _LOWER_PREDICATES  # one vocabulary for all three slots, as published


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
        return f"{self.take_name}_{self.frame_id}"

    @classmethod
    def from_record(cls, record: Any) -> Sample:
        """Read one element of a `relationships_*.json`.

        Raises:
            UserError: a field is missing or of another type.
        """
        match record:
            case {"take_name": str(take_name), "frame_id": str(frame_id), "relationships": list(relations)}:
                if all(isinstance(r, list) and len(r) == 3 and all(isinstance(n, str) for n in r) for r in relations):
                    return cls(take_name, frame_id, as_triplets(relations))
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


def normalise(triplet: Triplet) -> Triplet | None:
    """The triplet in scoring names (predicate in lower case), or None if a name is outside the vocabulary."""
    subject, object_ = (ROLE_SYNONYMS.get(name, name).replace(" ", "_") for name in (triplet.subject, triplet.object))
    words = [WORD_SYNONYMS.get(word.lower(), word.lower()) for word in (subject, object_, triplet.predicate)]
    return Triplet(*words) if all(word in VOCABULARY for word in words) else None


def target_text(triplets: Iterable[Triplet]) -> str:
    """The answer a model is trained to give: `<SG> head surgeon,patient,drilling; ... </SG>`, `<SG> </SG>` if empty."""
    body = "".join(f"{_spoken(s)},{_spoken(o)},{p}; " for s, o, p in triplets).rstrip("; ")
    return f"{START} {body} {END}" if body else f"{START} {END}"


def as_triplets(relationships: Iterable[Sequence[str]]) -> tuple[Triplet, ...]:
    """Triplets from (subject, object, predicate) sequences."""
    return tuple(Triplet(*relation) for relation in relationships)


def _spoken(entity: str) -> str:
    return entity.lower().replace("_", " ")
