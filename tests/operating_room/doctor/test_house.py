"""Takes of another room, in the house layout: complete ones are whole, and whatever nobody would read is told."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from mmor.cli import app
from operating_room.doctor.checkup import check
from operating_room.doctor.findings import Checkup, Severity
from operating_room.errors import UserError
from operating_room.graphs.graph_files import load_samples
from operating_room.graphs.scene_graph import Triplet, normalise
from operating_room.recordings.dataset import Dataset
from tests.operating_room.tiny_dataset import picture, write
from tests.operating_room.tiny_house import DOMAIN, FRAMES, array, cloud_arrays, write_house, write_take

SOUP = Path("takes/soup")
SYNONYMS = "  word_synonyms: {next to: nextto}\n  forgotten"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_house(tmp_path / "Kitchen_data")


def told(report: Checkup, severity: Severity) -> list[str]:
    return [finding.message for finding in report.findings if finding.severity == severity]


def run(*words: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(map(str, words)))
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout


def test_complete_takes_only_lack_what_preprocessing_makes(root: Path) -> None:
    report = check(Dataset(root))
    assert report.findings == ()
    soup = report.to_json()["takes"][0]
    assert (soup["take"], soup["splits"], soup["timepoints"]) == ("soup", ["train"], FRAMES)
    assert soup["files"]["room_views"] == {"found": 2 * FRAMES, "expected": 2 * FRAMES}
    assert soup["files"]["gaze"] == {"found": FRAMES, "expected": FRAMES}
    assert soup["files"]["recording"] == {"found": 1, "expected": 1}
    assert "masks" not in soup["files"]
    header = str(report).splitlines()[0].split()
    assert {"ego", "gaze", "hands", "cloud"} <= set(header)
    assert not {"tracker", "screen", "robot"} & set(header)  # what this room cannot have


def test_what_a_domain_says_of_masks_and_hardly_means_is_told(root: Path) -> None:
    """A misspelt category passed: nothing in a graph was then ever in a mask."""
    assert "name: pan," in DOMAIN
    (root / "domain.yaml").write_text(DOMAIN.replace("name: pan,", "name: pann,").replace("masks: 2", "masks: 5"))
    wrong, many = told(check(Dataset(root)), Severity.NOTE)
    assert wrong.startswith(f"{root}: domain kitchen: category 'pann' of masks is no entity of graphs (is it pan?)")
    assert many.startswith(f"{root}: domain kitchen: labels: masks are of 5 pictures of a timepoint")
    (root / "domain.yaml").write_text(DOMAIN.replace("name: stove,", "name: pan_lid,"))  # beside the pan's own
    assert not told(check(Dataset(root)), Severity.NOTE)


def test_a_camera_that_was_not_used_is_no_gap_and_a_lost_picture_is(root: Path) -> None:
    for path in (root / SOUP / "views" / "door").iterdir():
        path.unlink()
    assert check(Dataset(root)).findings == ()
    (root / SOUP / "views" / "screen" / "000002.jpg").unlink()
    (message,) = told(check(Dataset(root)), Severity.GAP)
    assert "1 of 4 files are missing: station_views of take soup; normal if it was not recorded, else copy" in message
    assert "archive" not in message  # there is none of one's own recordings
    for camera in ("ceiling", "screen", "glasses"):
        (root / SOUP / "views" / camera / "000001.jpg").unlink()
    assert any(
        "1 of 4 timepoints have no picture of any camera, the first is 000001" in m
        for m in told(check(Dataset(root)), Severity.GAP)
    )


DAMAGE: list[tuple[str, bytes | str | list[Any], str]] = [
    ("views/cieling/000000.jpg", picture(), "the domain knows no camera 'cieling' (is it ceiling?)"),
    ("views/door/000004.jpg", picture(), "belongs to no timepoint, as 1 of 5 files there"),
    ("views/door/000000.png", picture("PNG"), "belongs to no timepoint"),
    ("label_masks/ceiling/000009.png", b"x", "is the label of a frame that the index does not have"),
    ("graphs/000009.json", [], "is the label of a frame that the index does not have"),
    ("label_masks/ceiling/000001.jpg", picture(), "belongs to no timepoint, as 1 of 5 files there"),
    ("graphs/000001.JSON", [], "belongs to no timepoint, as 1 of 5 files there"),
    ("depth/door/000001.png", b"x", "is no TIFF or PNG"),
    ("depth/doorr/000001.png", b"x", "the domain knows no camera 'doorr' (is it door?)"),
    ("depth/door/000009.png", b"x", "belongs to no timepoint, as 1 of 1 files there"),
    ("calibration/doorr.json", b"x", "the domain knows no camera 'doorr' (is it door?)"),
    ("calibration/door.JSON", b"x", "a camera file is called door.json"),
    ("gazes/000000.npy", b"x", "'gazes' is no folder of the house layout (is it gaze?)"),
    ("gaze/000001.npy", array(np.zeros((1, 3), np.float32)), "float32 [1, 3], expected float32 [rows, 4]"),
    ("gaze/000001.npy", array(np.array([[0, 3, 2, 1]], np.float32)), "has the camera number 0; expected 1 to 4"),
    ("gaze/000001.npy", array(np.array([[5, 3, 2, 1]], np.float32)), "has the camera number 5; expected 1 to 4"),
    ("hands/000001.npy", array(np.zeros((1, 17), np.float32)), "has the camera number 0; expected 1 to 4"),
    ("gaze/000001.npy", array(np.array([[1, 0.4, 0.2, 1], [2, -1, -1, 1]], np.float32)), "write them in px"),
    ("hands/000001.npy", array(np.array([[1, *[0.4, np.nan] * 8]], np.float32)), "write them in px"),
    ("gaze/000001.npy", array(np.zeros((1, 4))), "float64 [1, 4], expected float32"),
    ("gaze/000001.npy", array(np.full((1, 4), np.nan, np.float32)), "what is no number"),
    ("hands/000001.npy", array(np.full((1, 17), np.inf, np.float32)), "hold infinity"),
    ("hands/000001.npy", array(np.array([[None]])), "is no readable .npy file"),
    ("hands/000001.npy", b"\x93NUMPY\x01", "is no readable .npy file"),
    ("clouds/000001.npz", cloud_arrays()[:-9], "is no readable .npz file"),
    ("clouds/000001.npz", cloud_arrays(0), "has 0 points"),
    ("graphs/000001.json", [["cook", "stirring", "pan"]], "'stirring' is no entity"),
    ("graphs/000001.json", [["cook", "pan"]], "needs a list of [subject, object, predicate]"),
    ("sound.flac", b"x", "sound.flac"),
    ("take.yaml", "period: 1.0e+308\nframes: 4\npictures: jpg\n", "take.yaml:1: must be a number above 0 and below"),
    ("take.yaml", "period: 0\nframes: 4\npictures: jpg\n", "take.yaml:1: must be a number above 0"),
    ("take.yaml", "period: 1\nframes: 0\npictures: jpg\n", "take.yaml:2: must be a whole number from 1"),
    ("take.yaml", "period: 1\nframes: 4\npictures: gif\n", "take.yaml:3: 'gif' is no form of pictures"),
    ("take.yaml", "period: 1\nframes: 4\npictures: jpg\nfps: 3\n", "take.yaml:4: unknown key 'fps'"),
    ("take.yaml", "period: 1\n", "the key 'frames' is missing"),
]


@pytest.mark.parametrize(("name", "content", "expected"), DAMAGE, ids=lambda value: str(value)[:40])
def test_what_nobody_could_read_is_told(root: Path, name: str, content: bytes | str | list[Any], expected: str) -> None:
    write(root / SOUP / name, content)
    messages = told(check(Dataset(root)), Severity.BROKEN)
    assert messages
    assert [message for message in messages if expected in message and name.split("/")[0] in message] == messages[:1]
    assert all("\n" not in message for message in messages)


def test_a_folder_that_cannot_be_listed_hides_nothing(root: Path) -> None:
    for name in ("hands", "depth", "calibration"):
        shutil.rmtree(root / SOUP / name, ignore_errors=True)
        (root / SOUP / name).symlink_to(root / SOUP / name)
    write(root / SOUP / "grafs" / "000000.json", [])
    write(root / SOUP / "views" / "dor" / "000000.jpg", picture())
    for camera in ("ceiling", "door", "screen", "glasses"):
        (root / SOUP / "views" / camera / "000001.jpg").unlink()
    report = check(Dataset(root))
    messages = told(report, Severity.BROKEN)
    for path in ("hands", "depth/door", "calibration"):
        assert any(f"{SOUP / path}: cannot be listed" in message for message in messages)
    assert any("'grafs' is no folder of the house layout (is it graphs?)" in message for message in messages)
    assert any("the domain knows no camera 'dor' (is it door?)" in message for message in messages)
    assert any("1 of 4 timepoints have no picture of any camera" in m for m in told(report, Severity.GAP))


def test_a_camera_file_of_all_takes_that_nobody_reads_is_told_once(root: Path) -> None:
    write(root / "calibration" / "doorr.json", b"x")
    (message,) = told(check(Dataset(root)), Severity.BROKEN)
    assert f"{root / 'calibration' / 'doorr.json'}: is read by nothing: the domain knows no camera 'doorr'" in message


def test_a_gaze_into_the_corner_of_a_picture_is_one(root: Path) -> None:
    for number, row in enumerate(([1, 0, 0, 1], [1, -1, -1, 1], [1, 0.5, 7, 1])):
        write(root / SOUP / f"gaze/{number:06d}.npy", array(np.array([row], np.float32)))
    write(root / SOUP / "hands/000001.npy", array(np.array([[1, *[np.nan] * 16]], np.float32)))
    assert not told(check(Dataset(root)), Severity.BROKEN)


def test_nobody_knows_whose_a_gaze_is(root: Path) -> None:
    write(root / SOUP / "gaze" / "000001.npy", array(np.array([[-1, 30, 20, 1]], np.float32)))
    assert check(Dataset(root)).findings == ()


def test_a_folder_that_the_domain_does_not_list_is_told(root: Path) -> None:
    text = (root / "domain.yaml").read_text()
    write(root / "domain.yaml", text.replace("gaze, hands, ", "").replace("audio, ", "").replace(", label_masks", ""))
    messages = told(check(Dataset(root), ["soup"]), Severity.BROKEN)
    listed = ("gaze", "hands", "audio", "label_masks")
    assert len(messages) == len(listed)
    assert all(any(f"does not list {name}" in message for message in messages) for name in listed)
    write(root / SOUP / "notes.txt", "hello")
    assert any("notes.txt: is no file of the house layout" in m for m in told(check(Dataset(root)), Severity.NOTE))


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        ("train: [soup]\nval: [soup]\n", "splits.yaml:2: take 'soup' is in val and in train"),
        ("train: soup\n", "splits.yaml:1: must be a list"),
        ("train:\n  - 7\n", "splits.yaml:2: must be text"),
        ("- soup\n", "splits.yaml:1: must be a mapping"),
    ],
)
def test_wrong_splits_are_one_line(root: Path, splits: str, expected: str) -> None:
    write(root / "splits.yaml", splits)
    with pytest.raises(UserError) as refusal:
        Dataset(root)
    assert expected in str(refusal.value)


def test_takes_of_splits_that_are_not_there_are_told_with_their_line(root: Path) -> None:
    write(root / "splits.yaml", "train: [soup]\nval:\n  - stew\n  - stu\n")
    (message,) = told(check(Dataset(root)), Severity.GAP)
    assert message.startswith(f"{root / 'splits.yaml'}:4: take 'stu' of val is not in")
    write(root / "splits.yaml", "trian: [soup]\nown_rooms: [stew]\nval: [stew]\n")
    (message,) = told(check(Dataset(root)), Severity.GAP)
    assert message.startswith(f"{root / 'splits.yaml'}:1: take 'soup' is in none of train, val, test, so its labels")
    (root / "splits.yaml").unlink()
    assert Dataset(root).select("own") == Dataset(root).takes()
    assert "every take is one of your own" in told(check(Dataset(root)), Severity.NOTE)[0]


def test_folders_without_take_yaml_are_told(root: Path) -> None:
    (root / SOUP / "take.yaml").unlink()
    assert [take.name for take in Dataset(root).takes()] == ["stew"]
    messages = told(check(Dataset(root)), Severity.BROKEN)
    assert [message for message in messages if "has no take.yaml, so it is no take" in message] == messages[:1]
    assert messages[0].endswith("; copy the index there")
    write(root / SOUP / "take.yaml.txt", "period: 1\n")
    assert told(check(Dataset(root)), Severity.BROKEN)[0].endswith("; take.yaml.txt is there, rename it")


@pytest.mark.parametrize(
    ("note", "command"), [(".import.json", "mmor data import"), (".synthetic.json", "mmor data synthesize")]
)
def test_takes_that_are_begun_are_told_how_to_finish_them(root: Path, note: str, command: str) -> None:
    """It was "copy the index there", which nobody has; of takes all of which are begun, that there is no dataset."""
    (root / SOUP / "take.yaml").rename(root / SOUP / note)
    assert [take.name for take in Dataset(root).takes()] == ["stew"]
    (message,) = told(check(Dataset(root)), Severity.BROKEN)
    assert message.startswith(f"{root / SOUP}: its ")
    assert f"is not finished; give the same `{command}` again" in message
    shutil.rmtree(root / SOUP / "views")  # interrupted before its first picture
    assert message in told(check(Dataset(root)), Severity.BROKEN)
    (root / "domain.yaml").unlink()  # which the import writes at its end
    with pytest.raises(UserError, match=f"{SOUP}: its .* is not finished; give the same `{command}` again"):
        Dataset(root.rename(root.with_name("out")))


def test_every_command_of_data_works_on_another_room(root: Path, tmp_path: Path) -> None:
    assert "0 broken, 0 gaps" in run("data", "check", root)
    shown = json.loads(run("data", "show", "soup", "3", "--data", root, "--json"))
    assert (shown["second"], shown["splits"], shown["frames"]) == (1, ["train"], {})
    assert shown["pictures"] == [f"{camera}: 000003.jpg" for camera in ("ceiling", "door", "glasses")]
    assert "Entities: [cook, helper, pan, stove]. Predicates: [stirring, holding, beside]" in shown["prompt"]
    assert shown["graph"] == "<SG> cook,pan,stirring; helper,stove,beside </SG>"
    assert "soup" in run("data", "show", "soup", "3", "--data", root, "--memory")
    rows = list(csv.DictReader(run("data", "table", "soup", "--data", root).splitlines()))
    assert len(rows) == 4 * FRAMES
    assert rows[0]["label_mask"] == "Kitchen_data/takes/soup/label_masks/ceiling/000000.png"
    written = run("data", "convert-relations", root, "--out", tmp_path / "out").split()
    assert [Path(path).name for path in written][:3] == [
        f"relationships_{name}.json" for name in ("train", "validation", "test")
    ]
    assert [sample.sample_id for sample in load_samples(Path(written[0]))] == [f"soup_{i:06d}" for i in range(FRAMES)]


def test_a_split_is_no_take_and_a_take_of_its_name_is_told(root: Path) -> None:
    for words in (("show", "train", "0"), ("table", "train")):
        stopped = CliRunner().invoke(app, ["data", *words, "--data", str(root)])
        assert str(stopped.exception) == f"{root}: no take train; there are soup, stew"
    write_take(root / "takes" / "own")
    assert json.loads(run("data", "show", "own", "0", "--data", root, "--json"))["sample_id"] == "own_000000"
    (message,) = told(check(Dataset(root)), Severity.BROKEN)
    assert message.startswith(f"{root / 'takes' / 'own'}: is a take with the name of a split")


def test_other_spellings_in_a_graph_are_names_of_the_domain(root: Path) -> None:
    write(root / "domain.yaml", DOMAIN.replace("beside", "nextTo").replace("  forgotten", SYNONYMS))
    for take in ("soup", "stew"):
        for frame in range(FRAMES):
            write(root / "takes" / take / "graphs" / f"{frame:06d}.json", [["Cook", "PAN", "Next To"]])
    assert check(Dataset(root)).findings == ()
    run("data", "convert-relations", root)
    (triplets,) = {sample.triplets for sample in load_samples(root / "relationships_train.json")}
    assert triplets == (("cook", "pan", "nextTo"),)
    write(root / SOUP / "graphs" / "000001.json", [["Cook", "pan", "nextTo"], ["cook", "pan", "Holding"]])
    (message,) = told(check(Dataset(root)), Severity.BROKEN)
    assert "000001.json: holding and nextTo between cook and pan; only one can stay" in message
    assert message.endswith("unless the language of the domain says several_predicates: true")


def test_a_synonym_of_two_words_is_an_entity(root: Path) -> None:
    """Blanks had become underscores before it was looked for, so that it was never met."""
    synonyms = "  word_synonyms: {big frying pan: pan}\n  forgotten"
    write(root / "domain.yaml", DOMAIN.replace("  forgotten", synonyms))
    write(root / SOUP / "graphs" / "000001.json", [["cook", "Big frying pan", "holding"]])
    assert check(Dataset(root)).findings == ()
    language = Dataset(root).domain.language
    assert normalise(Triplet("cook", "big frying pan", "Holding"), language) == ("cook", "pan", "holding")
    assert normalise(Triplet("cook", "frying pan", "Holding"), language) is None


def test_two_rooms_with_takes_of_one_name_are_told(root: Path) -> None:
    """Videos, masks and exports are called after takes: those of the second room were taken for the first one's."""
    data = root.parent
    other = DOMAIN[DOMAIN.index("  - name: Kitchen") :].replace("Kitchen", "Cellar")
    write(data / "domain.yaml", DOMAIN + other.replace("    layout", "    suffix: _C\n    layout"))
    cellar = shutil.copytree(root, data / "Cellar_data") / "takes"
    with pytest.raises(UserError, match=f"{cellar}/soup: take soup is in {root}/takes/soup, too"):
        Dataset(data).choose(None)
    for take in ("soup", "stew"):
        (cellar / take).rename(cellar / f"{take}_2")
    (cellar.parent / "splits.yaml").unlink()
    assert [take.sample_name for take in Dataset(data).takes()] == ["soup", "stew", "soup_2_C", "stew_2_C"]


