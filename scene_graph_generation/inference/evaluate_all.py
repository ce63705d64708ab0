"""All checkpoints of a training folder and its final model, evaluated once each, in one table."""

from __future__ import annotations

import csv
import filecmp
import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from computing.training_checkpoints import CHECKPOINT, numbered_checkpoints, step_of
from operating_room.errors import UserError
from operating_room.files.atomic import write_json, write_text
from operating_room.files.raw_files import visible
from operating_room.files.readers import read_json
from operating_room.scores.fingerprints import fingerprint, stamp
from scene_graph_generation.weights.base_models import CONFIG, OWN_SETTINGS, read_config
from scene_graph_generation.weights.checkpoints import SEEN_WEIGHTS

COLUMNS = ("step", "macro F1", "low", "high", "macro precision", "macro recall", "samples")
FINAL = "final"  # the "step" of the model that the training ended with
FOLDER = "evaluation"  # of results, in the folder of a training
_WEIGHTS = ("*.safetensors", "adapter_model.bin", "non_lora_trainables.bin", "pytorch_model*.bin")
_MODEL = (*_WEIGHTS, "config.json", "adapter_config.json", "tokenizer.json", "tokenizer.model")
Row = tuple[int | float | str | None, ...]


@dataclass
class Table:
    """The rows, and one line for each checkpoint that could not be evaluated or of which something is to be told."""

    rows: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add_problems(self, problems: Iterable[str]) -> None:
        """What keeps a take out of one row mostly does so in all: it is told once."""
        self.problems += [problem for problem in problems if problem not in self.problems]


def evaluate_all(
    folder: Path,
    name: str,
    evaluate: Callable[[Path, Path], object],
    about: Callable[[Path], Mapping[str, Any]] = lambda _: {},
    every: int = 1,
    log: Callable[[Row], None] | None = None,
) -> Table:
    """Evaluate the checkpoints and the final model of a training and write the table `<folder>/<name>.csv`.

    Results lie beside the checkpoints (`results_path`), so that they outlive those that a training deletes meanwhile.

    Args:
        folder: of the training.
        name: of the evaluation, like `mmor_test`.
        evaluate: evaluates a model folder into a results file.
        about: what the results of a model folder must say of themselves (its weights, the data, the code, settings) to
            be used again. Of a checkpoint that is no longer there, weights, code and contents are not asked for.
        every: only every n-th checkpoint of those that are there.
        log: is given the row of each checkpoint that was evaluated now.

    Raises:
        UserError: there is nothing to evaluate, or the table cannot be written.
    """
    steps, models = _steps(folder), _models(folder, every)
    gone = {step: path for step, path in _steps(folder / FOLDER).items() if step not in steps}
    if not models and not gone:
        raise UserError(f"{folder}: has neither {CHECKPOINT}* folders nor a model; give the folder of a training")
    rows, told = dict[int | str, Row](), Table()
    for step, path in sorted(gone.items()):
        results = path / f"{name}.json"
        if results.exists():
            wanted = {key: value for key, value in about(path).items() if key not in ("weights", "code", "shown")}
            if (other := _difference(results, wanted)) is None:
                rows[step] = _row(step, results)
                told.add_problems(_takes_left_out(results))
            else:
                told.notes.append(f"{results}: is left out, {other} differs and the checkpoint is no longer there")
    for step, model in models.items():
        results = results_path(model, name)
        try:
            wanted = about(model)
            new = _difference(results, wanted) is not None
            if new and not (step == FINAL and _use_last(steps, folder, name, wanted)):
                evaluate(model, results)
            rows[step] = _row(step, results)
            told.add_problems(_takes_left_out(results))
        except UserError as error:
            who = "the final model" if step == FINAL else f"{CHECKPOINT}{step}"
            told.problems.append(f"{who} is left out: {error}")
            continue
        if new and log is not None:
            log(rows[step])
    told.rows = [rows[step] for step in sorted(rows, key=lambda step: (isinstance(step, str), step))]
    write_text(folder / f"{name}.csv", table(told.rows, ","))
    return told


