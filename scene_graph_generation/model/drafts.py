"""Guesses of what an answer goes on with, to be checked by the language model many tokens at once.

Speculative decoding (Leviathan et al. 2023) without a second model: a room changes little from second to second, so the
answers given before are the draft.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence

# What was said and stopped a moment ago often comes again. More answers than this save next to nothing
# (scripts/bench_decoding.py count tells the passes).
KEPT = 16  # answers of a take
FIRST, LEAST, MOST = 16, 8, 64  # tokens of a guess: the first of an answer, the shortest, the longest


class Said:
    """The answers that were given before to questions of one take, as token ids with the end."""

    def __init__(self) -> None:
        # Newest first: the answer, and the places behind each of its tokens.
        self._answers: deque[tuple[Sequence[int], dict[int, list[int]]]] = deque(maxlen=KEPT)

    def add(self, answer: Sequence[int]) -> None:
        """Remember an answer, the newest one."""
        behind: defaultdict[int, list[int]] = defaultdict(list)
        for place, token in enumerate(answer[:-1], 1):
            behind[token].append(place)
        self._answers.appendleft((tuple(answer), dict(behind)))

    def guess(self, begun: Sequence[int], count: int) -> list[int]:
        """At most `count` tokens that may follow what is `begun`.

        They followed the longest end of it in an answer before: of equally long ones in the newest, and there at the
        place that is nearest to where the answer is now. An answer that is not begun yet begins like the newest.
        """
        if not begun:
            return list(self._answers[0][0][:count]) if self._answers else []
        best, following = (0, 0, 0), list[int]()
        for age, (answer, behind) in enumerate(self._answers):
            for place in behind.get(begun[-1], ()):
                rank = (_common_end(begun, answer, place), -age, -abs(place - len(begun)))
                if not following or rank > best:
                    best, following = rank, list(answer[place : place + count])
        return following


def _common_end(begun: Sequence[int], answer: Sequence[int], place: int) -> int:
    """How many of the last tokens are the same as those before a place of an answer."""
    length = 0
    while length < min(len(begun), place) and begun[-1 - length] == answer[place - 1 - length]:
        length += 1
    return length


def next_reach(reach: int, guessed: int, accepted: int) -> int:
    """How many tokens to guess next: twice what was accepted now; the same where nothing was guessed."""
    return reach if not guessed else min(MOST, max(LEAST, 2 * accepted))
