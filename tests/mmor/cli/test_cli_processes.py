"""Commands that several processes or the jobs of an array divide: the files and words of one process, whatever ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from mmor import cli
from operating_room.domain.domain import mmor
from operating_room.files.atomic import write_json
from operating_room.work.processes import ALL, array_share
from panoptic_segmentation.inference import predictions
from scene_graph_generation.inference.answers import Answer, open_answers
from scene_graph_generation.inference.generator import SceneGraphGenerator
from scene_graph_generation.inputs.example import Example
from scene_graph_generation.weights.checkpoints import load_model, save_model
from tests.dying import dies_in
from tests.mmor.cli.test_cli_evaluation import GRAPH, SHORT, save_untrained
from tests.operating_room.tiny_dataset import write_dataset, write_mmor
from tests.panoptic_segmentation.data.test_ground_truth import write_take
from tests.panoptic_segmentation.inference.test_predict import new_model

SCORED = ("--data", "data", "--relations", "data", "--split", "train", *SHORT)
MODEL = "model/checkpoint-5"
INFER = ("scene-graph", "infer", "--model", MODEL, "--data", "data", *SHORT)
WITHOUT_MEMORY = ("scene-graph", "evaluate", "--model-path", MODEL, *SCORED, "--batch-size", "2")
DOWNSTREAM = ("downstream", "evaluate", "--model-path", MODEL, *SCORED, "--out", "downstream.json")
EVALUATE_ALL = ("scene-graph", "evaluate-all", "model", *SCORED)
SOUND = ("scene-graph", "preprocess", "audio", "--data", "data", "--workers", "1")
COMMANDS = (
    (*INFER, "--out", "with_memory.json"),
    (*INFER, "--out", "without.json", "--no-memory", "--batch-size", "2", "--take", "001_PKA", "--take", "001_4DOR"),
    (*WITHOUT_MEMORY, "--out", "scores.json"),
    EVALUATE_ALL,
    DOWNSTREAM,
    SOUND,
)
TAKES = ("001_4DOR", "001_PKA_MMOR", "003_TKA_MMOR")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset of three takes and the folder of a training."""
    root = tmp_path_factory.mktemp("original")
    data = write_dataset(root / "data")
    write_mmor(data / "MM-OR_data", "003_TKA")
    shutil.rmtree(data / "MM-OR_data" / "take_audio_per_timepoint")
    records = [{"take_name": t, "frame_id": f"{i:06d}", "relationships": GRAPH} for t in TAKES for i in range(3)]
    write_json(data / "relationships_train.json", records)
    save_untrained(root / MODEL)
    save_untrained(root / "model" / "checkpoint-6", seed=1)
    shutil.copy(root / "model" / "checkpoint-6" / "model.safetensors", root / "model")
    return root


@pytest.fixture
def place(original: Path, tmp_path: Path) -> Path:
    return copied(original, tmp_path / "place")


def copied(original: Path, folder: Path) -> Path:
    shutil.copytree(original, folder)  # times stay as they are
    return folder


def alone(folder: Path, *words: str) -> int:
    """The exit code of a command in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["mmor", *words])
        try:
            cli.main()
        except SystemExit as stopped:
            return int(stopped.code or 0)
    return 0


def together(folder: Path, *commands: Sequence[str]) -> tuple[list[int], subprocess.CompletedProcess[str]]:
    """Commands one after the other in the same two processes of torchrun; the exit codes of the first process."""
    script = folder.parent / "commands.py"
    script.write_text(
        f"""
import json, os, sys
from mmor.cli import main
codes = []
for words in {[list(words) for words in commands]!r}:
    sys.argv = ["mmor", *words]
    try:
        main()
    except SystemExit as stopped:
        codes.append(stopped.code)
    else:
        codes.append(0)
if os.environ["RANK"] == "0":
    open({str(folder.parent / "codes.json")!r}, "w").write(json.dumps(codes))
"""
    )
    done = started(folder, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script))
    assert done.returncode == 0, done.stderr
    return json.loads((folder.parent / "codes.json").read_text()), done


def started(folder: Path, *command: str, code: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A program of Python at its end; `code` is a folder whose sitecustomize.py every process of it begins with."""
    paths = [str(path) for path in (code, Path(__file__).parents[3]) if path is not None]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=900
    )


