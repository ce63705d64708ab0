"""Who is who: the file is read or refused by name, and splits made from it share nobody, whoever is where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from mmor.cli import app
from operating_room.domain.collection import SEPARATED_SPLITS
from operating_room.domain.domain import Domain, mmor
from operating_room.domain.people import People, disjoint_splits, people_of_splits, read_people
from operating_room.errors import UserError
from tests.operating_room.tiny_dataset import write, write_dataset

TAKES = [take for take in mmor().takes if take.dataset == "MMOR"]
PEOPLE: dict[str, dict[str, str]] = {  # two heads of surgery, and one helper of both
    "001_PKA": {"anest": "A", "head_surgeon": "D", "mps": "E"},
    "035_PKA": {"head_surgeon": "D", "mps": "E"},
    "036_PKA": {"head_surgeon": "D", "mps": "E"},
    "006_PKA": {"head_surgeon": "H", "mps": "E"},
    "004_PKA": {"head_surgeon": "H", "mps": "E"},
    "011_TKA": {"head_surgeon": "H", "mps": "E"},
    "012_PKA": {"mps": "E"},
    "015-018_PKA": {"mps": "E"},
}


def on_both_sides(people: People, domain: Domain, roles: tuple[str, ...] = ()) -> set[str]:
    """Who is in two of train, val and test, counted here once more."""
    seen: dict[str, set[str]] = {}
    for split in SEPARATED_SPLITS:
        for take in domain.split_takes(split, ("MMOR",)):
            for role, person in people.get(take, {}).items():
                if not roles or role in roles:
                    seen.setdefault(person, set()).add(split)
    return {person for person, splits in seen.items() if len(splits) > 1}


def test_takes_and_folders_that_takes_share_are_found(tmp_path: Path) -> None:
    people = read_people(write(tmp_path / "people.json", PEOPLE), mmor())
    names = {take.name for take in people}
    assert {"012_1_PKA", "012_2_PKA", "015_PKA", "018_2_PKA"} <= names
    assert len(names) == 6 + 2 + 5
    assert people[mmor().find_take("001_PKA")] == {"anaesthetist": "A", "head_surgeon": "D", "mps": "E"}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([], "must map takes to their people"),
        ({}, "must map takes to their people"),
        ({"001_PKB": {}}, r"'001_PKB' is no take of mmor and no folder of takes \(is it 001_PKA\?\)"),
        ({"001_PKA": ["A"]}, "001_PKA must map roles to letters"),
        ({"001_PKA": {"surgeon": "A"}}, "has the role 'surgeon', which is none"),
        ({"001_PKA": {"saw": "A"}}, "has the role 'saw', which is none"),
        ({"001_PKA": {"mps": "Miller"}}, "has 'Miller' as mps; persons are letters"),
        ({"001_PKA": {"mps": 3}}, "has '3' as mps"),
        ({"001_PKA": {"anest": "A", "anaesthetist": "B"}}, "001_PKA has A and B as anaesthetist"),
        ({"012_PKA": {"mps": "A"}, "012_2_PKA": {"mps": "B"}}, "012_2_PKA has other people than take 012_2_PKA"),
        ("{", "not valid JSON"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path: Path, content: Any, expected: str) -> None:
    path = write(tmp_path / "people.json", content)
    with pytest.raises(UserError, match=expected) as refusal:
        read_people(path, mmor())
    assert str(refusal.value).startswith(f"{path}: ")


def test_who_is_on_both_sides(tmp_path: Path) -> None:
    people = read_people(write(tmp_path / "people.json", PEOPLE), mmor())
    both = {person.name: person.takes for person in people_of_splits(people, mmor()) if person.is_on_both_sides}
    assert both.keys() == {"D", "E", "H"} == on_both_sides(people, mmor())
    assert both["D"] == {"train": ("001_PKA", "035_PKA"), "test": ("036_PKA",)}


def test_most_takes_stay_and_nobody_is_on_both_sides(tmp_path: Path) -> None:
    people = read_people(write(tmp_path / "people.json", PEOPLE), mmor())
    made = disjoint_splits(people, mmor(), ("head_surgeon",))
    assert made.kept == {
        "train": ("001_PKA", "012_1_PKA", "012_2_PKA", "035_PKA"),
        "test": ("004_PKA", "011_TKA"),
        "val": (),
    }
    assert made.left_out["006_PKA"] == "shares people with takes of test"
    assert made.left_out["005_TKA"] == "nobody knows who is in it"
    assert made.untold == ("4D-OR",)
    assert [take.name for take in made.domain.split_takes("small_train", ("MMOR",))] == ["001_PKA", "035_PKA"]
    assert made.domain.split_takes("train", ("4DOR",)) == mmor().split_takes("train", ("4DOR",))
    assert made.domain.digest == mmor().digest  # a model of the same room
    with pytest.raises(UserError, match="all takes are linked by people whom they share"):
        disjoint_splits(people, mmor())
    with pytest.raises(UserError, match=r"role 'head' is none of mmor"):
        disjoint_splits(people, mmor(), ("head",))


@given(
    st.dictionaries(
        st.sampled_from(TAKES),
        st.dictionaries(st.sampled_from(mmor().language.people), st.sampled_from("ABCDEFGH"), max_size=2),
        max_size=len(TAKES),
    )
)
def test_splits_share_nobody_whoever_is_where(people: People) -> None:
    try:
        made = disjoint_splits(people, mmor())
    except UserError:
        return
    assert not on_both_sides(people, made.domain)
    for split in SEPARATED_SPLITS:
        takes = made.domain.split_takes(split, ("MMOR",))
        assert set(takes) <= set(mmor().split_takes(split, ("MMOR",)))  # takes only leave
        if "MM-OR" not in made.untold:
            assert set(takes) <= people.keys()
            assert {take.name for take in takes} == set(made.kept[split])


def test_by_command(tmp_path: Path) -> None:
    data, file, out = write_dataset(tmp_path / "data"), tmp_path / "people.json", tmp_path / "disjoint.yaml"
    write(file, PEOPLE)

    def run(*words: str | Path) -> str:
        result = CliRunner().invoke(app, list(map(str, words)))
        assert result.exit_code == 0, (result.output, result.exception)
        return result.output

    said = run("data", "check", data, "--people", file)
    assert "person  train  val  test  roles" in said
    assert "E       5      -    3     mps" in said
    stored = json.loads(run("data", "check", data, "--people", file, "--json"))
    assert [person["name"] for person in stored["people"]] == ["A", "D", "E", "H"]
    said = run("data", "people", file, "--role", "head_surgeon", "--out", out)
    assert "test: 004_PKA, 011_TKA" in said
    assert "names nobody of 4D-OR" in said
    assert Domain.read(out).collection("MMOR").splits["test"] == ("004_PKA", "011_TKA")
    assert "takes of test are absent: 004_PKA, 011_TKA" in run("data", "check", data, "--domain", out)
