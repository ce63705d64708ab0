"""The command line: what a user sees for a mistake, and that each command calls what it says."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmor import cli
from mmor.cli.options import parse_size
from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.graphs.graph_files import load_samples, save_samples
from operating_room.recordings.dataset import Dataset
from tests.operating_room.tiny_dataset import write, write_dataset
from tests.operating_room.tiny_house import write_house

RUN = CliRunner()


def run(*arguments: str) -> int:
    """The exit code of the real entry point."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["mmor", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
    return int(stopped.value.code or 0)


@pytest.mark.parametrize("group", [(), ("data",), ("panoptic",), ("scene-graph",)])
def test_help_names_the_commands(group: tuple[str, ...]) -> None:
    result = RUN.invoke(cli.app, [*group, "--help"])
    assert result.exit_code == 0
    assert "Commands" in result.output


def test_mistakes_end_with_one_line_and_no_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("data", "check", str(tmp_path / "nothing")) == 2
    assert run("data", "synthesize", "--out", str(tmp_path), "--size", "big") == 2
    assert run("scene-graph", "preprocess", "masks", "--data", str(tmp_path)) == 2
    assert run("panoptic", "train", "--config-file", str(tmp_path / "no.yaml")) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 4
    assert all(line.startswith("error: ") for line in lines)


