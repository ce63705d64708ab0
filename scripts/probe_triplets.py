"""How well a model finds the triplets with a predicate and an entity: F1 of whole triplets, over all timepoints.

Usage: python scripts/probe_triplets.py PREDICTIONS RELATIONS PREDICATE [ENTITY]; PREDICTIONS as `mmor scene-graph
infer` writes them, RELATIONS a relationships_*.json. Without an ENTITY (subject or object) all with the predicate.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from operating_room.domain.domain import mmor
from operating_room.graphs.graph_files import load_predictions, load_samples
from operating_room.scores.scoring import predicted_graph, true_graph


def main(predictions: Path, relations: Path, predicate: str, entity: str | None) -> None:
    """Print how many are true, predicted and right, and their F1."""
    language, said = mmor().language, load_predictions(predictions)
    true, predicted, right = 0, 0, 0
    for sample in load_samples(relations):
        graphs = true_graph(sample, language), predicted_graph(said[sample.sample_id], language)
        there, found = (
            {t for t in graph if t.predicate == predicate.lower() and entity in (None, t.subject, t.object)}
            for graph in graphs
        )
        true, predicted, right = true + len(there), predicted + len(found), right + len(there & found)
    f1 = 2 * right / (true + predicted) if true + predicted else 0.0
    print(f"{true} true, {predicted} predicted, {right} right, F1 {f1:.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("predictions", "relations"):
        parser.add_argument(name, type=Path)
    parser.add_argument("predicate")
    parser.add_argument("entity", nargs="?", help="as in domain files: secondary_table")
    main(**vars(parser.parse_args()))