def test_a_pair_has_several_predicates_where_the_domain_says_so(root: Path) -> None:
    """It was a matter of the domain's name: a renamed EgoExOR was refused, and no other room could have them."""
    write(root / "domain.yaml", DOMAIN.replace("  forgotten", "  several_predicates: true\n  forgotten"))
    both = [["cook", "pan", "holding"], ["cook", "pan", "stirring"]]
    write(root / SOUP / "graphs" / "000001.json", both[::-1])
    assert check(Dataset(root)).findings == ()
    run("data", "convert-relations", root)
    samples = {sample.sample_id: sample for sample in load_samples(root / "relationships_train.json")}
    assert list(samples["soup_000001"].triplets) == [tuple(triplet) for triplet in both]
    told_of = run("data", "show", "soup", "2", "--data", root, "--memory")
    assert "cook,pan,stirring; cook,pan,holding" in told_of


def test_time_is_that_of_the_period(root: Path) -> None:
    write_take(root / SOUP, period=1 / 15)
    write(root / SOUP / "take.yaml", f"period: {1 / 15}\nframes: 31\npictures: jpg\n")
    timepoints = Dataset(root).take(Dataset(root).domain.find_take("soup")).timepoints
    assert [timepoints[frame].second for frame in (0, 14, 15, 29, 30)] == [0, 0, 1, 1, 2]


