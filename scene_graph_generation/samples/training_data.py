"""Training records as examples: how a sample looks in each epoch.

Stage-2 specification, section 6. `samples.py` makes the records and holds the published augmentation; what is added
here (mirrored rooms, disturbed memory, fixed view slots, canonical order) is ours and off by default.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import torch

from operating_room.errors import UserError
from operating_room.files.readers import read_json
from operating_room.graphs.prompts import BLOCKS, IMAGE_MARK, ROBOT_LOG, drop_blocks, told, without_blocks
from operating_room.graphs.scene_graph import Triplet, parse, split_sample_id, target_text
from operating_room.recordings.dataset import Dataset
from operating_room.recordings.timepoint import Timepoint
from scene_graph_generation.config.settings import TEXT_MODALITIES, TrainConfig
from scene_graph_generation.inputs.evidence import Evidence, ExampleReader
from scene_graph_generation.inputs.example import Example
from scene_graph_generation.inputs.modalities import MODALITIES
from scene_graph_generation.samples.records import Record, Records, augment_record
from scene_graph_generation.samples.sample_files import Packed, find_shards, read_shards

# Memory as `prompts.human_prompt` writes it, and one entry of it.
_MEMORY = re.compile(r"<memory_start>.*?<memory_end>\.\n", re.DOTALL)
_ENTRY = re.compile(r"(?<=[:;] )([^,;:<]+,[^,;:<]+,)([^,;:<]+)(; ?|)")


class TrainingSamples(torch.utils.data.Dataset[Example]):
    """Training records as examples, augmented anew in every epoch.

    An element is asked for by (epoch, index), so that what it looks like depends on nothing else: a resumed training
    sees what the uninterrupted one would have seen.

    Args:
        records: of the samples.
        dataset: where the files are that they name.
        config: how they are varied.
        read: makes examples of them.
        asked: triplets of which examples say whether they hold; none: they do not.
    """

    def __init__(
        self,
        records: Records,
        dataset: Dataset,
        config: TrainConfig,
        read: ExampleReader,
        asked: Sequence[Triplet] = (),
    ) -> None:
        self.records = records
        self.dataset = dataset
        self._predicates = dataset.domain.language.predicates
        self._config = config
        self._read = read
        self._asked = asked
        blocks = {**dict(zip(TEXT_MODALITIES, BLOCKS)), ROBOT_LOG: ROBOT_LOG}
        self._unread = [block for name, block in blocks.items() if name not in read.modalities]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: tuple[int, int]) -> Example:
        epoch, place = index
        config, generator = self._config, Random(f"{self._config.seed} {epoch} {place}")
        record = self.records[place]
        named = Evidence.of_record(record, self.dataset.root).views
        augmented = augment_record(
            record, generator, config.modality_dropout, self._read.two_branches, self._read.max_views
        )
        prompt = without_blocks(_turns(augmented)[0], self._unread)
        evidence = Evidence.of_record(augmented, self.dataset.root)
        if not config.shuffle_views and evidence.views:
            evidence = replace(evidence, views=self._slots(record, named))
        pictures_only = bool(evidence.views) and generator.random() < config.pictures_only
        if pictures_only:
            prompt = drop_blocks(prompt, 1.0, generator)
            evidence = evidence.only(("views", "masks"))
        if pictures_only or generator.random() < config.memory_dropout:
            prompt = _MEMORY.sub("", prompt)
        prompt = disturb_memory(prompt, generator.uniform(0, config.memory_noise), self._predicates, generator)
        answer = answer_of(record, config.canonical_order)
        example = self._read(evidence, self._read.conversation(prompt), answer)
        if self._asked:
            true = set(parse(answer))
            example = replace(example, holds=torch.tensor([triplet in true for triplet in self._asked]))
        return augment_views(example, generator) if config.augment else example

    def look(self, index: int, generator: Random | None, views: bool = True, cloud: bool = True) -> Example:
        """What there is to see and hear of a record, without text, and without views or point cloud if so asked.

        Without a generator it is shown as it is.
        """
        record = self.records[index]
        evidence = Evidence.of_record(record, self.dataset.root)
        shown = self._slots(record, evidence.views) if views and evidence.views else ()
        kept = [name for name in evidence.others if cloud or name != "cloud"]
        evidence = replace(evidence.only(("views", *kept)), views=shown)
        example = self._read(evidence, IMAGE_MARK)
        return example if generator is None else augment_views(example, generator)

    def _slots(self, record: Record, named: Sequence[Path | None]) -> tuple[Path | None, ...]:
        take_name, frame_id = split_sample_id(str(record["id"]))
        # Each process that reads samples asks for those of all takes, one now and then.
        timepoint = self.dataset.take(self.dataset.domain.find_take(take_name)).timepoint(frame_id)
        return slots_of(timepoint, named)


def slots_of(timepoint: Timepoint, named: Iterable[Path | None]) -> tuple[Path | None, ...]:
    """The pictures that samples name of a timepoint in the slots of the evaluation: a slot is always the same camera.

    Raises:
        UserError: they name none of this timepoint.
    """
    collection, known = timepoint.collection, {os.path.abspath(path) for path in named if path is not None}
    unnamed = {path for path in collection.training_pictures(timepoint.views) if os.path.abspath(path) not in known}
    views = {camera: path for camera, path in timepoint.views.items() if path not in unnamed}
    if not views:
        told = f"none of the {len(known)} pictures named is one of {timepoint.sample_id}"
        raise UserError(f"{min(known, default='no file')}: {told}; make the samples again")
    return tuple(collection.evaluation_pictures(views))


def open_records(path: Path) -> Records:
    """The records of a training file, or of a folder of shards; nothing is known yet of what they hold.

    Where the file has its shards beside it, records stay on disk and are read when they are asked for; else they are
    held as text.

    Raises:
        UserError: it is damaged or empty.
    """
    if not path.exists():
        raise UserError(
            f"{path}: no such training file; `mmor scene-graph samples` and `mmor downstream samples` make them"
        )
    shards = find_shards(path)
    if shards is not None:
        return read_shards(shards)
    records = read_json(path)
    if not isinstance(records, list) or not records:
        raise UserError(f"{path}: expected a list of training samples; make it again")
    return Packed(path, records)


def read_records(path: Path) -> Records:
    """The records of a training file, or of a folder of shards, each looked at once.

    Raises:
        UserError: it is damaged, empty, a record has no question and answer, or it is of EgoExOR's published form.
    """
    records = open_records(path)
    for number, record in enumerate(records):
        check_record(path, number, record)
    return records


def check_record(path: Path, number: int, record: Any) -> str:
    """Question and answer of a record, if it is one to train on.

    Args:
        path: of its file.
        number: from 0.
        record: what stands there.

    Raises:
        UserError: it has no id or no question and answer, or it is of EgoExOR's published form.
    """
    try:
        text = record_text(record)
        str(record["id"])
        if "hdf5_indices" in record and "image" not in record:
            raise UserError(
                f"{path}: names places in EgoExOR's HDF5 files and no pictures, of which a training here would see "
                "nothing; import these takes and make the samples anew (mmor scene-graph samples, docs/egoexor.md)"
            )
    except (KeyError, TypeError, ValueError) as error:
        name = record.get("id") if isinstance(record, dict) else None
        which = f"sample {str(name)[:60]}" if name is not None else f"sample {number + 1}, {str(record)[:60]},"
        raise UserError(f"{path}: {which} needs an id and two turns; make it again") from error
    try:
        return told(text)
    except ValueError as error:
        raise UserError(f"{path}: sample {str(record['id'])[:60]!r} holds {error}; make it again") from error


def answer_of(record: Record, canonical_order: bool) -> str:
    """What is to be said; in canonical order the triplets are sorted."""
    answer = _turns(record)[1]
    return target_text(sorted(parse(answer))) if canonical_order else answer


def record_text(record: Record) -> str:
    """Question and answer."""
    return " ".join(_turns(record))


def disturb_memory(prompt: str, share: float, predicates: Sequence[str], generator: Random) -> str:
    """Drop a share of the memory's entries or alter their predicate, as a model's own errors would.

    Memory at inference holds what the model said before; trained on true memory alone it would trust it blindly.
    """

    def disturb(entry: re.Match[str]) -> str:
        if generator.random() >= share:
            return entry[0]
        return entry[1] + generator.choice(predicates) + entry[3] if generator.random() < 0.5 else ""

    before, mark, rest = prompt.partition("<memory_start>")
    memory, end, after = rest.partition("<memory_end>")
    return before + mark + _ENTRY.sub(disturb, memory) + end + after


def augment_views(example: Example, generator: Random) -> Example:
    """Mirror all views together, shift each view by up to a sixteenth, and vary light and colour.

    A mirrored room is a possible room; relations have no left and right. Masks, point cloud, gaze and hands are
    mirrored with it. A sample that is text only stays as it is.
    """
    views, others = example.views, example.others
    if not len(views):
        return example
    if generator.random() < 0.5:
        views = views.flip(-1)
        others = {row.name: row.mirrored(others[row.name]) for row in MODALITIES if row.name in others}
    reach = views.shape[-1] // 16
    padded = torch.nn.functional.pad(views, (reach,) * 4)
    size = views.shape[-1]
    corners = [(generator.randint(0, 2 * reach), generator.randint(0, 2 * reach)) for _ in views]
    views = torch.stack([view[:, y : y + size, x : x + size] for view, (y, x) in zip(padded, corners)])
    gain, offset = (torch.tensor([generator.uniform(-0.2, 0.2) for _ in range(3)]).view(3, 1, 1) for _ in range(2))
    return replace(example, views=views * (1 + gain) + offset, others=others)


def _turns(record: Record) -> tuple[str, str]:
    question, answer = (turn["value"] for turn in record["conversations"])
    return question, answer