def test_odd_names_are_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Names that no file has, links in a circle, and the value of a shell variable that is not set."""
    (tmp_path / "circle").symlink_to("circle")
    commands = [
        ("scene-graph", "infer", "--out", str(tmp_path / "o.json"), "--model"),
        ("scene-graph", "train", "--config"),
        ("scene-graph", "train", "--model_name_or_path"),
        ("scene-graph", "train", "--samples"),
        ("panoptic", "predict", "--out", str(tmp_path / "o"), "--model"),
        ("panoptic", "train", "--config-file"),
        ("data", "check", "--take", "001_PKA", "--json", "--take", "002_PKA"),
        ("checkpoints", "inspect"),
    ]
    for command in commands:
        for name in ("n" * 300, "n/" * 3000, str(tmp_path / "circle"), str(tmp_path / "circle" / "x")):
            assert run(*command, name) == 2
    for command in (("scene-graph", "infer", "--model", "", "--out", "x"), ("data", "synthesize", "--out=")):
        assert run(*command) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert all(line.startswith("error: ") for line in lines), lines
    assert len(lines) == 4 * len(commands) + 2


def test_a_folder_that_is_closed_to_this_user_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def closed(self: Path, **options: object) -> object:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "stat", closed)  # what root would never see
    for command in (("data", "check"), ("checkpoints", "inspect"), ("data", "convert-relations")):
        assert run(*command, "/closed/two\nlines") == 2
    lines = capsys.readouterr().err.splitlines()
    told = "Permission denied; check path and permissions"
    # A data folder is first asked for its domain.
    assert lines == [f"error: /closed/two\\nlines{inside}: {told}" for inside in ("/domain.yaml", "", "/domain.yaml")]


def test_each_of_several_problems_has_its_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise UserError("the first take is broken\nthe second \x1b[31mtoo")

    monkeypatch.setattr(cli, "app", fail)
    assert run("data") == 2
    assert capsys.readouterr().err == "error: the first take is broken\nerror: the second \\x1b[31mtoo\n"


def test_letters_that_a_terminal_does_not_have_end_no_command(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    take = data / "MM-OR_data" / "001_PKA"
    (take / "relation_labels" / "gr\N{LATIN SMALL LETTER O WITH DIAERESIS}\udcff.json").write_text("{}")
    for encoding in ("utf-8:strict", "latin-1:strict"):
        checked = subprocess.run(
            [sys.executable, "-m", "mmor.cli", "data", "check", str(data)],
            capture_output=True,
            env={**os.environ, "PYTHONIOENCODING": encoding},
        )
        assert checked.returncode == 2
        assert b"Traceback" not in checked.stderr
        assert rb"\udcff.json: is the label of a frame that the index does not have" in checked.stdout


def test_readers_may_hand_over_more_tensors_than_a_shell_lets_files_be_open() -> None:
    """Each comes as an open file, and 1024 are the usual limit: batches of 32 of eight readers ended a training."""
    code = (
        "import resource, sys; most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, most))\n"
        "from contextlib import suppress; from mmor.cli import main; sys.argv = ['mmor', '--help']\n"
        "with suppress(SystemExit): main()\n"
        "assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == most > 256"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_synthesize_check_and_convert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--take", "005_4DOR", "--seconds", "40", "--size", "48x36", "--workers", "1")
    assert run("data", "synthesize", "--out", str(tmp_path), *options) == 0
    recorded = Dataset(tmp_path).take(mmor().find_take("005_4DOR"))
    assert len(recorded.timepoints) == 40

    assert run("data", "convert-relations", str(tmp_path), "--out", str(tmp_path)) == 0
    samples = json.loads((tmp_path / "relationships_train.json").read_text())
    assert len(samples) == 40

    capsys.readouterr()
    assert run("data", "check", str(tmp_path), "--json") == 1  # masks are not made yet
    report = json.loads(capsys.readouterr().out)
    assert {finding["severity"] for finding in report["findings"]} == {"gap", "note"}
    assert report == json.loads(json.dumps(report))
    assert any("005_4DOR" in str(take) for take in report["takes"])


def test_relations_are_written_where_the_next_command_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`convert-relations DIR` wrote to ./data, over the tracked names there, and `--data DIR` found nothing."""
    data = tmp_path / "recordings"
    options = ("--take", "002_4DOR", "--seconds", "40", "--size", "32x24", "--workers", "1")
    assert run("data", "synthesize", "--out", str(data), *options) == 0
    names = {name: (Path("data") / name).read_text() for name in ("classes.txt", "relationships.txt")}
    for name, text in names.items():
        (data / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    arguments = ("--data", str(data), "--split", "test", "--out", "samples", "--permutations", "1")
    assert run("scene-graph", "samples", *arguments) == 2
    assert "`mmor data convert-relations" in capsys.readouterr().err
    assert run("data", "convert-relations", str(data / "4D-OR_data")) == 0
    assert {name: (data / name).read_text() for name in names} == names  # few takes never shorten them
    assert run("scene-graph", "samples", *arguments) == 0
    # The files of the other splits are there and empty: it is not that their takes are missing.
    assert run("scene-graph", "samples", *arguments[:3], "train", *arguments[4:]) == 2
    said = capsys.readouterr().err
    assert "relationships_train.json: holds no timepoint; make it again" in said
    # convert-relations writes none of a split of one's own without takes: it is no advice.
    assert run("scene-graph", "samples", *arguments[:3], "own", *arguments[4:]) == 2
    said = capsys.readouterr().err
    assert "no take in" in said
    assert "convert-relations" not in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recordings", "samples"]


def test_check_of_the_takes_that_are_meant(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path)
    for names in ((), ("--take", "001_PKA/"), ("--take", "001_4DOR", "--take", "001_PKA")):
        assert run("data", "check", str(tmp_path), *names) == 0
    assert run("data", "check", str(tmp_path), "--take", "train") == 1
    assert run("data", "check", str(tmp_path), "--take", "own") == 2
    assert "none of the takes of own is there" in capsys.readouterr().err


@pytest.mark.parametrize(
    "group", ["", "data", "panoptic", "scene-graph", "downstream", "checkpoints", "export", "import"]
)
def test_lists_of_commands_say_what_each_does(group: str) -> None:
    """On a terminal of 80 columns: no sentence is cut off in the middle."""
    said = RUN.invoke(cli.app, [*group.split(), "--help"], terminal_width=80).stdout
    described = said.partition("Commands:")[2].strip().splitlines()
    assert described
    assert not [line for line in described if line.endswith("...")]


def test_a_model_is_named_alike_in_every_command() -> None:
    """Published: `--model_path`."""
    for command in ("scene-graph infer", "scene-graph evaluate", "downstream evaluate"):
        said = RUN.invoke(cli.app, [*command.split(), "--help"]).stdout
        assert {"--model", "--model-path", "--model_path"} <= set(said.replace(",", " ").split()), command


def test_the_small_experiment_is_taken_from_any_folder_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = RUN.invoke(cli.app, ["panoptic", "train", "--data", "nowhere", "--out", "out"])
    assert "small.yaml" not in result.output + str(result.exception)
    assert "nowhere" in str(result.exception)


@pytest.mark.parametrize(
    ("words", "file", "maker"),
    [
        ("panoptic evaluate --out none", "none/inference/pred_test.json", "`mmor panoptic predict`"),
        ("scene-graph evaluate --predictions none.json", "none.json", "`mmor scene-graph infer`"),
        ("scene-graph preprocess masks --predictions none", "none", "`mmor panoptic predict`"),
        ("scene-graph train --samples none.json --out model", "none.json", "`mmor scene-graph samples`"),
        ("downstream evaluate --out r.json --graphs none.json", "none.json", "`mmor scene-graph infer`"),
        ("downstream evaluate --out r.json --labels none", "none/take_timestamp", "`mmor downstream labels --out DIR`"),
        ("downstream samples --labels none", "none/take_timestamp", "`mmor downstream labels --out DIR`"),
        ("compare none.json none2.json", "none.json", "`evaluate`"),
    ],
)
def test_a_missing_file_that_a_command_makes_names_the_command(
    words: str,
    file: str,
    maker: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Fault 40: no archive of the dataset has these files."""
    monkeypatch.chdir(tmp_path)
    write_dataset(Path("data"))
    assert run("data", "convert-relations") == 0
    save_samples(Path("data/relationships_test.json"), load_samples(Path("data/relationships_train.json")))
    capsys.readouterr()
    assert run(*words.split()) in (1, 2)
    said = capsys.readouterr().err
    assert file in said
    assert maker in said
    assert "archive" not in said


def test_samples_that_cannot_be_made_leave_those_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty list once took the place of a whole training file."""
    monkeypatch.chdir(tmp_path)
    write_dataset(Path("data"))
    assert run("data", "convert-relations") == 0
    assert run("downstream", "labels", "--derive-all", "--out", "labels") == 0
    assert run("downstream", "samples", "--labels", "labels", "--per-timepoint", "1") == 0
    (path,) = Path("data/llava_samples").glob("downstream_*.json")
    before = path.read_bytes()
    capsys.readouterr()
    assert run("downstream", "samples", "--labels", "none", "--per-timepoint", "1") == 2
    assert "error: no training sample can be made; 001_PKA_MMOR is left out: none/" in capsys.readouterr().err
    assert path.read_bytes() == before
    for index in Path("data").rglob("timestamp_to_pcd_and_frames_list.json"):
        index.write_text("[]")
    assert run("scene-graph", "samples", "--permutations", "1") == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_behind_standard_output_is_one_line(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "mmor.cli", "checkpoints", "list"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "No space left on device" in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("data check {} --calibration --people who.json", "--calibration looks at nothing else; leave out --people"),
        (
            "data synthesize --out {} --layout egoexor-hdf5 --take MISS_1_1 --mask-stride 2",
            "--mask-stride: files like EgoExOR's hold no masks",
        ),
        ("preprocess transcripts --causal", "--causal is of audio, audio-embeddings, all and not of transcripts"),
        ("preprocess audio --predictions {}", "--predictions is of masks, all and not of audio"),
        ("preprocess transcripts --from-annotations", "--from-annotations is of masks, all and not of transcripts"),
        ("preprocess audio --audio-encoder mel", "--audio-encoder is of audio-embeddings, all and not of audio"),
        ("preprocess audio --transcribe", "--transcribe is of transcripts, all and not of audio"),
        ("preprocess all --from-annotations --size 224", "--size is of views and not of all"),
        ("preprocess transcripts --whisper-model tiny", "--whisper-model is of --transcribe"),
        ("preprocess audio-embeddings --audio-encoder mel --published-feeding", "--published-feeding is of CLAP"),
        ("preprocess all --from-annotations --audio-encoder mel --audio-scaling peak", "--audio-scaling is of CLAP"),
        ("samples --temporal --own-share 0.8", "--own-share is of --answers"),
        ("evaluate --predictions p.json --valid", "--valid is of a model that answers"),
        ("evaluate --predictions p.json --roles as_evaluated", "--roles is of a model that answers"),
        ("evaluate --predictions p.json --config mmor_temporal_pred", "--config is of a model that answers"),
    ],
)
def test_options_that_would_do_nothing_are_refused(tmp_path: Path, words: str, told: str) -> None:
    group = [] if words.startswith("data ") else ["scene-graph"]
    result = RUN.invoke(cli.app, [*group, *words.format(tmp_path).split()])
    assert isinstance(result.exception, UserError), result.output
    assert told in str(result.exception)


def test_an_empty_argument_is_not_the_folder_where_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`mmor data convert-relations "$DATA"`, where the variable is not set, wrote into the working folder."""
    write_dataset(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    for words in (("data", "convert-relations", ""), ("checkpoints", "inspect", ""), ("live", "")):
        assert run(*words) == 2
        assert capsys.readouterr().err.startswith("error: an argument is empty, as ")
    assert sorted(tmp_path.iterdir()) == before
    assert run("panoptic", "train", "--config-file", "no.yaml", "MODEL.WEIGHTS", "") == 2  # from nothing
    assert "no.yaml: no such file" in capsys.readouterr().err


def test_splits_never_take_the_place_of_the_file_they_are_made_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    who, room = tmp_path / "who.json", tmp_path / "room.yaml"
    surgeons = {"001_PKA": "D", "035_PKA": "D", "006_PKA": "H", "004_PKA": "H"}
    who.write_text(json.dumps({take: {"head_surgeon": surgeon} for take, surgeon in surgeons.items()}))
    room.write_text(mmor().to_yaml())
    (tmp_path / "link").symlink_to(who)
    kitchen = write_house(tmp_path / "kitchen")
    cooks = write(tmp_path / "cooks.json", {"soup": {"cook": "D"}, "stew": {"cook": "E"}})
    stored = (kitchen / "domain.yaml").read_bytes()
    before = who.read_bytes(), room.read_bytes()
    for out in (who, tmp_path / "link", room):
        assert run("data", "people", str(who), "--domain", str(room), "--out", str(out)) == 2
        assert "would be replaced; choose another --out" in capsys.readouterr().err
    assert run("data", "people", str(cooks), "--data", str(kitchen), "--out", str(kitchen / "domain.yaml")) == 2
    assert "would be replaced; choose another --out" in capsys.readouterr().err
    assert (kitchen / "domain.yaml").read_bytes() == stored
    assert (who.read_bytes(), room.read_bytes()) == before
    assert run("data", "people", str(who), "--domain", str(room), "--out", str(tmp_path / "new.yaml")) == 0


def test_a_path_behind_an_equals_sign_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No shell replaces the ~ of `--out=~/rel`: a folder called ~ was made where one happened to be."""
    write_dataset(tmp_path / "data")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    run("data", "convert-relations", "--out=~/rel", str(tmp_path / "data"))
    assert (tmp_path / "rel" / "relationships_train.json").exists()
    assert not list((tmp_path / "here").iterdir())


@pytest.mark.parametrize(
    "size", ["0x0", "320x0", "99999999x99999999", "16000x16000", "-1x5", "x", "320", f"1x{'9' * 5000}"]
)
def test_sizes_that_no_picture_has_are_refused(size: str) -> None:
    """`panoptic evaluate --canvas` of other programs' pictures ended in a traceback of a division or of memory."""
    with pytest.raises(UserError, match="write width x height"):
        parse_size(size)
    assert parse_size("320x240") == (320, 240)


def test_small_tables_never_take_the_place_of_recordings_or_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They were written over whatever the path named; over an older one of their own they may go."""
    data = write_house(tmp_path / "kitchen")
    who = write(tmp_path / "who.json", {"soup": {"cook": "D"}, "stew": {"cook": "E"}})
    scores = write(tmp_path / "scores.json", {"about": {}, "scores": {"macro_f1": 0.8}})
    recording = data / "takes/soup/views/door/000000.jpg"
    before = scores.read_bytes(), recording.read_bytes()
    commands = [
        ("data", "table", "soup", "--data", str(data), "--out"),
        ("data", "stats", str(data), "--csv"),
        ("data", "stats", str(data), "--json"),
        ("data", "stats", str(data), "--page"),
        ("data", "people", str(who), "--data", str(data), "--out"),
        ("check", "--data", str(data), "--json"),
    ]
    for number, command in enumerate(commands):
        for there in (scores, recording):
            assert run(*command, str(there)) == 2
            assert f"{there}: is there already and is no " in capsys.readouterr().err
        if command[0] == "data":
            fresh = str(tmp_path / f"out_{number}")
            assert [run(*command, fresh) for _ in range(2)] == [0, 0]
    assert (scores.read_bytes(), recording.read_bytes()) == before
