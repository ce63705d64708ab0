"""Samples that cannot be used: they end a training, or are told and replaced by others if so asked."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from operating_room.errors import UserError
from scene_graph_generation.inputs.example import Example

BAD_IN_A_ROW = 100  # so many unusable samples one after the other are no accident


class BadSamples:
    """What was said about bad samples.

    Attributes:
        skip: whether training goes on without them.
        skipped: a line for each.
    """

    def __init__(self, skip: bool) -> None:
        self.skip = skip
        self.skipped: dict[str, None] = {}

    def usable(self, examples: Sequence[Example | None], bad: Sequence[str]) -> list[Example]:
        """The examples of a batch, once what is wrong with bad samples is told, of each the first time.

        Args:
            examples: None where nothing usable was found in the place of a bad sample.
            bad: a line for each bad sample that was met.

        Raises:
            UserError: a sample is bad and is not to be skipped, or too many are bad one after the other.
        """
        if bad and not self.skip:
            raise UserError(f"{bad[0]} (--skip-bad-samples goes on without such samples)")
        found = [example for example in examples if example is not None]
        if len(found) < len(examples):
            raise UserError(f"no usable sample among {BAD_IN_A_ROW} or all; the last one: {bad[-1]}")
        for reason in bad:
            if reason not in self.skipped:
                print(f"skipped {reason}", file=sys.stderr)
                self.skipped[reason] = None
        return found
