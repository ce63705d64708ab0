"""Results files: scores, where they come from, what is left out; runs that are killed or that collide."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from weakref import ref

import pytest

from operating_room.domain.domain import mmor
from operating_room.domain.language import Language
from operating_room.errors import UserError
from operating_room.files.atomic import write_json
from operating_room.graphs.prompts import conversation
from operating_room.graphs.scene_graph import Sample, Triplet
from operating_room.recordings.dataset import Dataset
from operating_room.recordings.timepoint import Timepoint
from operating_room.scores.scoring import GraphReport, score_sample
from scene_graph_generation.config.settings import MM2SGConfig
from scene_graph_generation.inference import evaluate as evaluating
from scene_graph_generation.inference.answers import Answer, open_answers, put_aside
from scene_graph_generation.inference.evaluate import (
    evaluate,
    evaluate_file,
    evaluate_model,
    require_results,
    score_constant_guess,
)
from scene_graph_generation.inference.generator import SceneGraphGenerator
from scene_graph_generation.inference.seen import Presence, Seen
from tests.operating_room.tiny_dataset import write_dataset

GRAPH = (Triplet("nurse", "saw", "holding"), Triplet("patient", "operating_table", "lyingOn"))
SAMPLES = [Sample(take, f"{i:06d}", GRAPH) for take in ("001_4DOR", "001_PKA_MMOR") for i in range(3)]
TEXT = "<SG> nurse,saw,holding </SG>"


def test_results_that_cannot_be_written_are_told_before_anything_is_scored(tmp_path: Path) -> None:
    """Scores of a predictions file were lost where its --out was a folder, or lay below a file."""
    (tmp_path / "file").write_text("{}")
    with pytest.raises(UserError, match="it is a folder"):
        require_results(tmp_path, "scene_graph")
    with pytest.raises(UserError, match="file: is no folder; choose another output"):
        require_results(tmp_path / "file" / "scores.json", "scene_graph")
    require_results(tmp_path / "new" / "scores.json", "scene_graph")


class Fixed(SceneGraphGenerator):
    """Always gives the same answer; kills its own process at the `killed_at`-th question."""

    fingerprint = "fixed"
    model: Any = SimpleNamespace(settings=MM2SGConfig())
    _tokens: Any = SimpleNamespace(conversation=conversation)

    def __init__(self, killed_at: int = 0) -> None:
        self.asked = 0
        self._killed_at = killed_at

    def read(self, timepoint: Any, memory: str | None) -> Any:
        return SimpleNamespace(dropped_memory=0)

    def read_ahead(self, timepoints: Sequence[Timepoint]) -> None:
        """There is nothing to read."""

    def answer(self, examples: Sequence[Any]) -> list[str]:
        self.asked += 1
        if self.asked == self._killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return [TEXT for _ in examples]


def stored(samples: Sequence[Sample]) -> dict[str, list[list[str]]]:
    return {sample.sample_id: [[s, p, o] for s, o, p in sample.triplets] for sample in samples}


def run(root: Path, out: Path, killed_at: int = 0) -> Fixed:
    """An evaluation with memory, one take after the other."""
    generator = Fixed(killed_at)
    evaluate_model(generator, Dataset(root), SAMPLES, out, {"split": "test"}, memory=True, batch_size=1)
    return generator


def test_results_tell_where_they_come_from(tmp_path: Path) -> None:
    run(write_dataset(tmp_path), tmp_path / "r.json")
    results = json.loads((tmp_path / "r.json").read_text())
    assert results["about"].keys() >= {"split", "model", "memory", "batch_size", "code", "annotations", "inputs"}
    assert results["definitions"].keys() >= {"pairs", "macro", "intervals", "segments", "delays"}
    triplets = results["triplets"]
    assert triplets["given"] == results["overall"]["macro"]
    assert triplets["hallucinations"]["timepoints"] == results["overall"]["samples"]
    assert results["overall"]["predicates"]["holding"]["support"] == 6
    assert results["overall"]["intervals"]["holding"] == [1, 1]
    assert results["samples"]["001_PKA_MMOR_000002"] == {
        "truth": [list(triplet) for triplet in GRAPH],
        "predicted": [["nurse", "saw", "holding"]],
        "text": TEXT,
        "at_s": 3.0,
    }


def test_a_killed_evaluation_goes_on(tmp_path: Path) -> None:
    root, out = write_dataset(tmp_path), tmp_path / "r.json"
    arguments = f"Path({str(root)!r}), Path({str(out)!r}), killed_at=4"
    code = f"from tests.scene_graph_generation.inference.test_evaluate import run, Path; run({arguments})"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert not out.exists()
    with out.with_suffix(".jsonl").open("a") as file:
        file.write('["001_PKA_MM')  # what a kill in the middle of writing leaves
    assert run(root, out).asked == 3
    assert json.loads(out.read_text())["overall"]["samples"] == 6


def test_one_run_at_a_time_writes_a_file(tmp_path: Path) -> None:
    root, out = write_dataset(tmp_path), tmp_path / "r.json"
    with (
        open_answers(out.with_suffix(".jsonl"), {"model": "fixed", "memory": True}),
        pytest.raises(UserError, match=r"r\.jsonl: another run is writing it"),
    ):
        run(root, out)


def test_a_full_disk_is_told_and_costs_nothing(tmp_path: Path) -> None:
    path, limit = tmp_path / "r.jsonl", resource.getrlimit(resource.RLIMIT_FSIZE)
    with open_answers(path, {}) as answers:
        answers.add([Answer("a", "?", "first")])
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))
        try:
            with pytest.raises(UserError, match=r"r\.jsonl: cannot be written .*free some space"):
                answers.add([Answer("b", "?", "x" * 200)])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    with open_answers(path, {}) as answers:
        assert answers.find("a", "?") == "first"
        assert answers.find("a", "another question") is None
        assert answers.find("b", "?") is None


def test_a_damaged_line_costs_its_own_answer(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Review: one damaged line, and all answers of a night were refused; nesting was a traceback (case 50)."""
    root, out = write_dataset(tmp_path), tmp_path / "r.json"
    run(root, out)
    answers = out.with_suffix(".jsonl")
    about, first, second, third, *others = answers.read_text().splitlines()
    for damage in (first[1:], "[" * 100_000, "[1, 2, 3]", '"abc"', "{}", '["001_4DOR_000000"]', ""):
        answers.write_text("\n".join([about, damage, second, third, *others, ""]))
        assert run(root, out).asked == 1
        assert "1 of its lines are damaged, the first is line 2" in capfd.readouterr().err
    answers.write_text(answers.read_text().replace("{", "", 1))
    with pytest.raises(UserError, match=r"r\.jsonl: its first line, which says whose answers these are, is damaged"):
        run(root, out)


