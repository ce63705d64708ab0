"""The categories of MM-OR, asked of the bundled domain; goes once every caller has labels handed in."""

from __future__ import annotations

from operating_room.domain.domain import mmor
from operating_room.domain.labels import Category, color_ids, run_lengths

__all__ = ["Category", "color_ids", "run_lengths"]
_LABELS = mmor().labels
CATEGORIES = _LABELS.categories
BY_ENTITY = _LABELS.by_entity
KNOWN_MISTAKES = _LABELS.mistakes
LABEL_COUNT = _LABELS.count
COLORS = _LABELS.colors
LABELS = _LABELS.labels
LABEL_TO_CATEGORY = _LABELS.label_to_category
colors_to_categories = _LABELS.colors_to_categories
colors_to_labels = _LABELS.colors_to_labels
