"""Kinds of the data cases about graphs: raw labels, memory, similar samples, the metric, downstream tasks."""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.graphs.graph_files import load_samples
from operating_room.graphs.memory import STYLES, Memory, changes_before, memory_text, truncate, unswapped
from operating_room.graphs.prompts import conversation, downstream_prompt
from operating_room.graphs.scene_graph import Sample, Triplet, normalise, parse, target_text
from operating_room.graphs.similarity import MAX_DRAWN, SimilarSamples
from operating_room.recordings.conversion import convert
from operating_room.recordings.dataset import Dataset
from operating_room.scores.downstream import breach_answers, predicted_samples, score_downstream
from operating_room.scores.downstream_rules import our_rules
from operating_room.scores.scoring import GraphReport, score
from tests.parity.case import DOUBLE, EXACT, Result, beside, compare, load_json


def relation_conversion(case: Path) -> Iterator[Result]:
    """Raw label files -> samples and names; files that must be rejected."""
    for path in sorted(case.glob("*.json*")):
        facts = load_json(path)
        with tempfile.TemporaryDirectory() as folder:
            root, out = Path(folder), Path(folder) / "out"
            for name, raw in facts["raw_files"].items():
                _write(root / name, raw)
            result = convert(Dataset(root), out)
            ours = {name: load_json(out / f"relationships_{name}.json") for name in facts["expected"]}
            yield compare(f"{path.name} samples", ours, facts["expected"], EXACT)
            for name in ("classes", "relationships"):
                text = (out / f"{name}.txt").read_text(encoding="utf-8")
                yield compare(f"{path.name} {name}.txt", text, facts[f"{name}_txt"], EXACT)
            yield compare(f"{path.name} accepted files", result.problems, [], EXACT)
        yield compare(
            f"{path.name} rejected", [_rejected(r) for r in facts["rejected"]], [1] * len(facts["rejected"]), EXACT
        )


def memory(case: Path) -> Iterator[Result]:
    """Change logs, memory strings and the parser; real takes come from the folder `real` beside the case."""
    for path in sorted(case.glob("*.json*")):
        facts = load_json(path)
        if "take_name" in facts:
            samples = [s for s in _real_samples(case) if s.take_name == facts["take_name"]]
            frames = [(int(s.frame_id), parse(target_text(s.triplets))) for s in samples]
            expected = facts["model_format"]
            yield from _compare_memory(path.name, frames, expected["change_log_t_sub_pred_obj"], expected["memory"])
            frames = [(int(s.frame_id), unswapped(s.triplets)) for s in samples]
            expected = facts["downstream_unswapped"]
            yield from _compare_memory(
                f"{path.name} downstream", frames, expected["change_log_as_is"], expected["memory"]
            )
        elif "cases" in facts and "text" in facts["cases"][0]:
            ours = [_published_order(parse(c["text"])) for c in facts["cases"]]
            yield compare(path.name, ours, [c["triplets_sub_pred_obj"] for c in facts["cases"]], EXACT)
        else:
            for number, one in enumerate(facts["cases"]):
                yield from _compare_frames(f"{path.name} {number}", one)


def similar_samples(case: Path) -> Iterator[Result]:
    """Candidates before the draw, and how many are drawn of each take."""
    real = {(sample.take_name, sample.frame_id): sample for sample in _real_samples(case)}
    for path in sorted(case.glob("*.json*")):
        facts = load_json(path)
        samples = [real[take_name, frame_id] for take_name, frame_id in facts["subset"]]
        finder = SimilarSamples(samples, mmor())
        candidates, quotas = [], []
        for one in facts["cases"]:
            found = finder.similar(one["sample"])
            takes = list(dict.fromkeys(samples[index].take_name for index in found))
            drawn = finder.draw(one["sample"], Random(0))
            if len(found) > MAX_DRAWN:
                found.sort(key=lambda index: takes.index(samples[index].take_name))
                counts = Counter(samples[index].take_name for index in drawn)
                quotas.append([counts[take] for take in takes])
            else:
                quotas.append([])
            candidates.append(found)
        expected = [one["similar_grouped_by_take"] for one in facts["cases"]]
        yield compare(f"{path.name} candidates", candidates, expected, EXACT)
        yield compare(f"{path.name} quotas", quotas, [one["per_take_quota"] for one in facts["cases"]], EXACT)