def test_answers_of_a_version_with_further_settings_are_not_taken(tmp_path: Path) -> None:
    """Review: names of the file that this run does not know were not looked at."""
    with open_answers(tmp_path / "a.jsonl", {"model": "m", "beams": 4}):
        pass
    with (
        pytest.raises(UserError, match=r"another command or version of this program \(beams is said there only\)"),
        open_answers(tmp_path / "a.jsonl", {"model": "m"}),
    ):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_told(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Review: Lustre and NFS without locks ended in a traceback."""

    def flock(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    run(write_dataset(tmp_path), tmp_path / "r.json")
    assert "r.jsonl: cannot be locked" in capfd.readouterr().err
    assert (tmp_path / "r.json").exists()


def test_answers_of_another_model_can_be_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with open_answers(path, {"model": "m"}) as answers:
        answers.add([Answer("a", "?", "text")])
    put_aside(path, {"model": "m"})
    assert path.exists()
    put_aside(path, {"model": "n"})
    with open_answers(tmp_path / "a.of_m.jsonl", {"model": "m"}) as answers:
        assert answers.find("a", "?") == "text"
    with open_answers(path, {"model": "m"}) as answers:
        answers.add([Answer("a", "?", "later")])
    put_aside(path, {"model": "n"})
    assert not path.exists()
    for name, text in (("a.of_m.jsonl", "text"), ("a.of_m_2.jsonl", "later")):  # neither takes the other's place
        with open_answers(tmp_path / name, {"model": "m"}) as answers:
            assert answers.find("a", "?") == text


def test_results_say_what_was_seen(tmp_path: Path) -> None:
    """Published users got 0.50 instead of 0.52 since their masks were silently off."""
    root = write_dataset(tmp_path / "data")
    shutil.rmtree(root / "MM-OR_data" / "take_segmasks_per_timepoint")
    for camera in (1, 2, 3, 4, 5):
        (root / "MM-OR_data" / "001_PKA" / "colorimage" / f"camera0{camera}_colorimage-000102.jpg").unlink()
    generator = Fixed()
    known = ("views", "cloud", "masks", "robot", "tracker", "speech")  # not the audio that is there
    generator.model = SimpleNamespace(settings=MM2SGConfig(modalities=known))
    evaluation = evaluate_model(generator, Dataset(root), SAMPLES, tmp_path / "r.json", {}, memory=True)
    told = json.loads((tmp_path / "r.json").read_text())["modalities"]
    assert told["room views"] == {"known": True, "timepoints": 5, "of": 6, "files": 2 * 5 + 3 * 4}
    assert told["station views"] == {"known": True, "timepoints": 3, "of": 3, "files": 1 + 1 + 4}
    assert told["masks"] == {"known": True, "timepoints": 3, "of": 6, "files": 9}
    assert told["audio"] == {"known": False, "timepoints": 3, "of": 3, "files": 3}
    assert told["memory"] == {"known": True, "timepoints": 6, "of": 6, "files": 0}
    assert evaluation.notes == []
    assert any(line.split() == ["masks", "3/6", "9", "yes"] for line in str(evaluation).splitlines())
    of_mmor = evaluate_model(generator, Dataset(root), SAMPLES[3:], tmp_path / "m.json", {}, memory=False)
    (note,) = of_mmor.notes
    assert note.startswith("the model knows masks, but 0 of 3 timepoints have it; make them: mmor scene-graph preproc")
    assert json.loads((tmp_path / "m.json").read_text())["notes"] == [note]


def test_true_labels_that_cannot_be_scored_cost_their_take(tmp_path: Path) -> None:
    """One wrong name in the truth, found before anything is generated; the other take is scored."""
    root, out = write_dataset(tmp_path), tmp_path / "r.json"
    wrong = [*SAMPLES[:-1], Sample("001_PKA_MMOR", "000002", (Triplet("nurse", "banana", "holding"),))]
    generator, truth = Fixed(), Path("relationships_test.json")
    evaluation = evaluate_model(generator, Dataset(root), wrong, out, {}, memory=False, batch_size=1, truth=truth)
    assert generator.asked == 3
    assert evaluation.scores.overall.samples == 3
    (problem,) = evaluation.problems
    assert problem.startswith("relationships_test.json: 001_PKA_MMOR is left out: sample 001_PKA_MMOR_000002: the true")
    write_json(tmp_path / "p.json", stored(SAMPLES))
    assert evaluate_file(wrong, tmp_path / "p.json", mmor(), truth=truth).problems == [problem]


def test_right_predictions_score_one(tmp_path: Path) -> None:
    write_json(tmp_path / "p.json", stored(SAMPLES))
    scores = evaluate(SAMPLES, tmp_path / "p.json", mmor(), tmp_path / "scores.json")
    assert scores.overall.macro_f1 == 1.0
    assert json.loads((tmp_path / "scores.json").read_text())["overall"]["macro"]["f1-score"] == 1.0


def test_the_order_of_the_truth_file_changes_no_number(tmp_path: Path) -> None:
    samples = [Sample("001_PKA_MMOR", f"{i:06d}", GRAPH) for i in range(120)]
    predictions = stored(samples) | stored([Sample("001_PKA_MMOR", f"{i:06d}", ()) for i in range(30, 60)])
    write_json(tmp_path / "p.json", predictions)
    in_order, mixed = (
        evaluate_file(of_file, tmp_path / "p.json", mmor()).to_json()
        for of_file in (samples, samples[::2] + samples[1::2])
    )
    assert in_order["overall"] == mixed["overall"]
    assert in_order["triplets"] == mixed["triplets"]


def test_reports_of_all_timepoints_are_never_there_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has 10 kB and more, a room of 60 entities 50: gigabytes at the end of hours."""
    samples = [Sample("001_PKA_MMOR", f"{i:06d}", GRAPH) for i in range(100)]
    write_json(tmp_path / "predictions.json", stored(samples))
    expected = evaluate_file(samples, tmp_path / "predictions.json", mmor()).to_json()
    made: list[ref[GraphReport]] = []
    most = 0

    def counted(sample: Sample, predicted: Iterable[Triplet], language: Language) -> GraphReport:
        nonlocal most
        report = score_sample(sample, predicted, language)
        made.append(ref(report))
        most = max(most, sum(one() is not None for one in made))
        return report

    monkeypatch.setattr(evaluating, "score_sample", counted)
    found = evaluate_file(samples, tmp_path / "predictions.json", mmor()).to_json()
    assert found == expected
    assert most < 10


def test_takes_without_predictions_are_left_out_and_told(tmp_path: Path) -> None:
    write_json(tmp_path / "p.json", stored(SAMPLES[:4]))
    evaluation = evaluate_file(SAMPLES, tmp_path / "p.json", mmor())
    assert evaluation.scores.overall.samples == 3
    (problem,) = evaluation.problems
    assert problem.startswith("001_PKA_MMOR is left out: 2 of 3 samples have no prediction, the first is 001_PKA_MMOR")
    with pytest.raises(UserError, match="001_PKA_MMOR is left out"):
        evaluate(SAMPLES, tmp_path / "p.json", mmor())


def test_predictions_of_another_split_are_told(tmp_path: Path) -> None:
    write_json(tmp_path / "p.json", stored([Sample("002_PKA_MMOR", "000000", GRAPH)]))
    with pytest.raises(UserError, match=r"nothing can be scored.*predictions of this split\?"):
        evaluate_file(SAMPLES, tmp_path / "p.json", mmor())


def test_predictions_of_other_timepoints_name_one_of_them(tmp_path: Path) -> None:
    write_json(tmp_path / "p.json", {"001_PKA_0": []})
    with pytest.raises(UserError, match=r"the first is .*those that are there begin with '001_PKA_0'.*\(--take\)"):
        evaluate_file(SAMPLES, tmp_path / "p.json", mmor())


def test_relations_that_cannot_count_are_told(tmp_path: Path) -> None:
    """Fault 35: the order of another file, and every predicate is unknown without a word."""
    swapped = {sample.sample_id: [[s, o, p] for s, o, p in sample.triplets] for sample in SAMPLES}
    write_json(tmp_path / "p.json", swapped)
    (note,) = evaluate_file(SAMPLES, tmp_path / "p.json", mmor()).notes
    assert note.startswith("12 of 12 predicted relations do not count: they are not subject, predicate, object")
    assert note.endswith("['nurse', 'saw', 'holding'] of 001_4DOR_000000")
    write_json(tmp_path / "p.json", stored(SAMPLES))
    assert evaluate_file(SAMPLES, tmp_path / "p.json", mmor()).notes == []


def test_results_never_replace_the_predictions(tmp_path: Path) -> None:
    write_json(tmp_path / "p.json", stored(SAMPLES))
    with pytest.raises(UserError, match=r"p\.json: holds the predictions"):
        evaluate_file(SAMPLES, tmp_path / "p.json", mmor(), tmp_path / "." / "p.json")


def test_a_predictions_file_that_was_cut_off_is_named(tmp_path: Path) -> None:
    write_json(tmp_path / "p.json", stored(SAMPLES))
    (tmp_path / "p.json").write_text((tmp_path / "p.json").read_text()[:-50])
    with pytest.raises(UserError, match=r"p\.json"):
        evaluate_file(SAMPLES, tmp_path / "p.json", mmor())


def test_the_constant_guess_is_the_most_frequent_graph() -> None:
    training = [*SAMPLES, Sample("003_TKA_MMOR", "000000", (Triplet("mps", "tracker", "touching"),))]
    assert score_constant_guess(training, SAMPLES, mmor()).overall.macro_f1 == 1.0
    assert score_constant_guess(training[6:], SAMPLES, mmor()).overall.macro_f1 < 0.5


def test_who_is_to_make_vectors_of_sound_hears_that_there_are_two_kinds() -> None:
    (note,) = Seen({"audio": Presence(known=True, timepoints=0, of=3, files=0)}).warnings()
    assert "--audio-encoder that the model was trained with, mel for the bundled ones" in note
