"""Names of takes that are nearly published ones: a slip of the fingers would become a take of one's own."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches

from operating_room.domain.domain import OWN, Domain
from operating_room.errors import UserError

_NEAR = 2 / 3  # of a word: one letter of three may be another
_NEAR_SPLIT = 0.75
_FIGURES = str.maketrans("oil", "011")  # letters that are typed for them


def takes_to_make(names: Iterable[str], domain: Domain) -> list[str]:
    """The names themselves, of takes and splits, where new takes may have them.

    Raises:
        UserError: one is nearly that of a published take or of a split, or `own`, which means all own takes elsewhere.
    """
    given = list(names)
    if OWN in given:
        raise UserError(f"take {OWN!r} means all own takes, of which none is to be made yet; give the names of takes")
    for name in given:
        if name not in domain.splits and (meant := _meant(name, domain)) is not None:
            raise UserError(
                f"take {name!r} is none of domain {domain.name}, but nearly {meant!r}: give that, or choose a name for "
                "your own take that is less like it"
            )
    return given


def nearly(name: str, there: Iterable[str]) -> str:
    """` (is it 002_PKA?)` for a name that is none of these takes, where one of them may be meant; else nothing."""
    meant = next((one for one in there if _is_slip(name, one)), None)
    return "" if meant is None else f" (is it {meant}?)"


def _meant(name: str, domain: Domain) -> str | None:
    """The published take or the split that a name is nearly, if it is neither."""
    own = domain.find_take(name).name
    published = {one for c in domain.collections for names in (c.takes, *c.splits.values()) for one in names}
    if own in published:
        return None
    splits = [] if re.search(r"\d", own) else get_close_matches(own.lower(), domain.splits, 1, _NEAR_SPLIT)
    return next((one for one in sorted(published) if _is_slip(own, one)), *splits or [None])


def _is_slip(name: str, published: str) -> bool:
    """Whether all numbers that a name has are those of a published one and its words are nearly the same.

    With another number it is another take: 040_PKA and 501_SIM are fine, and so is 001_PKA_night, which has the whole
    of the published name and more.
    """
    if _figures(name) == _figures(published):
        return True
    (numbers, words), (known, wanted) = _parts(name), _parts(published)
    if numbers != known:  # 012_PKA for one of its two parts, 012_1_PKA
        return bool(numbers) and numbers == known[: len(numbers)] and words == wanted
    if len(words) < len(wanted) or (len(words) > len(wanted) and words[: len(wanted)] == wanted):
        return False
    return all(SequenceMatcher(None, *pair).ratio() >= _NEAR for pair in zip(words, wanted))


def _figures(name: str) -> str:
    """A name without zeros before numbers, where a letter that looks like a figure is one: `OO2_PKA`, `0002_PKA`."""
    return re.sub(r"(?<!\d)0+(?=\d)", "", name.lower().translate(_FIGURES))


def _parts(name: str) -> tuple[list[int], list[str]]:
    """The numbers in a name, and its words."""
    return [int(number) for number in re.findall(r"\d+", name)], re.findall(r"[^\W\d_]+", name.lower())
