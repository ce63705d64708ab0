"""What a model says while each deed is done, by the sense that tells the deed: of MM-OR takes of `synthesize --news`.

Usage: python scripts/probe_witnesses.py PREDICTIONS DATA RELATIONS; PREDICTIONS as `mmor scene-graph infer` writes
them, DATA holds the takes as they were simulated, which know their seeds.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from operating_room.domain.domain import mmor
from operating_room.files.readers import read_json
from operating_room.graphs.graph_files import load_predictions, load_samples
from operating_room.graphs.scene_graph import Triplet
from operating_room_simulator.notes import note_path
from operating_room_simulator.story.news import draw_news

DEEDS = ("calibrating", "cementing", "cleaning", "cutting", "drilling", "hammering", "sawing", "suturing")


def deeds_of(graph: Iterable[Triplet]) -> list[str]:
    """The deeds in a graph, sorted."""
    return sorted({triplet.predicate.strip() for triplet in graph} & set(DEEDS))


def main(predictions: Path, data: Path, relations: Path) -> None:
    """Print a table row for each deed and sense: seconds, those in which it is said, and what is said."""
    said = load_predictions(predictions)
    samples = [sample for sample in load_samples(relations) if sample.sample_id in said]
    takes = {sample.take_name: mmor().find_take(sample.take_name) for sample in samples}
    takes = {name: take for name, take in takes.items() if take.dataset == "MMOR"}
    notes = {name: read_json(note_path(data, take)) for name, take in takes.items()}
    news = {name: draw_news(take, notes[name]["seed"], notes[name]["seconds"]) for name, take in takes.items()}
    found: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for sample in samples:
        if sample.take_name in takes:
            answer = ", ".join(deeds_of(said[sample.sample_id])) or "nothing"
            for deed in deeds_of(sample.triplets):
                found[deed, news[sample.take_name].witness(deed)][answer] += 1
    print("| deed | told by | s | right | said |\n|---|---|---|---|---|")
    for (deed, witness), answers in sorted(found.items()):
        right = sum(count for answer, count in answers.items() if deed in answer.split(", "))
        told = ", ".join(f"{answer} {count}" for answer, count in answers.most_common())
        print(f"| {deed} | {witness} | {answers.total()} | {right} | {told} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("predictions", "data", "relations"):
        parser.add_argument(name, type=Path)
    main(**vars(parser.parse_args()))