def sgg_metric(case: Path) -> Iterator[Result]:
    """Generated texts -> parsed -> normalised -> scores, and the printed tables."""
    for path in sorted(case.glob("*.json*")):
        if ".report." in path.name:
            continue
        facts = load_json(path)
        records = facts["samples"]
        samples = [Sample.from_record(record) for record in records]
        parsed = [parse(record["output"]) for record in records]
        language = mmor().language
        normalised = [[known for t in of if (known := normalise(t, language)) is not None] for of in parsed]
        scores = score(samples, {s.sample_id: triplets for s, triplets in zip(samples, parsed, strict=True)}, mmor())
        reports = {
            **{f"take:{name}": report for name, report in scores.takes.items()},
            **{f"dataset:{name}": report for name, report in scores.datasets.items()},
            "all:all": scores.overall,
        }
        scored = {name: report for name, report in reports.items() if report.predicates.total}  # others made it fail
        for name, ours, theirs in (
            (
                "names",
                [list(mmor().language.scored_predicates), list(mmor().language.entities)],
                [facts["relation_names"], facts["class_names"]],
            ),
            ("parsed", list(map(_published_order, parsed)), [r["raw_triplets_sub_pred_obj"] for r in records]),
            ("normalised", list(map(_published_order, normalised)), [r["normalised_sub_pred_obj"] for r in records]),
            ("label lists", _label_counts(scores.takes), _listed_counts(facts["lists"])),
        ):
            yield compare(f"{path.name} {name}", ours, theirs, EXACT)
        ours = {name: _as_recorded(report) for name, report in scored.items()}
        yield compare(f"{path.name} scores", ours, facts["expected"], DOUBLE)
        printed = path.with_name(path.name.replace(".json", ".report.json"))
        if printed.exists():
            text = re.sub(r"(\d+)\.0$", r"  \1", load_json(printed), flags=re.MULTILINE)  # some supports: 5.0
            tables = [t.table() for r in scored.values() for t in (r.predicates, r.interaction, r.entities)]
            yield compare(f"{path.name} printed", [table in text for table in tables], [True] * len(tables), EXACT)


def downstream_eval(case: Path) -> Iterator[Result]:
    """Answers -> scores of the three tasks, the sterility rule, and the prompts."""
    for path in sorted(case.glob("*.json*")):
        facts = load_json(path)
        truth = [Sample.from_record(record) for record in facts["samples"]]
        graphs = facts["predicted_scene_graphs"]
        predicted = predicted_samples({key: [Triplet(s, o, p) for s, p, o in graphs[key]] for key in graphs})
        for number, run in enumerate(facts["runs"]):
            name, task = f"{path.name} {number} {run['task']}", run["task"]
            samples = {s.sample_id: s for s in (predicted if run["scene_graph_file"] == "pred.json" else truth)}
            in_order = [samples[s.sample_id] for s in truth]
            if task == "sterility_breach":
                sets = facts["assumed_sets"][run["sterility_sets"]]
                keys = ("STERILITY_BREACH_PREDICATES", "STERILE_ENTITIES", "UNSTERILE_ENTITIES")
                names = ("predicates", "sterile", "unsterile")
                chosen = {name: frozenset(sets[key]) for name, key in zip(names, keys)}
                rule = replace(our_rules().sterility_breach, **chosen)  # the rest of the rule is published
                answers = breach_answers(mmor().task(task), in_order, rule)
            else:
                answers = {sample.sample_id: text for sample, text in zip(in_order, run["outputs"], strict=True)}
            scores = score_downstream(
                mmor().task(task), in_order, answers, facts["labels"][task], mmor(), keep_end_token=True
            )
            reports = {
                **{f"take:{take}": r.to_json() for take, r in scores.takes.items()},
                "all": scores.overall.to_json(),
            }
            yield compare(f"{name} scores", reports, run["reports"], DOUBLE)
            yield compare(f"{name} classes", list(mmor().task(task).classes), run["class_list"], EXACT)
            yield compare(f"{name} unknown labels", scores.unknown_labels, run["unknown_ground_truth"], EXACT)
            prompts = list(_downstream_prompts(in_order, task))
            recorded = run["prompt_first_10"] or []
            ours = [*prompts[: len(recorded)], prompts[-1]]
            yield compare(f"{name} prompts", ours, [*recorded, run["prompt_last"]], EXACT)


