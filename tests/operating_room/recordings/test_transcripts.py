"""Words and sound around a second."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operating_room.files.readers import Subtitle
from operating_room.recordings.transcripts import CHARACTERS, SUBTITLES, audio_window, spoken_text, spoken_texts


def said(*ends: float) -> list[Subtitle]:
    return [Subtitle(0.0, float(end), f"{end:g}") for end in ends]


def test_only_what_has_ended_counts_to_the_millisecond() -> None:
    subtitles = [*said(2.0, 3.0), Subtitle(3.0, 3.001, "late")]
    assert spoken_texts(subtitles, range(1, 5)) == {1: "", 2: "2", 3: "2 3", 4: "2 3 late"}


def test_last_four_in_file_order() -> None:
    assert spoken_text(said(9, 1, 2, 3, 4, 5), 9) == "2 3 4 5"
    assert spoken_text(said(4, 3, 2, 1), 9) == "4 3 2 1"


def test_last_two_hundred_characters_with_line_breaks() -> None:
    text = spoken_text([Subtitle(0.0, 1.0, "a" * 150), Subtitle(1.0, 2.0, "b\n" + "c" * 98)], 2)
    assert text == "a" * 99 + " b\n" + "c" * 98


@given(
    st.lists(st.builds(Subtitle, st.just(0.0), st.integers(0, 9).map(float), st.text(max_size=90))), st.integers(0, 9)
)
def test_text_is_short_and_grows_from_what_has_ended(subtitles: list[Subtitle], second: int) -> None:
    text = spoken_text(subtitles, second)
    assert len(text) <= CHARACTERS
    assert spoken_text([s for s in subtitles if s.end_s <= second][-SUBTITLES:], second) == text


@pytest.mark.parametrize(
    ("second", "published", "causal"), [(0, (0, 1), (0, 0)), (1, (0, 2), (0, 1)), (7, (6, 2), (5, 2))]
)
def test_audio_windows(second: int, published: tuple[int, int], causal: tuple[int, int]) -> None:
    assert audio_window(second) == published
    assert audio_window(second, causal=True) == causal