def files(folder: Path) -> dict[str, bytes]:
    """All that was written, by name; when is no part of it."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def test_two_processes_write_and_say_what_one_does(
    original: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    one, two = (copied(original, tmp_path / name) for name in ("one", "two"))
    assert [alone(one, *words) for words in COMMANDS] == [0] * len(COMMANDS)
    expected = capfd.readouterr()
    codes, done = together(two, *COMMANDS)
    assert codes == [0] * len(COMMANDS), done.stderr
    assert files(two) == files(one)
    assert done.stdout == expected.out
    names = set(files(one))
    assert {"with_memory.jsonl", "without.json", "scores.jsonl", "downstream.jsonl", "model/mmor_train.csv"} <= names
    assert "data/MM-OR_data/take_audio_per_timepoint/003_TKA/000003.mp3" in names


def test_a_bad_take_is_told_once_with_the_same_code(
    original: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    one, two = (copied(original, tmp_path / name) for name in ("one", "two"))
    for folder in (one, two):
        data = folder / "data" / "MM-OR_data"
        (data / "take_transcripts_per_timepoint" / "003_TKA" / "000002.json").write_text('{"te')
        for take in ("001_PKA", "003_TKA"):  # told in this order, and the first process has the second of them
            (data / "take_audios" / f"{take}.mp3").write_bytes(b"no sound")
    commands = (*INFER, "--out", "p.json"), (*WITHOUT_MEMORY, "--out", "r.json"), SOUND
    expected = [alone(one, *words) for words in commands]
    assert expected == [2, 1, 1]
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 4
    codes, done = together(two, *commands)
    assert codes == expected
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")] == errors
    assert files(two) == files(one)


class Counting:
    """Counts what is asked."""

    asked = 0


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> type[Counting]:
    answer = SceneGraphGenerator.answer

    def counting(self: SceneGraphGenerator, examples: Sequence[Example]) -> list[str]:
        Counting.asked += len(examples)
        return answer(self, examples)

    # Not the class itself: whichever module is imported first meanwhile would keep another one.
    monkeypatch.setattr(SceneGraphGenerator, "answer", counting)
    Counting.asked = 0
    return Counting


def parts(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.part-*"))


def lines(path: Path) -> int:
    return len(path.read_text().splitlines()) - 1


def test_a_killed_process_loses_nothing(original: Path, tmp_path: Path, counted: type[Counting]) -> None:
    one, two, three = (copied(original, tmp_path / name) for name in ("one", "two", "three"))
    words = (*INFER, "--out", "p.json", "--batch-size", "1")
    assert alone(one, *words) == 0
    assert counted.asked == 9
    counted.asked = 0
    kill = dies_in("scene_graph_generation.inference.generator", "SceneGraphGenerator.answer", 3)
    (tmp_path / "code").mkdir()
    in_second = f"import os\nif os.environ.get('RANK') == '1':{kill.replace(chr(10), chr(10) + '    ')}"
    (tmp_path / "code" / "sitecustomize.py").write_text(in_second)
    dead = started(two, "-m", "mmor.cli", *words, "--gpus", "2", code=tmp_path / "code")
    assert dead.returncode == 9, dead.stderr
    assert "a process was ended from outside (signal 9)" in dead.stderr
    assert not (two / "p.json").exists()
    there = sum(map(lines, parts(two)))
    assert there >= 2
    shutil.copytree(two, three, dirs_exist_ok=True)
    assert alone(two, *words) == 0  # another number of processes
    assert counted.asked == 9 - there
    done = started(three, "-m", "mmor.cli", *words, "--gpus", "2")
    assert done.returncode == 0, done.stderr
    assert files(three) == files(one)
    assert json.loads((two / "p.json").read_text()) == json.loads((one / "p.json").read_text())
    assert parts(two) == []


def test_an_interrupted_start_is_one_line(tmp_path: Path) -> None:
    """As by the end of a job's time; a folder in /tmp stayed behind after every start, however it ended."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    (tmp_path / "sitecustomize.py").write_text(
        "import os, time\nif 'RANK' in os.environ:\n"
        "    if os.environ['RANK'] == '0':\n        print('begun', flush=True)\n    time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-m", "mmor.cli", *INFER, "--out", "p.json", "--gpus", "2"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[3]}", "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.terminate()
        _, said = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM
    assert said.splitlines()[-1].startswith("error: interrupted (signal 15); run the same command again")
    assert list(temporary.iterdir()) == []
    assert "Traceback" not in said


def test_a_fault_of_the_first_process_ends_all(original: Path, tmp_path: Path) -> None:
    """It waited for the others, who waited for its share."""
    place, code = copied(original, tmp_path / "place"), tmp_path / "code"
    code.mkdir()
    (code / "sitecustomize.py").write_text(
        "import os\nif os.environ.get('RANK') == '0':\n"
        "    from scene_graph_generation.inference.generator import SceneGraphGenerator\n"
        "    def broken(*_):\n        raise OSError(5, 'Input/output error')\n"
        "    SceneGraphGenerator.answer = broken\n"
    )
    done = started(place, "-m", "mmor.cli", *EVALUATE_ALL, "--gpus", "2", code=code)
    assert done.returncode == 2, done.stderr
    assert "error: Input/output error" in done.stderr