KINDS = {
    "relation_conversion": relation_conversion,
    "memory": memory,
    "similar_samples": similar_samples,
    "sgg_metric": sgg_metric,
    "downstream_eval": downstream_eval,
}


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def _rejected(case: dict[str, Any]) -> int:
    """1 if a label file that stands alone on the disk is refused by name, or its folder as that of no take."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / case["path"]
        _write(path, case["raw"])
        try:
            convert(Dataset(Path(folder)), Path(folder) / "out")
        except UserError as error:
            return int(any(f"{refused}: " in str(error) for refused in (path, path.parents[1])))
    return 0


def _real_samples(case: Path) -> list[Sample]:
    """The annotations that cases refer to: every relationships file in `real`."""
    real = beside(case, "data", "real")
    return [s for path in sorted(real.glob("relationships_*.json*")) for s in load_samples(path)]


def _compare_frames(name: str, one: dict[str, Any]) -> Iterator[Result]:
    """A case of memory that brings its own frames."""
    frames = [(time, _ours(triplets)) for time, triplets in one["frames_t_sub_pred_obj"]]
    yield from _compare_memory(name, frames, one["change_log"], one["memory"])
    if "change_log_no_predicate_filter" in one:
        log = _published_log(_remember(frames, keep_close=True))
        yield compare(f"{name} unfiltered log", log, one["change_log_no_predicate_filter"], EXACT)
    if "collapsed_state_at_end" in one:
        state = [[list(pair), predicate] for pair, predicate in _remember(frames).state.items()]
        yield compare(f"{name} state", state, one["collapsed_state_at_end"], EXACT)


def _compare_memory(
    name: str, frames: Sequence[tuple[int, list[Triplet]]], log: list[Any], texts: list[dict[str, Any]]
) -> Iterator[Result]:
    """The log, and the texts from the log and from a memory that has seen no more than the frames before."""
    whole = _remember(frames)
    yield compare(f"{name} log", _published_log(whole), log, EXACT)
    from_log, online, expected = [], [], []
    for text in texts:
        time = text["timepoint"]
        known = changes_before(whole.log, time)
        before = _remember([frame for frame in frames if frame[0] < time])
        expected.append([text["n_changes_before"], *(text[style] for style in STYLES)])
        from_log.append([len(known), *(memory_text(known, style) for style in STYLES)])
        online.append([len(before.log), *(before.text(style) for style in STYLES)])
        if (short := text["longshort_truncated_for_evaluation"]) is not None:
            for texts_of in (from_log, online):
                texts_of[-1].append(truncate(texts_of[-1][-1]))
            expected[-1].append(short)
    yield compare(f"{name} texts", from_log, expected, EXACT)
    yield compare(f"{name} online texts", online, expected, EXACT)


def _remember(frames: Iterable[tuple[int, Iterable[Triplet]]], keep_close: bool = False) -> Memory:
    remembered = Memory(() if keep_close else mmor().language.forgotten_spellings)
    for time, triplets in frames:
        remembered.add(triplets, time)
    return remembered


def _downstream_prompts(samples: Sequence[Sample], task: str) -> Iterator[str]:
    memories: dict[str, Memory] = {}
    for sample in samples:
        remembered = memories.setdefault(sample.take_name, Memory(mmor().language.forgotten_spellings))
        yield conversation(downstream_prompt(remembered.text(), sample.triplets, mmor().task(task)))
        remembered.add(unswapped(sample.triplets), int(sample.frame_id))


def _ours(triplets: Iterable[Sequence[str]]) -> list[Triplet]:
    """Triplets from (subject, predicate, object)."""
    return [Triplet(subject, object_, predicate) for subject, predicate, object_ in triplets]


def _published_order(triplets: Iterable[Triplet]) -> list[list[str]]:
    return [[subject, predicate, object_] for subject, object_, predicate in triplets]


def _published_log(remembered: Memory) -> list[Any]:
    return [[time, [subject, predicate, object_]] for time, (subject, object_, predicate) in remembered.log]


def _as_recorded(report: GraphReport) -> dict[str, Any]:
    return {
        "relations": report.predicates.to_json(),
        "real_macro": {key: value for key, value in report.predicates.macro.items() if key != "support"},
        "real_macro_over": report.predicates.supported,
        "binary_interaction": report.interaction.to_json(),
        "entities": report.entities.to_json(),
    }


def _label_counts(takes: dict[str, GraphReport]) -> dict[str, Any]:
    """How often each pair of true and predicted label occurs in a take, as nested lists."""
    return {
        name: [
            report.predicates.confusion.tolist(),
            report.interaction.confusion.tolist(),
            report.entities.confusion.tolist(),
        ]
        for name, report in takes.items()
        if report.predicates.total
    }


def _listed_counts(lists: dict[str, dict[str, list[int]]]) -> dict[str, Any]:
    """The same from the recorded label lists of each take."""
    counts: dict[str, Any] = {}
    sizes = {
        "rel": len(mmor().language.scored_predicates),
        "rel_binary_interaction": 2,
        "entity": len(mmor().language.entities),
    }
    for take in lists["val_take_rel_gts"]:
        counts[take] = []
        for kind, size in sizes.items():
            matrix = [[0] * (size + 1) for _ in range(size)]
            for truth, found in zip(
                lists[f"val_take_{kind}_gts"][take], lists[f"val_take_{kind}_preds"][take], strict=True
            ):
                matrix[truth][found] += 1
            counts[take].append(matrix)
    return {take: matrices for take, matrices in counts.items() if sum(map(sum, matrices[0]))}
