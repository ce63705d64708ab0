"""What shows something rare is drawn more often."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operating_room.work.repeats import repeat_factors


def test_frames_with_rare_classes_count_more() -> None:
    frames = [{1}] * 90 + [{1, 2}] * 9 + [set()]
    factors = repeat_factors(frames, 0.36)
    assert factors[0] == factors[-1] == 1
    assert factors[90] == pytest.approx(2)  # its class is in 9 of 100 frames
    assert (repeat_factors(frames, 0.01) == 1).all()
    assert (repeat_factors(frames, 0.0) == 1).all()


@given(shown=st.lists(st.sets(st.sampled_from("abcd")), min_size=1, max_size=30), threshold=st.floats(0.01, 1))
def test_factors_follow_the_rarest(shown: list[set[str]], threshold: float) -> None:
    for things, factor in zip(shown, repeat_factors(shown, threshold), strict=True):
        share = min((sum(thing in other for other in shown) / len(shown) for thing in things), default=1.0)
        assert factor == pytest.approx(max(1.0, (threshold / share) ** 0.5))
