"""Count who does what with what, and for how long, in annotated scene graphs; write the simulator's table of habits.

Usage: python scripts/count_annotations.py FILE... [--without TAKE]... [--out habits.yaml]
FILE is a published relationships_*.json or .json.gz; the committed table is of relationships_validation.json.gz
without 002_PKA, which is for measuring:
python scripts/count_annotations.py relationships_validation.json.gz --without 002_PKA \
    --out operating_room_simulator/story/habits.yaml

The table has shares and durations only, no second of any take.
"""

from __future__ import annotations

import argparse
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from operating_room.domain.domain import mmor
from operating_room.files.atomic import write_text
from operating_room.graphs.graph_files import load_samples
from operating_room.graphs.scene_graph import Sample
from operating_room_simulator.story.annotated import annotated_surgery
from operating_room_simulator.story.steps import SURGEONS, playbook_of
from operating_room_simulator.story.story import Surgery

_LEAST = 0.02  # share of a person's time; rarer activities are left out
_TOGETHER = 6  # predicates that are told to occur in the same second
_EVENTS = ("calibrating", "scanning")  # beside the deeds of surgery: the script says when they happen
_OURS = ("c_arm", "drape")  # things of the script
_PARTS = ("arrival", "preparation", "calibration", "departure")  # steps of their own; the rest is one


def main() -> None:
    """Read, count, write or print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--without", action="append", default=[], metavar="TAKE")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    samples = [sample for path in options.files for sample in load_samples(path)]
    left_out = {mmor().find_take(name).sample_name for name in options.without}
    table = count([sample for sample in samples if sample.take_name not in left_out])
    text = as_text(table)
    if options.out:
        write_text(options.out, text)
    else:
        print(text, end="")


def count(samples: Sequence[Sample]) -> dict[str, Any]:
    """The table: for each dataset its predicates, and what its people do in each part of a surgery."""
    surgeries: dict[str, list[Surgery]] = defaultdict(list)
    for name in sorted({sample.take_name for sample in samples}):
        take = mmor().find_take(name)
        surgeries[take.dataset].append(annotated_surgery(take, samples, seed=0))
    return {
        dataset: {
            "seconds": sum(len(surgery.moments) for surgery in them),
            "predicates": _predicates(them),
            "doers": _doers(them),
            "activities": _activities(them),
        }
        for dataset, them in sorted(surgeries.items())
    }


def _predicates(surgeries: Iterable[Surgery]) -> dict[str, dict[str, Any]]:
    """Of each predicate: triplets a second, length of its stretches, who, what, what follows, what goes with it."""
    seconds = sum(len(surgery.moments) for surgery in surgeries)
    triplets: Counter[str] = Counter()
    subjects, objects, follows, beside = (defaultdict(Counter) for _ in range(4))
    lengths: dict[str, list[int]] = defaultdict(list)
    there: Counter[str] = Counter()
    for surgery in surgeries:
        for moment in surgery.moments:
            present = {triplet.predicate for triplet in moment.triplets}
            for subject, object_, predicate in moment.triplets:
                triplets[predicate] += 1
                subjects[predicate][subject] += 1
                objects[predicate][object_] += 1
            there.update(present)
            for predicate in present:
                beside[predicate].update(present - {predicate})
        for predicate, length in _stretches([frozenset(m.triplets) for m in surgery.moments]):
            lengths[predicate].append(length)
        for before, after in itertools.pairwise(surgery.moments):
            now, then = ({(t.subject, t.object): t.predicate for t in m.triplets} for m in (before, after))
            for pair in now.keys() & then.keys():
                if now[pair] != then[pair]:
                    follows[now[pair]][then[pair]] += 1
    return {
        predicate: {
            "a_second": round(triplets[predicate] / seconds, 4),
            "stretch_s": _quartiles(lengths[predicate]),
            "subjects": _shares(subjects[predicate]),
            "objects": _shares(objects[predicate]),
            "followed_by": _shares(follows[predicate]),
            "together_with": {
                other: round(n / there[predicate], 3) for other, n in beside[predicate].most_common(_TOGETHER)
            },
        }
        for predicate in sorted(triplets)
    }


def _stretches(graphs: Sequence[frozenset[Any]]) -> Iterable[tuple[str, int]]:
    """(predicate, seconds) of every stretch in which one triplet holds without a gap."""
    for triplet in sorted(set().union(*graphs)):
        for holds, run in itertools.groupby([triplet in graph for graph in graphs]):
            if holds:
                yield triplet.predicate, len(list(run))


def _doers(surgeries: Iterable[Surgery]) -> dict[str, dict[str, float]]:
    """Who carries out each deed on the patient."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for surgery in surgeries:
        deeds = {predicate for predicate, _ in playbook_of(surgery.take).actions.values()}
        for moment in surgery.moments:
            for subject, object_, predicate in moment.triplets:
                if object_ == "patient" and predicate in deeds:
                    found[predicate][subject] += 1
    return {deed: _shares(found[deed], 0.0) for deed in sorted(found)}


def _activities(surgeries: Iterable[Surgery]) -> dict[str, Any]:
    """Of each person, by part of the surgery: activities with their share of the time; and how long one is kept."""
    times: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    stays: dict[str, list[int]] = defaultdict(list)
    for surgery in surgeries:
        book = playbook_of(surgery.take)
        deeds = {predicate for predicate, _ in book.actions.values()} | set(_EVENTS)
        for person in book.people:
            track: list[str | None] = []
            for moment in surgery.moments:
                own = [t for t in moment.triplets if t.subject == person]
                if person not in moment.people or any(t.predicate in deeds or t.object in _OURS for t in own):
                    track.append(None)
                    continue
                at_patient = any(t.object == "patient" for t in own)
                parts = sorted(
                    f"{t.object} {t.predicate}" for t in own if not (t.object == "operating_table" and at_patient)
                )
                others = {t.subject for t in moment.triplets if t.predicate in deeds and t.object == "patient"}
                helps = person in SURGEONS and others
                text = "; ".join(parts)
                if helps:
                    text = text.replace(f"{min(others)} assisting", "{surgeon} assisting")
                part = "helping" if helps else moment.step if moment.step in _PARTS else "background"
                times[person][part][text] += 1
                track.append(text)
            stays[person] += [len(list(run)) for text, run in itertools.groupby(track) if text is not None]
    return {
        person: {"stay_s": _quartiles(stays[person])}
        | {part: _shares(times[person][part]) | {"seconds": times[person][part].total()} for part in times[person]}
        for person in sorted(times)
    }


def _shares(counts: Counter[str], least: float = _LEAST) -> dict[str, float]:
    total = counts.total() or 1
    return {name: round(n / total, 3) for name, n in counts.most_common() if n / total >= least}


def _quartiles(lengths: Sequence[int]) -> list[int]:
    """The lengths that a quarter, a half and three quarters of all do not exceed."""
    ordered = sorted(lengths)
    return [ordered[min(len(ordered) - 1, len(ordered) * q // 4)] for q in (1, 2, 3)]


def as_text(table: dict[str, Any]) -> str:
    """YAML with a line for each short list."""
    import yaml

    head = "# Habits of real annotation, counted by scripts/count_annotations.py: shares and durations.\n"
    return head + yaml.safe_dump(table, sort_keys=False, width=10_000, default_flow_style=None)


if __name__ == "__main__":
    main()
