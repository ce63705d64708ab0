"""The closed language of scene graphs: what exists in a room, what it does, how both are spelled and asked for.

Data specification, sections 4.2 (prompt), 4.4 (levels) and 6 (names of the score reports, synonyms).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

NONE = "none"  # the last name of the score reports: no relation
INSTRUCTION = (
    "Given the following scene graph memory representation, generate a scene graph for timepoint T. "
    'The output should strictly be a list of triplets, each in the format "entity1,entity2,predicate;". '
    "Do not provide a narrative or descriptive text."
)


@dataclass(frozen=True)
class Language:
    """What is said about a room. The order of names is that of reports and prompts."""

    entities: tuple[str, ...]  # lower case, no blanks
    predicates: tuple[str, ...]  # as annotations and targets spell them: closeTo
    people: tuple[str, ...] = ()  # of the entities
    levels: tuple[tuple[str, ...], ...] = ()  # predicates by how much they tell of what is going on, most telling first
    # Mappings are no part of the hash, only of equality: two languages that differ in a synonym alone are rare.
    role_synonyms: Mapping[str, str] = field(default_factory=dict, hash=False)  # before blanks become underscores
    word_synonyms: Mapping[str, str] = field(default_factory=dict, hash=False)  # lower case -> name in lower case
    raw_names: Mapping[str, str] = field(default_factory=dict, hash=False)  # in annotations -> entity or predicate
    prompted_entities: tuple[str, ...] = ()  # spelled as the prompt lists them, in its order
    prompted_predicates: tuple[str, ...] = ()
    instruction: str = INSTRUCTION
    several_predicates: bool = False  # whether a pair may have several at once
    forgotten: tuple[str, ...] = ()  # predicates that memory leaves out: too frequent to tell anything
    tools: Mapping[str, str] = field(default_factory=dict, hash=False)  # id in the tracker's records -> prompted name

    @cached_property
    def question(self) -> str:
        """What the prompt asks for, after all that is known."""
        entities, predicates = ", ".join(self.prompted_entities), ", ".join(self.prompted_predicates)
        return f"Entities: [{entities}]. Predicates: [{predicates}]. {self.instruction}"

    @cached_property
    def scored_predicates(self) -> tuple[str, ...]:
        """The names of the predicate report: the predicates, then `none`."""
        return (*self.predicates, NONE)

    @cached_property
    def entity_index(self) -> dict[str, int]:
        """Entity -> its class number in the entity report."""
        return {name: index for index, name in enumerate(self.entities)}

    @cached_property
    def predicate_index(self) -> dict[str, int]:
        """Predicate in lower case, or `none` -> its class number in the predicate report."""
        return {name.lower(): index for index, name in enumerate(self.scored_predicates)}

    @cached_property
    def vocabulary(self) -> frozenset[str]:
        """All names in lower case: one vocabulary for the three slots of a triplet, as published."""
        return frozenset((*self.entities, *(predicate.lower() for predicate in self.predicates)))

    @cached_property
    def forgotten_spellings(self) -> frozenset[str]:
        """The forgotten predicates as annotations and as normalised triplets spell them."""
        return frozenset(spelling for name in self.forgotten for spelling in (name, name.lower()))

    def entity_name(self, text: str) -> str:
        """An entity as the vocabulary spells it; a text that is none comes back in lower case with underscores."""
        text = self.role_synonyms.get(text, text)
        word = self._word(text)  # of a synonym with blanks, which leads to an entity: predicates have theirs
        return word if word in self.entity_index else self._word(text.replace(" ", "_"))

    def predicate_name(self, text: str) -> str:
        """A predicate as the vocabulary spells it, in lower case; blanks stay, other than in entities (section 6)."""
        return self._word(text)

    def _word(self, text: str) -> str:
        return self.word_synonyms.get(text.lower(), text.lower())
