"""Evaluation of the downstream tasks: who answered what, what is left out, runs that go on after a kill."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from operating_room.errors import UserError
from operating_room.graphs.scene_graph import Sample, Triplet
from operating_room.recordings.dataset import Dataset
from operating_room.scores.downstream import predicted_samples
from operating_room.scores.downstream_rules import collect_labels, our_rules
from scene_graph_generation.inference.downstream import DownstreamEvaluation, evaluate_downstream, read_graphs
from scene_graph_generation.inference.generator import SceneGraphGenerator
from scene_graph_generation.samples.downstream_samples import graph_records
from tests.operating_room.tiny_dataset import write_dataset, write_mmor

TOUCH = Triplet("circulator", "instrument_table", "touching")
GRAPHS = [(Triplet("head_surgeon", "patient", "cutting"),), (TOUCH,), ()]


def samples(take: str = "001_PKA_MMOR") -> list[Sample]:
    return [Sample(take, f"{i:06d}", graph) for i, graph in enumerate(GRAPHS)]


class Question(str):
    dropped_memory = 0


class Student(SceneGraphGenerator):
    """Knows the labels of the tiny dataset by heart; gives up after some questions."""

    fingerprint = "student"

    def __init__(self, patience: int = 1000) -> None:
        self.questions: list[str] = []
        self._patience = patience

    def read_text(self, prompt: str) -> Any:
        return Question(prompt)

    def answer(self, examples: Sequence[Any]) -> list[str]:
        if len(self.questions) >= self._patience:
            raise KeyboardInterrupt
        self.questions += examples
        return ["cut: 5" if "next action" in e else "Turn on" if "robot phase" in e else "No" for e in examples]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_dataset(tmp_path)


def run(
    root: Path, generator: SceneGraphGenerator | None, graphs: Sequence[Sample], **options: Any
) -> DownstreamEvaluation:
    rule, out = our_rules().sterility_breach, root / "r.json"
    fourdor = Sample("001_4DOR", "000000", ())
    expected = options.pop("expected", [fourdor, *samples()])
    return evaluate_downstream(generator, Dataset(root), graphs, expected, rule, out, {}, batch_size=1, **options)


def test_model_and_rule_are_scored(root: Path) -> None:
    evaluation = run(root, Student(), samples())
    results = json.loads((root / "r.json").read_text())
    assert list(results["tasks"]) == ["next_action", "robot_phase", "sterility_breach"]
    assert list(results["tasks"]["sterility_breach"]) == ["rule", "model"]
    assert results["tasks"]["next_action"]["model"]["overall"]["cut"] == {
        "precision": 1,
        "recall": 1,
        "f1-score": 1,
        "support": 3,
    }
    assert results["tasks"]["sterility_breach"]["model"]["overall"]["accuracy"] == 1
    assert results["tasks"]["sterility_breach"]["rule"]["overall"]["no"]["recall"] == pytest.approx(2 / 3)
    assert results["tasks"]["next_action"]["model"]["intervals"] == {}  # one block of timepoints tells none
    assert results["seconds"]["mean_error"] == 2
    assert results["samples"]["001_PKA_MMOR_000001"] == {
        "next_action": {"label": ["cut", 3], "model": "cut: 5"},
        "robot_phase": {"label": "turn on", "model": "Turn on"},
        "sterility_breach": {"label": [], "model": "No", "rule": "yes"},
    }
    assert "model: seconds until the next action: timepoints 3, with time 3, mean error 2.0 s" in str(evaluation)
    # Of twelve actions one is true: the published mean is over all of them.
    scores = results["tasks"]["next_action"]["model"]
    assert (scores["macro"]["f1-score"], scores["overall"]["macro avg"]["f1-score"]) == (1, pytest.approx(1 / 12))
    said = next(line for line in str(evaluation).splitlines() if line.startswith("model: Macro F1"))
    assert said.startswith("model: Macro F1 over the classes with support 1.0000")
    assert said.endswith("; over all classes, the paper's number, 0.0833")


def test_a_task_without_any_timepoint_to_score_is_told(root: Path) -> None:
    # Published evaluation leaves robot phases of 004_PKA out: a Macro F1 of 0 for it was printed as if it were earned.
    write_mmor(root / "MM-OR_data", "004_PKA")
    evaluation = run(root, Student(), samples("004_PKA_MMOR"), expected=samples("004_PKA_MMOR"))
    told = ["robot_phase: nothing to score, since the domain leaves it out of 004_PKA; its 0 is no score"]
    assert evaluation.notes == told == json.loads((root / "r.json").read_text())["notes"]
    (root / "r.jsonl").unlink()
    assert not run(root, Student(), samples()).notes


def test_breaches_that_predicted_graphs_miss_are_told_by_what_is_missed(root: Path) -> None:
    blind = [Sample(sample.take_name, sample.frame_id, ()) for sample in samples()]
    evaluation = run(root, None, blind)
    told = json.loads((root / "r.json").read_text())["breaches"]
    assert (told["true"], told["found"], told["missed"]) == (1, 0, {"person": 1, "contact": 0, "state": 0})
    assert "rule: pairs that break sterility: 0 of 1 found" in str(evaluation)
    assert "missed: 1 for the person" in str(evaluation)


def test_questions_hold_the_graph_and_what_came_before(root: Path) -> None:
    student, published = Student(), Student()
    run(root, student, samples())
    (root / "r.jsonl").unlink()
    run(root, published, samples(), published_memory=True)
    prompt = "<memory_start>: {}<memory_end>. <SG> circulator,instrument table,touching </SG>. Given"
    assert student.questions[3].startswith(prompt.format("Long: Short: head surgeon,patient,cutting"))
    assert published.questions[3].startswith(prompt.format("Long: Short: head_surgeon,cutting,patient"))


def test_shortened_memory_is_said_once(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    class Forgetful(Student):
        model: Any = SimpleNamespace(settings=SimpleNamespace(max_length=600))

        def read_text(self, prompt: str) -> Any:
            question = super().read_text(prompt)
            question.dropped_memory = len(self.questions) % 2
            return question

    run(root, Forgetful(), samples())
    said = (
        "4 of 9 downstream questions lost the oldest part of their memory: with it they need more than the model's 600"
    )
    assert capfd.readouterr().err == f"{said} tokens (max_length)\n"


def test_predicted_graphs_answer_for_the_same_timepoints(root: Path) -> None:
    predicted = {f"001_PKA_MMOR_{i:06d}": [Triplet("circulator", "instrument table", "touching")] for i in range(3)}
    evaluation = run(root, None, predicted_samples({**predicted, "009_TKA_MMOR_000000": []}))
    (one,) = evaluation.tasks["sterility_breach"].values()
    assert one.scores.overall.confusion.tolist() == [[0, 3, 0], [0, 0, 0]]
    assert evaluation.seconds is None
    with pytest.raises(UserError, match="nothing can be scored; 001_PKA_MMOR is left out: 1 of 3 samples"):
        run(root, None, predicted_samples(predicted)[:2])


def test_graphs_whose_relations_cannot_count_are_told(root: Path) -> None:
    """In the order of relation files the rule finds no breach in perfect graphs, and the model is asked about chaos."""
    swapped = [Sample(s.take_name, s.frame_id, tuple(Triplet(a, p, o) for a, o, p in s.triplets)) for s in samples()]
    (note,) = run(root, None, swapped).notes
    assert note.startswith("2 of 2 predicted relations do not count: they are not subject, predicate, object")
    assert json.loads((root / "r.json").read_text())["notes"] == [note]
    assert run(root, None, samples()).notes == []


def test_graphs_come_from_predictions_or_results(tmp_path: Path) -> None:
    relation = ["circulator", "instrument table", "touching"]
    results = {"task": "scene_graph", "samples": {"001_PKA_MMOR_000000": {"predicted": [relation]}}}
    predictions = {"001_PKA_MMOR_000000": [["circulator", "touching", "instrument table"]]}
    for stored in (results, predictions):
        (tmp_path / "graphs.json").write_text(json.dumps(stored))
        assert read_graphs(tmp_path / "graphs.json") == [Sample("001_PKA_MMOR", "000000", (TOUCH,))]
    (tmp_path / "graphs.jsonl").write_text('{"take": "001_PKA_MMOR", "frame_id": "000000"}\n' * 2)
    with pytest.raises(UserError, match=r"graphs\.jsonl: holds what `mmor live` answered"):
        read_graphs(tmp_path / "graphs.jsonl")
    wrong_graphs = (None, [["nurse"]], [[1, 2, 3]], ["abc"], {"abc": 1})
    for wrong in ({}, *({"predicted": graph} for graph in wrong_graphs)):
        stored = {"task": "scene_graph", "samples": {"001_PKA_MMOR_000001": wrong}}
        (tmp_path / "graphs.json").write_text(json.dumps(stored))
        with pytest.raises(UserError, match=r"graphs\.json: 001_PKA_MMOR_000001 has no graph under 'predicted'"):
            read_graphs(tmp_path / "graphs.json")


def test_graphs_come_from_the_published_list(tmp_path: Path) -> None:
    """The list of true graphs that the published evaluation reads (data specification, section 10)."""
    path = tmp_path / "all_scene_graphs_test_GT.json"
    found = [Sample("001_PKA_MMOR", "000000", (TOUCH,)), Sample("001_PKA_MMOR", "000001", ())]
    records = graph_records(found)
    path.write_text(json.dumps(records))
    assert read_graphs(path) == found
    for wrong in ({"sample_id": "001_PKA_MMOR_000002"}, {**records[1], "scene_graph": [["nurse"]]}, records[0], None):
        path.write_text(json.dumps([*records, wrong]))
        with pytest.raises(UserError, match=r"all_scene_graphs_test_GT\.json: a list of graphs needs"):
            read_graphs(path)


def test_an_interrupted_run_goes_on(root: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(root, Student(patience=4), samples())
    student = Student()
    run(root, student, samples())
    assert len(student.questions) == 9 - 4


def test_answers_about_other_graphs_are_not_taken(root: Path) -> None:
    run(root, Student(), samples())
    student = Student()
    run(root, student, [Sample(s.take_name, s.frame_id, ()) for s in samples()])
    assert len(student.questions) == 9, "each tells its graph"


def test_answers_of_an_older_version_are_said_to_be_that(root: Path) -> None:
    """They were said to be with graphs 5f8a.., `this run has None`."""
    run(root, Student(), samples())
    out = root / "r.jsonl"
    about, *lines = out.read_text().splitlines()
    out.write_text("\n".join([json.dumps({"graphs": "5f8a", **json.loads(about)}), *lines, ""]))
    with pytest.raises(
        UserError, match=r"another command or version of this program \(graphs is said there only\); choose"
    ):
        run(root, Student(), samples())


def test_all_timepoints_after_the_first_ones_of_each_take_are_scored_in_the_same_file(root: Path) -> None:
    """`--limit 2`, or `--take`, for a first try, then all: the rest was refused as that of other graphs."""
    run(root, Student(), samples(), expected=samples()[:2])
    student = Student()
    assert len(run(root, student, samples(), expected=samples()).samples) == 3
    assert len(student.questions) == 3, "what was answered is known"
    assert len(run(root, Student(0), samples(), expected=samples()[:2]).samples) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"000000": "Turn on", "000017": "Turn on"}', "has a label for 000017, which is no timepoint of the take"),
        ('{"000000": "Turn on"}', "sample 003_TKA_MMOR_000001 needs a robot_phase label"),
        ('{"000000": "Tur', "003_TKA.json"),
    ],
)
def test_a_take_with_bad_labels_is_left_out(root: Path, content: str, message: str) -> None:
    write_mmor(root / "MM-OR_data", "003_TKA")
    (root / "MM-OR_data" / "take_timestamp_to_robot_phase" / "003_TKA.json").write_text(content)
    everything = [*samples(), *samples("003_TKA_MMOR")]
    evaluation = run(root, Student(), everything, expected=everything)
    (problem,) = evaluation.problems
    assert problem.startswith("003_TKA_MMOR is left out: ")
    assert message in problem
    assert len(evaluation.samples) == 3


def test_labels_that_are_mended_cost_no_other_answer(root: Path) -> None:
    write_mmor(root / "MM-OR_data", "003_TKA")
    labels = root / "MM-OR_data" / "take_timestamp_to_robot_phase" / "003_TKA.json"
    whole = labels.read_text()
    everything = [*samples(), *samples("003_TKA_MMOR")]
    labels.write_text(whole[:9])
    run(root, Student(), everything, expected=everything)
    labels.write_text(whole)
    student = Student()
    assert len(run(root, student, everything, expected=everything).samples) == 6
    assert len(student.questions) == 9, "of the take that was left out"


def test_labels_are_the_datasets_own_or_derived(root: Path) -> None:
    (root / "MM-OR_data" / "take_timestamp_to_next_action" / "001_PKA.json").unlink()
    collected = collect_labels(Dataset(root), samples(), our_rules(), root / "labels")
    sources = {"next_action": "rules", "robot_phase": "dataset", "sterility_breach": "dataset"}
    assert json.loads((root / "labels" / "sources.json").read_text()) == {"001_PKA": sources}
    assert collected.labels["next_action"]["001_PKA"]["000000"] == ["bring out", 1]
    write_mmor(root / "MM-OR_data", "003_TKA")
    collect_labels(Dataset(root), samples("003_TKA_MMOR"), our_rules(), root / "labels", derive_all=True)
    assert json.loads((root / "labels" / "sources.json").read_text()).keys() == {"001_PKA", "003_TKA"}
    evaluation = run(root, Student(), samples(), labels=root / "labels")
    assert evaluation.tasks["next_action"]["model"].scores.overall.total == 1