def left_to_evaluate(
    folder: Path, name: str, about: Callable[[Path], Mapping[str, Any]], every: int = 1
) -> list[tuple[Path, Path]]:
    """The models that `evaluate_all` would evaluate, and where their results go; for the arguments see there.

    Raises:
        UserError: there is nothing to evaluate.
    """
    steps, models = _steps(folder), _models(folder, every)
    if not models:
        raise UserError(f"{folder}: has neither {CHECKPOINT}* folders nor a model; give the folder of a training")
    if steps and (last := max(steps)) in models and FINAL in models and _same_weights(steps[last], folder):
        del models[FINAL]
    found = [(model, results_path(model, name)) for model in models.values()]
    return [(model, results) for model, results in found if _difference(results, about(model)) is not None]


def results_path(model: Path, name: str) -> Path:
    """Where the results of a model go by default: those of a checkpoint beside it, since it may be deleted."""
    if step_of(model) is not None:
        return model.parent / FOLDER / model.name / f"{name}.json"
    return model / FOLDER / f"{name}.json"


def weights_fingerprint(model: Path) -> str:
    """Of the names, sizes and times of a model folder's files (their content is not read)."""
    files = sorted({path for pattern in _MODEL for path in visible(model.glob(pattern))})
    return fingerprint(f"{path.name} {stamp(path)}" for path in files)


def answers_depend_on_batch(model: Path) -> bool:
    """Whether config.json says that a model was trained with published batching; not so of a model that is gone.

    Raises:
        UserError: it is damaged.
    """
    if not (model / CONFIG).is_file():
        return False
    values = read_config(model)
    own = values.get(OWN_SETTINGS, values)
    return isinstance(own, dict) and own.get("batching") == "published"


def table(rows: list[Row], separator: str = "\t") -> str:
    """The rows as text, scores with four digits."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([f"{cell:.4f}" if isinstance(cell, float) else cell for cell in row] for row in rows)
    return text.getvalue()


def _steps(folder: Path) -> dict[int, Path]:
    """Step -> folder of the checkpoints in a folder."""
    return {step: path for path in numbered_checkpoints(folder) if (step := step_of(path)) is not None}


def _models(folder: Path, every: int) -> dict[int | str, Path]:
    """Step -> folder of every n-th checkpoint, and the final model if it is there."""
    steps = _steps(folder)
    models: dict[int | str, Path] = {step: steps[step] for step in sorted(steps)[every - 1 :: every]}
    weights = {path.name for pattern in _WEIGHTS for path in visible(folder.glob(pattern))}
    if weights - {SEEN_WEIGHTS}:
        models[FINAL] = folder
    return models


def _difference(results: Path, wanted: Mapping[str, Any]) -> str | None:
    """What a results file says otherwise of itself; None if it can be used.

    Annotations and input files are those that were asked for, of which takes may have been left out.
    """
    if not results.exists():
        return "there is none"
    try:
        about = read_json(results)["about"]
        about = {**about, **about.get("asked", {})}
        return next((name for name, value in wanted.items() if about.get(name) != value), None)
    except (UserError, KeyError, TypeError, AttributeError):
        return "it is damaged"


def _use_last(checkpoints: Mapping[int, Path], final: Path, name: str, wanted: Mapping[str, Any]) -> bool:
    """Take the results of the last checkpoint for the final model where both are the same; whether that was so."""
    if not checkpoints:
        return False
    last = checkpoints[max(checkpoints)]
    results = results_path(last, name)
    if _difference(results, {key: value for key, value in wanted.items() if key != "weights"}) is not None:
        return False
    if not _same_weights(last, final):
        return False
    values = read_json(results)
    values["about"] |= {"folder": str(final), "weights": wanted.get("weights"), "same_as": last.name}
    write_json(results_path(final, name), values)
    return True


def _same_weights(last: Path, final: Path) -> bool:
    """Whether a checkpoint holds the final model; it may hold more, which belongs to the training only."""
    weights = sorted({path.name for pattern in _WEIGHTS for path in visible(final.glob(pattern))})
    if not all((last / w).is_file() for w in weights):
        return False
    return all(filecmp.cmp(last / w, final / w, shallow=False) for w in weights)


def _takes_left_out(results: Path) -> list[str]:
    """What results say of takes that are not in them."""
    return list(read_json(results).get("problems", ()))


def _row(step: int | str, path: Path) -> Row:
    results: Any = read_json(path)
    try:
        overall = results["overall"]
        low, high = overall["intervals"].get("macro f1-score", (None, None))  # a single block has no interval
        macro = overall["macro"]
        return step, macro["f1-score"], low, high, macro["precision"], macro["recall"], overall["samples"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: is no results file of an evaluation; delete it and evaluate again") from error
