"""The words of MM-OR, asked of the bundled domain; goes once every caller has a language handed in."""

from __future__ import annotations

from operating_room.domain.domain import mmor
from operating_room.domain.language import NONE

__all__ = ["NONE"]
_LANGUAGE = mmor().language
ENTITIES = _LANGUAGE.entities
PREDICATES = _LANGUAGE.predicates
SCORED_PREDICATES = _LANGUAGE.scored_predicates
PEOPLE = _LANGUAGE.people
PREDICATE_LEVELS = _LANGUAGE.levels
ROLE_SYNONYMS = _LANGUAGE.role_synonyms
WORD_SYNONYMS = _LANGUAGE.word_synonyms
RAW_ENTITY_NAMES = _LANGUAGE.raw_names
PROMPT_ENTITIES = _LANGUAGE.prompted_entities
TRACKER_OBJECTS = _LANGUAGE.tools
ROBOT_PHASE_LABELS = mmor().task("robot_phase").spellings
