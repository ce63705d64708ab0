"""A domain from its file: what is right reads back equal, what is wrong is told with file and line."""

from __future__ import annotations

import pickle
import re
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from operating_room.domain.collection import Collection
from operating_room.domain.domain import Domain, bundled, find_domain
from operating_room.domain.reading.collections import read_splits
from operating_room.errors import UserError, one_line
from tests.operating_room.domain.tiny_domains import TEXT, domains

ONE_LINE_OF_A_FILE = re.compile(r"[^\n]*room\.yaml:([1-9][0-9]*): [^\n]+")


def read(folder: Path, text: str | bytes) -> Domain:
    path = folder / "room.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Domain.read(path)


def tried(folder: Path, content: bytes) -> tuple[Domain | None, str]:
    """The domain of a file, or None and what is said of it. Any other exception fails the test."""
    try:
        return read(folder, content), ""
    except UserError as error:
        return None, str(error)


def test_the_tiny_domain_is_read(tmp_path: Path) -> None:
    domain = read(tmp_path, TEXT)
    assert domain.language.question.startswith("Entities: [dentist, seat]. Predicates: [drilling, next to]. Given")
    assert [category.entity for category in domain.labels.categories] == ["background", "patient", "lamp"]
    assert [task.classes for task in domain.tasks] == [("drill", "none"), ("calm", "afraid"), ("no", "yes")]
    practice, clinic = domain.collections
    assert practice.takes == ("a1", "a2", "b1", "c1")
    assert [take.sample_name for take in practice.published] == ["a1_P", "a2_P", "b1_P", "c1_P"]
    assert practice.published[1].folder == "shared"
    take = clinic.take("monday")
    assert clinic.picture(take, "door", "000017", "png") == Path("takes/monday/views/door/000017.png")
    assert clinic.label_mask(take, "door", "000017") == Path("takes/monday/label_masks/door/000017.png")
    assert clinic.path("gaze", take, frame_id="000017") == Path("takes/monday/gaze/000017.npy")
    assert clinic.path("recording", take) == Path("takes/monday/sound.flac")
    assert clinic.index_files(take) == (Path("takes/monday/take.yaml"),)
    assert clinic.annotation_files(take, "000017") == (Path("takes/monday/graphs/000017.json"),)
    assert "point_cloud" not in clinic.files


SMALL = (
    "name: x\nlanguage:\n  entities: [a_b]\n  predicates: [Doing]\ncollections:\n  - {name: X, root: x, layout: house, "
)


def test_a_room_in_six_lines_has_what_most_rooms_want(tmp_path: Path) -> None:
    domain = read(tmp_path, SMALL + "cameras: [{name: c, modality: room_views}]}\n")
    assert domain.language.prompted_entities == ("a b",)
    assert (domain.language.prompted_predicates, domain.language.levels) == (("Doing",), (("Doing",),))
    (collection,) = domain.collections
    assert (collection.slots.training, collection.slots.evaluation, collection.max_views) == (("c",), ("c",), 1)
    assert (domain.labels.count, domain.tasks, collection.period) == (0, (), 1.0)


@pytest.mark.filterwarnings("ignore:Do not use the `random` module")  # beartype looks at random items of lists
@given(domain=domains())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
def test_any_domain_reads_back_equal(tmp_path: Path, domain: Domain) -> None:
    again = read(tmp_path, domain.to_yaml())
    assert again == domain
    assert again.digest == domain.digest
    for collection in again.collections:
        for take in (*collection.published, collection.take("own_1")):
            assert again.find_take(take.sample_name) == take
    assert again.differences(domain) == []
    assert hash(again) == hash(domain)
    assert pickle.loads(pickle.dumps(again)) == domain  # noqa: S301 - our own, as between processes


@pytest.mark.parametrize("name", ["mmor", "egoexor"])
def test_the_bundled_ones_read_back_equal(tmp_path: Path, name: str) -> None:
    assert read(tmp_path, bundled(name).to_yaml()) == bundled(name)