def test_splits_of_the_domain_itself_are_those_that_are_checked(root: Path) -> None:
    """A splits.yaml that no command reads was checked in their place."""
    own = "    layout: house\n    splits: {train: [soup], val: [], test: [stew, pizza]}\n"
    (root / "domain.yaml").write_text(DOMAIN.replace("    layout: house\n", own))
    (root / "splits.yaml").unlink()
    notes = told(check(Dataset(root)), Severity.NOTE)
    assert any("1 of 2 takes of test are absent: pizza" in note for note in notes)
    assert not any("one of your own" in note for note in notes)
    (root / "splits.yaml").write_text("train: soup\n")
    assert notes == told(check(Dataset(root)), Severity.NOTE)


def test_small_masks_are_of_the_cameras_of_one_kind(root: Path) -> None:
    """Of two room cameras, a screen and glasses three pictures are never there: a gap that nothing could fill."""
    (root / "domain.yaml").write_text(DOMAIN.replace("masks: 2", "masks: 3"))
    (note,) = told(check(Dataset(root)), Severity.NOTE)
    assert note.endswith("labels: masks are of 3 pictures of a timepoint, and of one kind of cameras: 2 at most")


def test_names_that_read_the_same_and_are_stored_otherwise_are_told(root: Path) -> None:
    """A folder from a Mac was of no camera, and the line told the very name that the domain has."""
    write(root / "domain.yaml", DOMAIN.replace("door", "T\u00fcr"))
    for take in ("soup", "stew"):
        (root / "takes" / take / "views" / "door").rename(root / "takes" / take / "views" / "Tu\u0308r")
    (first, _) = told(check(Dataset(root)), Severity.BROKEN)
    assert "stored apart, as macOS does in names of files: type T\u00fcr anew" in first
    write(root / "domain.yaml", DOMAIN.replace("door", "Tu\u0308r"))
    with pytest.raises(UserError, match="letters, digits and '_' only; its letters and their marks are stored apart"):
        Dataset(root)


def test_names_in_other_letters_are_nearly_those_of_the_domain(root: Path) -> None:
    """`JPG`, as files of cameras end, was no form of pictures, and none was told."""
    write(root / SOUP / "take.yaml", "period: 1\nframes: 4\npictures: JPG\n")
    (line,) = told(check(Dataset(root)), Severity.BROKEN)
    assert "'JPG' is no form of pictures (is it jpg?)" in line


def test_what_windows_and_network_disks_leave_in_folders_is_no_data(root: Path) -> None:
    """Who looked at a folder of pictures from Windows had a broken dataset."""
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        for name in ("Thumbs.db", "desktop.ini"):
            (folder / name).write_bytes(b"\xd0\xcf\x11\xe0")
        write(folder / "@eaDir" / "000000.jpg", picture())
    assert check(Dataset(root)).findings == ()


def test_a_take_with_an_umlaut_is_told_what_is_wrong_with_its_name(root: Path) -> None:
    """An umlaut is a letter, and names have letters only."""
    write(root / "splits.yaml", "train: [Fr\u00fch]\n")
    with pytest.raises(UserError, match=r"can be no take: .* \(no umlauts\) only"):
        Dataset(root)
