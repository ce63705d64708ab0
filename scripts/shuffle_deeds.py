"""Graphs in which anybody does anything at any time, put together from those of takes, for the simulator to render.

In a story what was said before tells what comes next; here only what is seen, heard and measured does. And a deed that
a story has for a few seconds can come as often as one likes.

Usage: python scripts/shuffle_deeds.py RELATIONS... --out FILE [--mmor 60] [--4dor 50] [--first 921] [--seconds 40]
           [--seed 0] [--often cementing=4 ...]
then   mmor data synthesize --out DIR --relations FILE --take 921_SIM ... --take 921_4DOR ... --seconds 40
RELATIONS: relationships_*.json of `mmor data convert-relations`, takes of both datasets among them.
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.graphs.graph_files import load_samples, save_samples
from operating_room.graphs.scene_graph import Sample, Triplet
from operating_room_simulator.story.steps import PEOPLE, SURGEONS

_DEEDS = frozenset({"cutting", "drilling", "sawing", "hammering", "cementing", "suturing", "cleaning"})
_VISITORS = frozenset({"student", "unrelated_person"})  # in half of the takes
_STAFF = frozenset(PEOPLE) - {"patient"}

Graph = list[Triplet]
Act = tuple[tuple[str, str], ...]  # all that one person does in a second: object and predicate


def main(
    samples: Iterable[Sample], names: Sequence[str], seconds: int, seed: int, often: Mapping[str, float]
) -> list[Sample]:
    """The samples of the takes `names`, of `seconds` timepoints each.

    Raises:
        UserError: no take of a dataset is that long, or a sample or name is of no take.
    """
    stories: dict[str, dict[str, list[Graph]]] = defaultdict(lambda: defaultdict(list))
    for sample in samples:
        stories[mmor().find_take(sample.take_name).dataset][sample.take_name].append(list(sample.triplets))
    drawn = random.Random(seed)
    written = []
    for take in map(mmor().find_take, names):
        long_enough = [graphs for graphs in stories[take.dataset].values() if len(graphs) >= seconds]
        if not long_enough:
            told = f"no take of {take.dataset} in the files given has {seconds} timepoints"
            raise UserError(f"{told}; give others, or fewer --seconds, or none of it")
        for second, graph in enumerate(shuffle(long_enough, seconds, drawn, often)):
            written.append(Sample(take.sample_name, f"{second:06d}", tuple(graph)))
    return written


def shuffle(
    takes: Sequence[Sequence[Graph]], seconds: int, drawn: random.Random, often: Mapping[str, float]
) -> list[Graph]:
    """One take: the things of a stretch of one of `takes`, and people who do what somebody did in any of them."""
    acts = acts_of_people(takes)
    base = drawn.choice(takes)
    start = drawn.randint(0, len(base) - seconds)
    things = ([triplet for triplet in graph if triplet[0] not in _STAFF] for graph in base[start : start + seconds])
    graphs: list[Graph] = list(things)
    present = [who for who in sorted(acts) if who not in _VISITORS or drawn.random() < 0.5]
    tracks = {who: track(who, acts, seconds, drawn, often) for who in present}
    for second, graph in enumerate(graphs):
        doing = {who: tracks[who][second] for who in drawn.sample(present, len(present))}
        if not any("patient" in triplet for triplet in graph):
            doing = {who: [act for act in acts if act[0] != "patient"] for who, acts in doing.items()}
        # One deed at a time, a tool in one hand: whoever comes first has them.
        worker = next((who for who, acts in doing.items() if any(act[1] in _DEEDS for act in acts)), None)
        held: set[str] = set()
        for who, (what, predicate) in ((who, act) for who, acts in doing.items() for act in acts):
            taken = (predicate in _DEEDS and who != worker) or (predicate == "holding" and what in held)
            if taken or what == who or (predicate == "assisting" and what != worker):
                continue
            if predicate == "holding":
                held.add(what)
            graph.append(Triplet(who, what, predicate))
    return graphs


def acts_of_people(takes: Iterable[Iterable[Graph]]) -> dict[str, dict[str, list[Act]]]:
    """What each person does in a second, under each of its predicates."""
    acts: dict[str, dict[str, list[Act]]] = defaultdict(lambda: defaultdict(list))
    for graph in (graph for graphs in takes for graph in graphs):
        by_person: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for subject, what, predicate in graph:
            if subject in _STAFF and (what not in _STAFF or predicate == "assisting"):
                by_person[subject].append((what, predicate))
        for who, does in by_person.items():
            for _, predicate in does:
                acts[who][predicate].append(tuple(does))
    return acts


def track(
    who: str,
    acts: Mapping[str, Mapping[str, Sequence[Act]]],
    seconds: int,
    drawn: random.Random,
    often: Mapping[str, float],
) -> list[Act]:
    """What `who` does in each second, 3 to 9 s at a time: mostly what is theirs, surgeons often a deed."""
    deeds = sorted(_DEEDS & set(acts["head_surgeon"]))
    done: list[Act] = []
    while len(done) < seconds:
        if who in SURGEONS and deeds and drawn.random() < 0.4:
            deed = drawn.choices(deeds, [often.get(deed, 1.0) for deed in deeds])[0]
            does = drawn.choice(acts["head_surgeon"][deed])
        else:
            whose = who if drawn.random() < 0.7 else drawn.choice(sorted(acts))
            does = drawn.choice(acts[whose][drawn.choice(sorted(acts[whose]))])
        done += [does] * drawn.randint(3, 9)
    return done[:seconds]


def weight(text: str) -> tuple[str, float]:
    """Of an option.

    Raises:
        ArgumentTypeError: it is no deed with a number above 0.
    """
    deed, _, times = text.partition("=")
    try:
        if deed in _DEEDS and 0 < float(times) < float("inf"):
            return deed, float(times)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} must be like cementing=4, of {', '.join(sorted(_DEEDS))}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("relations", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--mmor", type=int, default=60, help="takes of MM-OR (default: 60)")
    parser.add_argument("--4dor", type=int, default=50, dest="fourdor", help="takes of 4D-OR (default: 50)")
    parser.add_argument("--first", type=int, default=921, help="number of the first of each (default: 921)")
    parser.add_argument("--seconds", type=int, default=40, help="of each (default: 40)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    parser.add_argument(
        "--often",
        nargs="*",
        default=[],
        type=weight,
        metavar="DEED=TIMES",
        help="more often than other deeds",
    )
    given = parser.parse_args()
    numbers = {"SIM": given.mmor, "4DOR": given.fourdor}
    chosen = [f"{given.first + n}_{ending}" for ending, count in numbers.items() for n in range(count)]
    try:
        told = (sample for path in given.relations for sample in load_samples(path))
        save_samples(given.out, main(told, chosen, given.seconds, given.seed, dict(given.often)))
    except UserError as error:
        parser.error(str(error))
