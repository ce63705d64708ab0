"""The tables of scripts/ablation_small.sh. Usage: python scripts/ablation_table.py FOLDER"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from operating_room.files.readers import read_json

ROWS = {
    "views": "views only",
    "masks": "views, masks",
    "cloud": "views, point cloud",
    "audio": "views, audio",
    "speech": "views, speech",
    "robot": "views, robot screen, tracker",
    "all": "all",
    "memory": "all with memory",
}
MACRO = "macro"


def main(work: Path) -> None:
    """Macro F1 by row and dataset, then F1 by predicate and row."""
    scores = {row: read_json(path) for row in ROWS if (path := work / row / "scores.json").exists()}
    print("| trained with | macro F1 | MM-OR | 4D-OR |\n|---|---|---|---|")
    for row, score in scores.items():
        parts = [score["overall"], *(score["datasets"][name] for name in ("MMOR", "4DOR"))]
        print(f"| {ROWS[row]} | {' | '.join(f'{_f1(part, MACRO):.3f}' for part in parts)} |")
    print(f"\n| F1 | {' | '.join(ROWS[row] for row in scores)} |\n|---|{'---|' * len(scores)}")
    for predicate in next(iter(scores.values()))["overall"]["macro_over"]:
        values = (_f1(score["overall"]["predicates"], predicate) for score in scores.values())
        print(f"| {predicate} | {' | '.join(f'{value:.2f}' for value in values)} |")


def _f1(part: dict[str, Any], name: str) -> float:
    return part[name]["f1-score"]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
