"""A domain in use: what makes it another one, whose takes are whose, what is shown where nothing recorded."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from operating_room.domain import collection
from operating_room.domain.collection import Collection, Slots, Take
from operating_room.domain.domain import Domain, bundled, find_domain, mmor
from operating_room.domain.stored import require_same
from operating_room.errors import UserError
from tests.operating_room.domain.tiny_domains import TEXT


def read(folder: Path, text: str) -> Domain:
    path = folder / "room.yaml"
    path.write_text(text)
    return Domain.read(path)


def shuffled(value: Any, draw: random.Random) -> Any:
    """The same value, keys of mappings in another order."""
    if isinstance(value, dict):
        return {key: shuffled(value[key], draw) for key in draw.sample(list(value), len(value))}
    return [shuffled(item, draw) for item in value] if isinstance(value, list) else value


def test_the_order_of_keys_makes_no_other_domain(tmp_path: Path) -> None:
    domain = read(tmp_path, TEXT)
    for seed in range(5):
        text = yaml.safe_dump(shuffled(yaml.safe_load(TEXT), random.Random(seed)), sort_keys=False)
        assert read(tmp_path, text).digest == domain.digest


def test_more_takes_and_other_paths_make_no_other_domain(tmp_path: Path) -> None:
    domain = read(tmp_path, TEXT)
    other = read(tmp_path, TEXT.replace("[a1, a2]", "[a1, a2, a3]").replace("tracks/{", "tools/{"))
    assert other != domain
    assert other.digest == domain.digest
    assert other.differences(domain) == []


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("entities: [dentist,", "entities: [cat, dentist,", ["entities: only here: cat"]),
        ("entities: [dentist, helper,", "entities: [helper, dentist,", ["entities: the same in another order"]),
        ("forgotten: [nextTo]", "forgotten: []", ["forgotten: only there: nextTo"]),
        ("seat: chair", "seat: helper", ["word synonyms: not the same: seat"]),
        ("count: 5", "count: 6", ["count: here 6, there 5"]),
        ("- {name: lamp, color: [0,", "- {name: lamp, color: [9,", ["categories: not the same: lamp"]),
        ("classes: [drill, none]", "classes: [drill, cut, none]", ["tasks: not the same: next_step"]),
        ("- [drilling]\n    - [holding, nextTo]", "- [holding]\n    - [drilling, nextTo]",
         ["levels: not the same: holding, drilling"]),
        ("forgotten:", "several_predicates: true\n  forgotten:", ["several predicates: here True, there False"]),
        ("tools:", "instruction: Hello.\n  tools:", ["instruction: another text"]),
    ],
)  # fmt: skip
def test_what_a_model_learns_from_makes_another_domain(tmp_path: Path, old: str, new: str, told: list[str]) -> None:
    domain, other = read(tmp_path, TEXT), read(tmp_path, TEXT.replace(f"  {old}", f"  {new}"))
    assert other.digest != domain.digest
    assert other.differences(domain) == told


def test_a_predicate_makes_another_domain(tmp_path: Path) -> None:
    domain = read(tmp_path, TEXT)
    other = read(tmp_path, TEXT.replace("holding, nextTo]\n", "holding, nextTo, hugging]\n"))
    assert other.digest != domain.digest
    assert other.differences(domain) == ["predicates: only here: hugging", "levels: only here: hugging"]
    assert domain.differences(other) == ["predicates: only there: hugging", "levels: only there: hugging"]
    with pytest.raises(UserError) as refused:
        require_same("model", domain, other)
    told = f"another domain than that of the takes, both are called {domain.name}: predicates: only here: hugging"
    assert told in str(refused.value)  # it was "x (there) instead of x (here)"


def test_many_differences_are_told_in_short() -> None:
    told = mmor().differences(bundled("egoexor"))
    assert told[0].startswith(
        "entities: only here: anaesthetist, assistant_surgeon, c_arm, drape, drill, hammer and 11 more; "
    )
    assert max(map(len, told)) < 250


def test_the_published_domain_keeps_its_digest() -> None:
    """Models are refused by it: whoever changes this line makes all models of MM-OR those of another room."""
    assert mmor().digest == "393f3be2e4c4e14abc3330f62fbbae2288707523d095b91dea8ecd2ca3d82329"


def test_names_are_those_of_the_dataset_whose_suffix_or_list_has_them(tmp_path: Path) -> None:
    domain = read(tmp_path, TEXT)
    assert domain.find_take("a1") == domain.find_take("a1_P") == domain.collections[0].take("a1")
    assert domain.find_take("new") == domain.collections[1].take("new")  # of which it is the whole name
    assert domain.find_take("new_P") == domain.collections[0].take("new")
    assert domain.find_take("New-1") == domain.collections[1].take("New-1")
    assert domain.find_take("takes/monday/") == domain.collections[1].take("monday")
    assert domain.own_take(domain.collections[0], "tracks") is None  # a folder beside
    assert domain.own_take(domain.collections[0], "monday") == domain.collections[0].take("monday")
    with pytest.raises(UserError, match=r"take name 'a b' cannot be one: take names have .* only; small letters"):
        domain.find_take("a b")


@pytest.mark.parametrize("name", ["..", ".", "a/../b", "-x/..", "", "/", "a\\b", "a\0b", "a\n"])
def test_no_name_leaves_the_folder(tmp_path: Path, name: str) -> None:
    """Whatever the regular expression of a domain allows."""
    domain = read(tmp_path, TEXT.replace('"[a-z0-9]+"', '"(.|\\\\s)*"'))
    with pytest.raises(UserError, match="cannot be one"):
        domain.find_take(name)


def test_a_form_of_names_that_never_ends_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Backtracking doubles with each letter: 60 of them take longer than there is time."""
    monkeypatch.setattr(collection, "_PATIENCE", 0.01)
    endless, name = TEXT.replace('"[a-z0-9]+"', r"'([a-z0-9]|[a-z0-9][a-z0-9])+(?<!a)'"), "a" * 60
    domain = read(tmp_path, endless)
    with pytest.raises(UserError, match=f"the form of names .* tries '{name}' for ever"):
        domain.find_take(f"{name}_P")
    with pytest.raises(UserError, match=rf"room\.yaml:\d+: own: the form of names .* tries '{name}' for ever"):
        read(tmp_path, endless.replace("test: [c1]", f"test: [{name}]"))