def test_jobs_of_an_array_are_collected(
    original: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], counted: type[Counting]
) -> None:
    one, array = (copied(original, tmp_path / name) for name in ("one", "array"))
    for words in COMMANDS:
        assert alone(one, *words) == 0
        expected = capfd.readouterr().out
        asked, counted.asked = counted.asked, 0
        for part in ("3/3", "1/3", "2/3"):
            assert alone(array, *words, "--part", part) == 0
            told = capfd.readouterr().out
            assert "files written for 1 takes" in told if words == SOUND else told.startswith(f"part {part[0]} of 3 is")
        assert counted.asked == asked
        assert alone(array, *words) == 0
        assert words == SOUND or capfd.readouterr().out == expected
        assert counted.asked == asked, "collecting asks nothing"
        counted.asked = 0
    assert files(array) == files(one)


def test_what_a_job_leaves_out_is_noted_and_the_collecting_run_is_told(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (place / "data/MM-OR_data/take_transcripts_per_timepoint/001_PKA/000002.json").write_text('{"te')
    words = (*INFER, "--out", "p.json")
    assert [alone(place, *words, "--part", part) for part in ("1/2", "2/2")] == [0, 0]
    assert capfd.readouterr().err.count("note: 001_PKA_MMOR is not finished: ") == 1
    assert alone(place, *words) == 2
    assert capfd.readouterr().err.count("error: 001_PKA_MMOR is not finished: ") == 1


def test_parts_of_another_model_are_refused_or_put_aside(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = (*INFER, "--out", "p.json")
    assert alone(place, *words, "--part", "1/2") == 0
    assert alone(place, *EVALUATE_ALL, "--part", "1/2") == 0
    other, tokens = load_model(place / MODEL)
    other.projector.requires_grad_(False)
    for weight in other.projector.parameters():
        weight.mul_(2)
    save_model(place / MODEL, other, tokens)
    capfd.readouterr()
    for more in ((), ("--part", "1/2"), ("--part", "2/2")):
        assert alone(place, *words, *more) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert "p.part-1-of-2.jsonl: holds answers with model" in line
    codes, done = together(place, words)
    assert codes == [2]
    assert done.stderr.count("holds answers with model") == 1
    assert alone(place, *EVALUATE_ALL) == 0
    assert "mmor_train.part-1-of-2.jsonl: holds the answers of another model" in capfd.readouterr().err
    assert [path.name for path in parts(place / "model")] == [
        path.name for path in (place / "model").rglob("mmor_train.part-1-of-2.of_*.jsonl")
    ]


def test_processes_and_jobs_do_not_disturb_each_other(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = (*INFER, "--out", "p.json")
    assert alone(place, *words, "--part", "1/2") == 0
    about = json.loads((place / "p.part-1-of-2.jsonl").read_text().splitlines()[0])
    for held, refused in ((("--part", "1/2"), ["1/2"]), ((), ["1/2", "2/2"])):
        with open_answers(place / "p.jsonl", about, array_share("1/2") if held else ALL) as answers:
            answers.add([Answer("x", "?", "text")])
            for part in ("1/2", "2/2"):
                assert alone(place, *words, "--part", part) == (2 if part in refused else 0)
            assert alone(place, *words) == 2
    assert "another run is writing it" in capfd.readouterr().err


def test_mistakes_with_processes_are_one_line(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = (*INFER, "--out", "p.json")
    for more, told in (
        (("--part", "3"), "write I/N"),
        (("--part", "3/2"), "write I/N"),
        (("--part", "0/2"), "write I/N"),
        (("--part", "1/2", "--gpus", "2"), "leave out --part, or --gpus"),
        (("--device", "cuda:1", "--gpus", "2"), "has a GPU of its own"),
    ):
        assert alone(place, *words, *more) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert told in line
    assert alone(place, *INFER, "--out", "p.part-1-of-2.json") == 2
    write_json(place / "p.json", {})
    scores = ("scene-graph", "evaluate", "--predictions", "p.json", *SCORED)
    assert alone(place, *scores, "--part", "1/2") == 2
    assert alone(place, "downstream", "evaluate", *SCORED, "--out", "d.json", "--part", "1/2") == 2
    assert len(capfd.readouterr().err.splitlines()) == 3


def test_videos_are_divided_among_jobs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_take(tmp_path / "data", 4)
    write_take(tmp_path / "data", 4, mmor().find_take("002_PKA"))
    new_model(tmp_path / "model.safetensors")
    for command in ("predict", "export-masks"):
        for out in ("one", "array"):
            words = ("panoptic", command, "--model", "model.safetensors", "--data", "data", "--out", f"{command}/{out}")
            if out == "array":
                for part in ("1/2", "2/2"):
                    assert alone(tmp_path, *words, "--part", part) == 0
                    assert capfd.readouterr().out.splitlines()[-1].startswith(f"part {part[0]} of 2 is done")
                assert not list((tmp_path / command / out).rglob("pred_*.json"))
                made = {path: path.stat().st_mtime_ns for path in (tmp_path / command / out).rglob("*.png")}
                assert made
            assert alone(tmp_path, *words) == 0
        assert {path: path.stat().st_mtime_ns for path in made} == made
        assert files(tmp_path / command / "array") == files(tmp_path / command / "one")
    assert predictions.split_path(tmp_path / "predict" / "one", "test").exists()
