"""All checkpoints of a training folder, evaluated once each, in one table."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from operating_room.errors import UserError
from operating_room.files import write_text
from operating_room.readers import read_json

COLUMNS = ("step", "macro F1", "low", "high", "macro precision", "macro recall", "samples")
Row = tuple[int | float, ...]


def evaluate_all(
    folder: Path,
    name: str,
    evaluate: Callable[[Path, Path], object],
    every: int = 1,
    log: Callable[[Row], None] | None = None,
) -> tuple[list[Row], list[str]]:
    """Evaluate the checkpoints of a training and write the table `<folder>/<name>.csv`.

    Args:
        folder: of the training.
        name: of the evaluation, like `mmor_test`; a checkpoint with a results file of that name is not evaluated again.
        evaluate: evaluates a model folder into a results file.
        every: only every n-th checkpoint.
        log: is given the row of each checkpoint that was evaluated now.

    Returns:
        rows of the table, and one line for each checkpoint that could not be evaluated.

    Raises:
        UserError: there are no checkpoints, or the table cannot be written.
    """
    checkpoints = {int(p.name.rpartition("-")[2]): p for p in folder.glob("checkpoint-*") if p.name[11:].isdecimal()}
    if not checkpoints:
        raise UserError(f"{folder}: has no checkpoint-* folders; give the folder of a training")
    rows, problems = [], []
    for step in sorted(checkpoints)[every - 1 :: every]:
        results = results_path(checkpoints[step], name)
        new = not results.exists()
        try:
            if new:
                evaluate(checkpoints[step], results)
            rows.append(_row(step, results))
        except UserError as error:
            problems.append(f"{checkpoints[step].name} is left out: {error}")
            continue
        if new and log is not None:
            log(rows[-1])
    write_text(folder / f"{name}.csv", table(rows, ","))
    return rows, problems


def results_path(model: Path, name: str) -> Path:
    """Where the results of a model go if nothing else is said."""
    return model / "evaluation" / f"{name}.json"


def table(rows: list[Row], separator: str = "\t") -> str:
    """The rows as text, scores with four digits."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([f"{cell:.4f}" if isinstance(cell, float) else cell for cell in row] for row in rows)
    return text.getvalue()


def _row(step: int, path: Path) -> Row:
    results: Any = read_json(path)
    try:
        overall = results["overall"]
        low, high = overall["intervals"]["macro f1-score"]
        macro = overall["macro"]
        return step, macro["f1-score"], low, high, macro["precision"], macro["recall"], overall["samples"]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: is no results file of an evaluation; delete it and evaluate again") from error