def test_a_take_is_its_dataset_and_name() -> None:
    take = mmor().find_take("012_1_PKA")
    assert take == Take("MMOR", "012_1_PKA", "", "") != mmor().find_take("001_4DOR")
    assert hash(take) == hash(Take("MMOR", "012_1_PKA", "", ""))
    assert sorted([take, mmor().find_take("001_4DOR")])[0].dataset == "4DOR"
    with pytest.raises(KeyError, match="no dataset Clinic"):
        mmor().collection("Clinic")


def slots(domain: Domain, **places: tuple[str, ...]) -> Collection:
    return replace(domain.collections[0], slots=Slots(**places))


def test_cameras_stand_in_where_the_usual_ones_recorded_nothing(tmp_path: Path) -> None:
    collection = slots(read(tmp_path, TEXT), evaluation=("left",), instead=("right",))
    assert collection.evaluation_pictures({"left": 1, "right": 2}) == [1]
    assert collection.evaluation_pictures({"right": 2}) == [2]
    assert collection.evaluation_pictures({}) == [None]


def test_a_domain_says_which_splits_and_tasks_it_has(tmp_path: Path) -> None:
    domain = read(tmp_path, TEXT)
    assert domain.splits == ("train", "small_train", "val", "test")
    assert domain.splits_of(domain.find_take("a1")) == ["train", "small_train"]
    assert [task.name for task in domain.tasks_of(domain.find_take("a1"))] == ["mood"]
    assert domain.tasks_of(domain.find_take("b1")) == ()  # told not to be evaluated
    assert domain.max_views == 2


def test_a_domain_is_found_by_file_or_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mmor").mkdir()  # as in a checkout
    assert find_domain(Path("mmor")) is mmor()
    file = tmp_path / "room"
    file.write_text(TEXT)
    assert find_domain(file).name == "dental"
    assert find_domain(Path("egoexor")) is bundled("egoexor")
    with pytest.raises(UserError, match=r"'egoexo'; there are egoexor, mmor"):
        find_domain(Path("egoexo"))
    with pytest.raises(UserError, match=r"nowhere\.yaml"):
        find_domain(tmp_path / "nowhere.yaml")
