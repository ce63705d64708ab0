"""Names of new takes: nearly published ones are told, others are anybody's."""

from __future__ import annotations

import pytest

from operating_room.domain.domain import mmor
from operating_room.domain.slips import nearly, takes_to_make
from operating_room.errors import UserError


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("004_TKA_typo", "004_PKA"),
        ("004_TKA", "004_PKA"),
        ("004_PAK", "004_PKA"),
        ("4_PKA", "004_PKA"),
        ("004PKA", "004_PKA"),
        ("004_pka", "004_PKA"),
        ("004-PKA", "004_PKA"),
        ("001_TKA_MMOR", "001_PKA"),
        ("012_PKA", "012_1_PKA"),
        ("001_4DR", "001_4DOR"),
        ("OO4_PKA", "004_PKA"),
        ("00l_PKA", "001_PKA"),
        ("002_4D0R", "002_4DOR"),
        ("tets", "test"),
        ("mini_tran", "mini_train"),
    ],
)
def test_a_slip_in_a_published_name_is_told(name: str, meant: str) -> None:
    with pytest.raises(UserError, match=f"{name}.*{meant}"):
        takes_to_make(["001_PKA", name], mmor())


@pytest.mark.parametrize("name", ["OO2_PKA", "0O2_PKA", "2_PKA", "0002_PKA", "002PKA", "002_pka", "002_PAK"])
def test_the_take_that_a_name_is_nearly(name: str) -> None:
    assert nearly(name, ["001_PKA", "002_4DOR", "002_PKA"]) == " (is it 002_PKA?)"


def test_another_number_is_another_take() -> None:
    assert not nearly("012_PKA", ["002_PKA", "120_PKA"])


def test_own_names_published_names_and_splits_are_taken() -> None:
    own = ["501_SIM", "001_SIM", "T000_SIM", "OR2_case7", "040_PKA", "101_PKA", "900_PKA", "011_4DOR", "001_PKA_night"]
    own += ["013_2_PKA", "001_THA", "day_4", "clinic", "OR1", "1_OR", "testing", "train_night"]
    names = [*own, "train", "test", *(take.name for take in mmor().takes), "001_PKA_MMOR"]
    assert takes_to_make(names, mmor()) == names


def test_own_takes_are_given_by_name() -> None:
    with pytest.raises(UserError, match="'own' means all own takes"):
        takes_to_make(["501_SIM", "own"], mmor())