# Each: what is replaced in TEXT, by what, a text in the line that must be named, and what must be said.
WRONG = {
    "unknown key": ("masks: 2", "mask: 2", "mask: 2", "unknown key 'mask' (is it masks?)"),
    "unknown key at the top": ("tasks:\n", "taskz:\n", "taskz", "unknown key 'taskz' (is it tasks?)"),
    "missing key": ("    root: practice\n", "", "name: Practice", "the key 'root' is missing"),
    "missing index": ('    index: ["{folder}/index.json"]\n', "", "name: Practice", "the key 'index' is missing"),
    "missing count": ("  count: 5\n", "", "masks: 2", "the key 'count' is missing"),
    "wrong type": ("entities: [dentist, helper, chair, patient]", "entities: dentist", "entities: d", "must be a list"),
    "a number for a text": ("name: left", "name: 1", "name: 1", "must be text, not a number; put it in quotes: '1'"),
    "no in place of a text": ("[drill, none]", "[no, none]", "[no, none]", "not yes or no; put it in quotes: 'no'"),
    "a list for a text": ("name: dental", "name: [dental]", "name: [", "must be text, not a list"),
    "a text for a mapping": ("own: {names: ", "own: x #{names: ", "own: x", "must be a mapping (key: value), not text"),
    "nothing": ("root: clinic", "root:", "root:\n", "must be text, not nothing"),
    "a key twice": ("  masks: 2\n", "  masks: 2\n  masks: 3\n", "masks: 3", "the key 'masks' stands twice"),
    "a list as a key": ("tools: {", "tools: {[1]: x, ", "tools", "a key must be a single name or number, not a list"),
    "predicate in two levels": ("- [drilling]", "- [drilling, holding]", "- [holding", "'holding' is in two levels"),
    "predicate in no level": ("[holding, nextTo]\n", "[holding]\n", "- [drilling]", "'nextTo' is in no level"),
    "unknown predicate in a level": ("- [drilling]", "- [driling]", "- [driling]", "(is it drilling?)"),
    "two predicates in one": ("nextTo]\n  levels", "nextTo, nextto]\n  levels", "nextto]", "are one predicate"),
    "predicate and entity": ("[dentist, helper, c", "[dentist, holding, c", "nextTo]\n  l", "an entity"),
    "entity with a comma": ("[dentist, helper, chair", "[dentist, 'hel,per', chair", "hel,per", "can be no entity"),
    "entity in capitals": ("[dentist, helper, chair", "[dentist, Helper, chair", "Helper", "can be no entity"),
    "entity twice": ("[dentist, helper, chair", "[dentist, dentist, chair", "dentist, dentist", "stands twice"),
    "no entity": ("entities: [dentist, helper, chair, patient]", "entities: []", "entities: []", "names no entity"),
    "entity none": ("[dentist, helper, chair", "[dentist, none, chair", "none, chair", "can be no entity"),
    "synonym to nowhere": ("seat: chair", "seat: chiar", "seat: chiar", "'seat' leads nowhere: 'chiar' is no name"),
    "role to nowhere": ("doctor: dentist", "doctor: denist", "denist", "(is it dentist?)"),
    "raw name to nowhere": ("pat: patient", "pat: pacient", "pacient", "'pat' leads nowhere"),
    "synonym of itself": ("seat: chair", "helper: chair", "helper: chair", "'helper' is itself a name"),
    "synonym in capitals": ("seat: chair", "Seat: chair", "Seat: chair", "'Seat' is never met"),
    "people that are no entity": ("people: [dentist", "people: [dentst", "people", "(is it dentist?)"),
    "prompted entity unknown": ("prompted_entities: [dentist", "prompted_entities: [nurse", "[nurse", "as no entity"),
    "prompted predicate unknown": ("predicates: [drilling, next to]", "predicates: [saw]", "[saw]", "read as no"),
    "forgotten unknown": ("forgotten: [nextTo]", "forgotten: [nextto]", "forgotten", "(is it nextTo?)"),
    "several of a word": ("forgotten: [n", "several_predicates: 1\n  forgotten: [n", "several", "true or false, not 1"),
    "two categories of one colour": ("[0, 255, 0]", "[255, 0, 0]", "name: lamp", "has the color (255, 0, 0) of 'pat'"),
    "two categories of one label": ("label: 4", "label: 1", "name: lamp", "has the label 1 of 'pat' in line"),
    "two categories of one name": ("name: lamp", "name: pat", "label: 4", "has the name pat of 'pat' in line"),
    "two categories of one entity": ("name: lamp", "name: patient", "label: 4", "has the entity patient of 'pat'"),
    "label beyond count": ("count: 5", "count: 4", "name: lamp", "label 4 is not below count, which is 4"),
    "colour of two numbers": ("[0, 255, 0]", "[0, 255]", "name: lamp", "three numbers from 0 to 255"),
    "colour beyond a byte": ("[0, 255, 0]", "[0, 256, 0]", "name: lamp", "from 0 to 255, not 256"),
    "colour of a word": ("[0, 255, 0]", "green", "name: lamp", "must be a list, not text"),
    "colour of half": ("[0, 255, 0]", "[0, 0.5, 0]", "name: lamp", "must be a whole number from 0 to 255, not 0.5"),
    "octal colour": ("[0, 255, 0]", "[0, 0xff, 0]", "name: lamp", "must be a whole number from 0 to 255, not 0xff"),
    "background not 0": ("label: 0}", "label: 3}", "name: background", "the first category is the background"),
    "background not black": ("[0, 0, 0]", "[255, 255, 255]", "name: background", "its color is [0, 0, 0]"),
    "mistake that is none": ("{2: smear}", "{1: smear}", "smear", "label 1 is no mistake but 'pat'"),
    "mistake beyond count": ("{2: smear}", "{9: smear}", "smear", "from 0 to 4, not 9"),
    "mistake twice": ("{2: smear}", "{2: smear, 02: x}", "smear", "label 2 stands twice"),
    "task of no kind": ("kind: class\n", "kind: klass\n", "klass", "'klass' is no kind of task (is it class?)"),
    "task without classes": ("    spellings: [Calm, Afraid]\n", "", "name: mood", "needs two or more different"),
    "task without none": ("[drill, none]", "[drill, cut]", "name: next_step", "needs the class 'none'"),
    "class in capitals": ("[drill, none]", "[Drill, none]", "[Drill", "'Drill' is never met"),
    "spellings of other classes": ("kind: class\n", "kind: class\n    classes: [a, b]\n", "Calm", "must be the"),
    "two tasks of one name": ("- name: mood", "- name: breach", "- name: breach\n    kind: s", "two tasks 'breach'"),
    "task called as a file": ("name: breach", "name: tracks", "name: tracks", "the name of another file of a take"),
    "camera in two slots": ("also: [right]", "also: [left]", "also: [left]", "'left' is in two slots, first in line"),
    "camera twice in training": ("training: [left, right]", "training: [left, left]", "training", "is in two slots"),
    "slot of an unknown camera": ("evaluation: [left]", "evaluation: [lft]", "[lft]", "'lft' is no camera (is it"),
    "a camera called as a part": ("- name: right", "- name: right_part2", "right_part2", "can be no name of a camera"),
    "two cameras of one name": ("- name: right", "- name: left", "- name: left\n        modality: s", "two cameras"),
    "camera of no modality": ("modality: station_views", "modality: screen", "modality: screen", "modality of cameras"),
    "camera without key": ("station_views\n        frame: room", "tracker_view\n        frame: x", "x\n", "no key"),
    "take in two splits": ("test: [c1]", "test: [a2]", "test: [a2]", "take 'a2' is in test and in train"),
    "take twice in a split": ("test: [c1]", "test: [c1, c1]", "test", "'c1' stands twice"),
    "take of a wrong name": ("test: [c1]", "test: [C1]", "test", "'C1' can be no take: small letters and digits only"),
    "split called own": ("      test: [c1]", "      own: [c1]", "own: [c1]", "can be no split"),
    "folder of an unknown take": ("{a2: shared}", "{a9: shared}", "a9", "'a9' is no take of this dataset"),
    "folder outside": ("{a2: shared}", "{a2: ..}", "a2: ..", "'..' can be no name"),
    "root outside": ("root: clinic", "root: ../clinic", "../clinic", "can be no name"),
    "thinned unknown": ("{a1: 2}", "{a0: 2}", "a0", "'a0' is no take of this dataset"),
    "thinned by nothing": ("{a1: 2}", "{a1: 0}", "a1: 0", "from 1 to 999, not 0"),
    "without an unknown task": ("without: {mood", "without: {mod", "without", "'mod' is no task (is it mood?)"),
    "unknown field": ("{room}.jpg\"\n        masks", "{rom}.jpg\"\n        masks", "{rom}", "{rom} (is it room?)"),
    "field of another file": ("tracks/{take}.json", "tracks/{time}.json", "tracks/{time}", "the unknown field {time}"),
    "label files of another name": ("graphs/{frame_id}.json", "graphs/g{frame_id}.json", "graphs/g", "as label files"),
    "label files in folders": ("graphs/{frame_id}.json", "{frame_id}/{frame_id}.json", "{frame_id}/", "as label files"),
    "one file for all seconds": ("{take}/{cloud}.pcd", "{take}/all.pcd", "all.pcd", "one file for several"),
    "one file for all masks": ("{time}_{number}", "{time}", "{time}.png", "{cloud}, and {number}"),
    "one file for all takes": ("moods/{take}.json", "mood.json", "mood.json", "it needs {folder} or"),
    "pictures of all takes": ("{folder}/left/{room}", "left/{room}", "left/{room}", "the same for all takes"),
    "pictures of one name": ("left/{room}.jpg", "{room}/left.jpg", "{room}/left", "no {room} in the name of the file"),
    "field with a form": ("tracks/{take}.json", "tracks/{take!r}.json", "tracks/{take!r}", "has the unknown field"),
    "field that reaches inside": ("tracks/{take}", "tracks/{take.__class__}", "__class__", "has the unknown field"),
    "open brace": ("tracks/{take}", "tracks/{take", "tracks/{take.", "is no pattern"),
    "doubled brace": ("tracks/{take}", "tracks/{{take}}", "tracks/{{", "must be a path below the dataset's folder"),
    "pattern outside": ("tracks/{take}", "../{take}", "../{take}", "must be a path below the dataset's folder"),
    "pattern from the top": ("tracks/{take}", "/etc/{take}", "/etc", "must be a path below the dataset's folder"),
    "file of an unknown modality": ("point_cloud: clouds", "pointcloud: clouds", "pointcloud", "(is it point_cloud?)"),
    "file of an unknown task": ("mood: moods", "mod: moods", "mod: moods", "'mod' is no file of a take nor a task"),
    "unknown modality": ("[audio, gaze", "[audio, gase", "gase", "'gase' is no modality (is it gaze?)"),
    "modality without files": ("[audio, gaze", "[audio, tracker", "tracker, l", "has no files in the house layout"),
    "modality of cameras": ("[audio, gaze", "[audio, ego_views", "ego_views", "'ego_views' comes with its cameras"),
    "patterns in a house": ("layout: house\n", "layout: house\n    files: {}\n", "files: {}", "'files' has no place"),
    "modalities outside a house": ("    suffix: _P\n", "    modalities: []\n", "modalities: []", "has no place"),
    "unknown layout": ("layout: house", "layout: hause", "hause", "'hause' is no layout (is it house?)"),
    "unknown reader of labels": ("labels: triplets", "labels: mmoor", "mmoor", "(is it mmor?)"),
    "frame key of another meaning": ("[room, cloud]", "[room, number]", "number]", "'number' can be no frame key"),
    "no period": ("period: 0.5", "period: 0", "period", "must be a number above 0 and below 1e+09, not 0"),
    "period beyond any take": ("period: 0.5", "period: 1e+300", "period", "must be a number above 0 and below 1e+09"),
    "period in quotes": ("period: 0.5", "period: '0.5'", "period", "and below 1e+09, not the text '0.5'"),
    "period of another country": ("period: 0.5", "period: 0,5", "period", "and below 1e+09, not the text '0,5'"),
    "endless period": ("period: 0.5", "period: .inf", "period", "must be a number above 0 and below 1e+09, not .inf"),
    "no regular expression": ('"[a-z0-9]+"', '"[a-z"', "[a-z", "is no regular expression"),
    "two datasets of one root": ("root: clinic", "root: practice", "name: Clinic", "root 'practice' is that of"),
    "two datasets of one name": ("name: Clinic", "name: Practice", "name: Practice\n    root: clinic", "is that of"),
    "two datasets of one form": ("    suffix: _P\n", "", "name: Clinic", "names do not tell takes"),
    "take of another's suffix": ("period: 0.5", "takes: [x_P]", "name: Clinic", "take 'x_P' cannot be told"),
    "no dataset": (TEXT[TEXT.index("collections:") :], "collections: []\n", "collections", "names no dataset"),
    "numbered takes without number": ("folders: {a2: shared}", 'folder: "t{number}"', "t{number}", "has no number"),
    "folder without a take": ("folders: {a2: shared}", "folder: all", "folder: all", "needs {take} or {number}, once"),
    "no YAML": ("name: dental", "name: [dental", "language:", "is not valid YAML"),
    "tabs": ("  masks: 2", "\tmasks: 2", "\tmasks", "is not valid YAML"),
    "an unknown alias": ("name: dental", "name: *dental", "*dental", "is not valid YAML"),
    "two documents": ("tasks:\n", "---\ntasks:\n", "---", "is not valid YAML"),
    "a control character": ("name: dental", "name: den\x07tal", "\x07", "holds the character '\\x07'"),
    "an object of Python": ("name: dental", "name: !!python/object:os.system x", "!!python", "not a value of type"),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "place", "said"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, old: str, new: str, place: str, said: str) -> None:
    assert TEXT.count(old) == 1
    text = TEXT.replace(old, new)
    line = text.count("\n", 0, text.rindex(place)) + 1
    with pytest.raises(UserError) as told:
        read(tmp_path, text)
    message = str(told.value)
    assert message.startswith(f"{tmp_path / 'room.yaml'}:{line}: ")
    assert said in message
    assert one_line(message) == message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"# only a comment\n", ":1: is empty"),
        (b"name: x\nlanguage: \xff\n", ":2: is not UTF-8 text (byte 18)"),
        (b"- " * 50_000, ":1: is nested too deeply"),
        (b"name: &x [*x]\n", ": an alias (*name) in it stands for what it is part of"),
        (b"just words\n", ":1: must be a mapping (key: value), not text"),
        (b"{", ":1: is not valid YAML"),
        (b"a" * (1 << 24) + b"a", ":1: is 16777217 characters long"),
    ],
    ids=["comment", "not UTF-8", "deep", "of itself", "words", "open", "long"],
)
def test_what_is_no_domain_at_all_is_told(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(UserError) as told:
        read(tmp_path, content)
    assert said in str(told.value)


def test_a_missing_file_and_a_folder_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        Domain.read(tmp_path / "room.yaml")
    with pytest.raises(UserError, match="is a folder"):
        Domain.read(tmp_path)
    with pytest.raises(UserError, match="no domain is called 'mmoor'; there are egoexor, mmor"):
        bundled("mmoor")
    with pytest.raises(UserError, match=f"or give the file of a domain in {re.escape(str(tmp_path))}"):
        find_domain(tmp_path)


def nodes(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to all values inside a value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield (*path, key)
        yield from nodes(item, (*path, key))


PLACES = list(nodes(yaml.safe_load(TEXT)))
STRANGE = [None, True, 0, -1, 1.5, 300, "", "..", "a b", "{x}", "[", [], ["x"], [[]], {}, {"x": "y"}, {1: 2}, "é\n,;"]


@given(place=st.sampled_from(PLACES), change=st.sampled_from(("delete", "misspell", "swap", "double")), data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=400, deadline=None)
def test_whatever_is_changed_gives_a_domain_or_a_line(
    tmp_path: Path, place: tuple[Any, ...], change: str, data: st.DataObject
) -> None:
    content = yaml.safe_load(TEXT)
    holder = content
    for key in place[:-1]:
        holder = holder[key]
    key, value = place[-1], holder.pop(place[-1])
    if change == "misspell" and isinstance(key, str):
        holder[f"{key}x"] = value
    elif change != "delete":
        others = {"misspell": f"{value}x", "double": [value, value]}
        other = others[change] if change in others else data.draw(st.sampled_from(STRANGE))
        if isinstance(holder, list):
            holder.insert(key, other)
        else:
            holder[key] = other
    text = yaml.safe_dump(content, sort_keys=False)
    domain, said = tried(tmp_path, text.encode())
    if domain is None:
        told = ONE_LINE_OF_A_FILE.fullmatch(said)
        assert told is not None
        assert int(told[1]) <= text.count("\n") + 1
    else:
        assert read(tmp_path, domain.to_yaml()) == domain


@given(start=st.integers(0, len(TEXT)), length=st.integers(0, 30), put=st.text(max_size=5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
def test_damaged_text_gives_a_domain_or_a_line(tmp_path: Path, start: int, length: int, put: str) -> None:
    text = TEXT[:start] + put + TEXT[start + length :]
    domain, said = tried(tmp_path, text.encode("utf-8", "surrogatepass"))
    assert domain is not None or ONE_LINE_OF_A_FILE.fullmatch(one_line(said))


def house(folder: Path) -> Collection:
    return read(folder, TEXT).collections[1]


def test_splits_of_a_house_come_from_their_file(tmp_path: Path) -> None:
    path = tmp_path / "splits.yaml"
    path.write_text("train: [b, a]\nval: [c]\nmine: [a, c]\n")
    collection = read_splits(path, house(tmp_path))
    assert collection.splits == {"train": ("b", "a"), "val": ("c",), "mine": ("a", "c")}
    assert collection.takes == ("a", "b", "c")
    assert collection.published[0].folder == "takes/a"


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("train: [a]\nval: [b]\ntest:\n  - b\n", 4, "take 'b' is in test and in val; it can be in one of them"),
        ("train: [a]\nval: b\n", 2, "must be a list, not text"),
        ("train: [a/b]\n", 1, "'a/b' can be no name"),
        ("train: ['a b']\n", 1, "'a b' can be no name"),
        ("train: [1]\n", 1, "put it in quotes: '1'"),
        ("own: [a]\n", 1, "'own' can be no split"),
        ("train: [a]\n\ntrain: [b]\n", 3, "the key 'train' stands twice, first in line 1"),
    ],
)
def test_wrong_splits_are_told(tmp_path: Path, text: str, line: int, said: str) -> None:
    path = tmp_path / "splits.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as told:
        read_splits(path, house(tmp_path))
    assert str(told.value).startswith(f"{path}:{line}: ")
    assert said in str(told.value)


def test_aliases_that_stand_for_megabytes_are_refused(tmp_path: Path) -> None:
    names = ", ".join(f"p{i}" for i in range(1000))
    many = "".join("    - *all\n" for _ in range(3000))
    text = f"name: x\nlanguage:\n  entities: [a]\n  predicates: [p]\n  levels:\n    - &all [{names}]\n{many}"
    path = tmp_path / "domain.yaml"
    path.write_text(f"{text}collections: [{{name: X, root: x, layout: house}}]\n")
    tracemalloc.start()
    with pytest.raises(UserError, match=r"its aliases .* stand for more than"):
        Domain.read(path)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()
