"""The files that hold scene graphs: samples of a split, and predictions (data specification, section 3)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from operating_room.errors import UserError
from operating_room.files.atomic import write_json
from operating_room.files.readers import read_json, require
from operating_room.graphs.scene_graph import END, START, Sample, Triplet, is_relation, parse

SPLIT_NAMES = {"train": "train", "val": "validation", "test": "test"}  # split -> its name in file names
_TARGET = re.compile(rf"\s*{START}([^<]*){END}\s*")  # of EgoExOR's samples
_PREDICTIONS = "predictions map sample ids to lists of [subject, predicate, object]"


def load_samples(path: Path) -> list[Sample]:
    """The samples of a `relationships_*.json` (or `.json.gz`) in the order of the file, or of EgoExOR's sample files.

    Raises:
        UserError: missing or unreadable, no list of samples, or a sample twice.
    """
    records = read_json(path)
    if not isinstance(records, list):
        raise UserError(f"{path}: must be a list of samples with take_name, frame_id and relationships")
    try:
        samples = [
            _of_egoexor(r) if isinstance(r, dict) and "hdf5_indices" in r else Sample.from_record(r) for r in records
        ]
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    (sample_id, count), *_ = Counter(sample.sample_id for sample in samples).most_common(1) or [("", 0)]
    if count > 1:
        raise UserError(f"{path}: sample {sample_id} is there {count} times; remove all but one")
    return samples


def _of_egoexor(record: Mapping[str, Any]) -> Sample:
    """A published sample of EgoExOR (arXiv 2505.24287): a place in its HDF5 files, and the graph as its target.

    Raises:
        UserError: a field is missing or of another type, or the target is no graph.
    """
    match record:
        case {
            "hdf5_indices": {
                "surgery_type": str(surgery),
                "procedure_id": int(a),
                "take_id": int(b),
                "frame_idx": int(n),
            },
            "conversations": [dict(), {"value": str(target)}],
        } if n >= 0:
            sample = Sample(f"{surgery}_{a}_{b}", f"{n:06d}", tuple(parse(target)))
            # `parse` takes anything for an answer, and the truth must be a graph.
            whole = _TARGET.fullmatch(target)
            relations = [] if whole is None else [piece for piece in whole[1].split(";") if piece.strip()]
            if whole is None or len(sample.triplets) != len(relations) or not all(map(all, sample.triplets)):
                form = f"{START} subject,object,predicate; ... {END}"
                raise UserError(f"sample {sample.sample_id} must have a target {form}; got {target[:120]!r}")
            return sample
    raise UserError(
        "a sample of EgoExOR needs hdf5_indices (surgery_type, procedure_id, take_id, frame_idx) and two turns; got "
        f"{str(record)[:120]}"
    )


def save_samples(path: Path, samples: Iterable[Sample]) -> None:
    """Write samples as a `relationships_*.json`."""
    write_json(path, [sample.to_record() for sample in samples])


def load_predictions(path: Path) -> dict[str, list[Triplet]]:
    """Predicted graphs by sample id, names as generated; stored as sample id -> [subject, predicate, object] lists.

    Raises:
        UserError: missing or unreadable, or of another form.
    """
    require(path, "`mmor scene-graph infer`")
    refuse_live(path)
    records = read_json(path)
    match records:  # what else is lying beside predictions
        case {"task": str(), "about": dict()} | {"windows": dict(), "vpq": _}:
            raise UserError(f"{path}: holds scores that `evaluate` wrote; give the file that `infer` wrote")
        case {"annotations": list()}:
            raise UserError(f"{path}: holds masks; give the file that `mmor scene-graph infer` wrote")
        case [{"take_name": _}, *_]:
            raise UserError(f"{path}: holds annotated samples; give the file that `mmor scene-graph infer` wrote")
    if not isinstance(records, dict):
        raise UserError(f"{path}: {_PREDICTIONS}")
    for sample_id, graph in records.items():
        wrong = [graph] if not isinstance(graph, list) else [one for one in graph if not is_relation(one)]
        if wrong:
            raise UserError(f"{path}: {sample_id} has {str(wrong[0])[:80]!r}; {_PREDICTIONS}")
    return {key: [Triplet(s, o, p) for s, p, o in graph] for key, graph in records.items()}


def is_of_live(path: Path) -> bool:
    """Whether a file begins as the lines of `mmor live`; what cannot be read is told where it is read."""
    with suppress(OSError), path.open("rb") as lines:
        return lines.readline(200).startswith(b'{"take": ')
    return False


def refuse_live(path: Path) -> None:
    """For who reads a file as JSON, which these lines are not.

    Raises:
        UserError: it begins as the lines of `mmor live`.
    """
    if is_of_live(path):
        told = "holds what `mmor live` answered, a second in a line; see it with `mmor view --live`, or answer the take"
        raise UserError(f"{path}: {told} with `mmor scene-graph infer` to score it")


def load_several(paths: Iterable[Path]) -> dict[str, list[Triplet]]:
    """The predictions of several files together.

    Raises:
        UserError: see `load_predictions`; or two files answer a timepoint differently, of which one would be lost.
    """
    found: dict[str, list[Triplet]] = {}
    first: dict[str, Path] = {}
    for path in paths:
        for key, graph in load_predictions(path).items():
            if found.setdefault(key, graph) != graph:
                raise UserError(f"{path}: answers {key} otherwise than {first[key]}; give each take's answers once")
            first.setdefault(key, path)
    return found


def save_predictions(path: Path, predictions: Mapping[str, Iterable[Triplet]]) -> None:
    """Write predicted graphs in the published form."""
    write_json(path, {key: [[s, p, o] for s, o, p in triplets] for key, triplets in predictions.items()})
