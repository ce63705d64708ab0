"""Recorded cases through the command line: a dataset tree, `mmor ...`, and what then lies on disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import soundfile
import torch
from PIL import Image
from typer.testing import CliRunner

from mmor.cli import app
from operating_room.domain import domain as domains
from operating_room.domain.domain import bundled
from operating_room.files.readers import read_audio, read_label_mask, read_picture
from operating_room.graphs.prompts import IMAGE_MARK, MEMORY_END, MEMORY_START, conversation
from operating_room.graphs.scene_graph import parse, split_sample_id, target_text
from operating_room.recordings.dataset import Dataset
from operating_room.recordings.timepoint import Timepoint
from scene_graph_generation.config.settings import MM2SGConfig
from scene_graph_generation.inference.generator import SceneGraphGenerator
from scene_graph_generation.inputs.evidence import Evidence
from scene_graph_generation.inputs.example import Example
from scene_graph_generation.samples.sample_files import read_shards, shard_folder
from tests.operating_room.published import index_place, mask_place, picture_place, place
from tests.parity.case import EXACT, Result, compare

TAKE = domains.mmor().find_take("001_PKA")
RATE = 8000  # Hz
BLACK = "black 2048x1536"  # the picture that stands for a missing one
NOT_SHOWN = "camera06_"  # a camera of 4D-OR that no sample shows
SAME_SOUND = 1e-6  # between decoding a clip and decoding the whole recording


def mmor(*arguments: str | Path) -> str:
    """The output of a command, which must succeed."""
    result = CliRunner().invoke(app, list(map(str, arguments)))
    if result.exit_code:
        raise AssertionError(f"mmor {' '.join(map(str, arguments))}: {result.output} {result.exception or ''}")
    return result.output


def transcripts(folder: Path, cases: Sequence[Mapping[str, Any]], root: Path) -> Iterator[Result]:
    """Words at each second, from a take's subtitles to its files."""
    for number, case in enumerate(cases):
        tree = root / f"transcripts{number}"
        data = make_take(tree, map(int, case["text_per_second"]))
        write(place(data, "subtitles", TAKE), (folder / case["srt"]).read_bytes())
        with suppress(AssertionError):  # it tells of subtitles that are not in the order of time, having written all
            mmor("scene-graph", "preprocess", "transcripts", "--data", tree)
        paths = {
            second: place(data, "transcript", TAKE, time=f"{int(second):06d}") for second in case["text_per_second"]
        }
        ours = {second: json.loads(path.read_text())["text"] for second, path in paths.items()}
        yield compare(f"{case['srt']} by command", ours, case["text_per_second"], EXACT)


def audio_clips(windows: Sequence[Mapping[str, Any]], root: Path) -> Iterator[Result]:
    """Clips of a recording of noise: the samples of the recorded window."""
    seconds = [int(window["timepoint"]) for window in windows]
    tree = root / "audio"
    data = make_take(tree, seconds)
    recording = place(data, "recording", TAKE)
    recording.parent.mkdir()
    noise = np.random.default_rng(0).normal(0, 0.1, RATE * (max(seconds) + 1))
    soundfile.write(recording, noise, RATE, format="MP3")
    mmor("scene-graph", "preprocess", "audio", "--data", tree)
    whole, _ = read_audio(recording)
    for second, window in zip(seconds, windows):
        start, duration = (round(window[name] * RATE) for name in ("start_second", "duration_seconds"))
        clip, _ = read_audio(place(data, "audio", TAKE, time=f"{second:06d}"))
        theirs = whole[start : start + duration]
        yield compare(f"clip of second {second} by command", clip, theirs, SAME_SOUND)


def small_masks(folder: Path, facts: Mapping[str, Any], root: Path) -> Iterator[Result]:
    """Masks from annotations, and from a predicted class-colour picture."""
    cases = [(case["input"], case["expected"]) for case in facts["cases"]]
    tree = root / "masks"
    data = make_take(tree, range(len(cases)))
    for number, (name, _) in enumerate(cases):
        write(mask_place(data, TAKE, "4", f"{number:06d}"), (folder / name).read_bytes())
    mmor("scene-graph", "preprocess", "masks", "--data", tree, "--from-annotations")
    for number, (name, expected) in enumerate(cases):
        ours = read_label_mask(place(data, "masks", TAKE, time=f"{number:06d}", number=1))
        yield compare(f"{name} by command", ours, read_label_mask(folder / expected), EXACT)
    if case := facts.get("colour_case"):
        tree = root / "predicted"
        data = make_take(tree, range(1))
        name = case["input"].split()[0]
        stem = picture_place(data, TAKE, "5", "000000").stem
        picture = tree / "pan_pred" / f"{TAKE.name}_5" / f"{stem}.png"
        picture.parent.mkdir(parents=True)
        Image.fromarray(read_picture(folder / name)).save(picture)
        mmor("scene-graph", "preprocess", "masks", "--data", tree, "--predictions", tree / "pan_pred")
        ours = read_label_mask(place(data, "masks", TAKE, time="000000", number=2))
        yield compare(f"{name} by command", ours, read_label_mask(folder / case["expected"]), EXACT)


def training_samples(facts: Mapping[str, Any], root: Path) -> Iterator[Result]:
    """The training JSON and its shards of the miniature dataset, but for the order of samples and of relations.

    The published code counts cameras among the files that exist: where that shows another camera, pictures are left
    out here and compared in the case without command.
    """
    relations, out = root / "scene_graph_generation" / "data", root / "llava_samples"
    modalities = "AZURE,SIMSTATION,TRACKERCAM,PC,AUDIO,SPEECH,ROBOTMETA,TRACKINGMETA"
    for temporal in (False, True):
        options = ["--permutations", "1", "--modalities", modalities, "--no-temporal-augmentation"]
        options += ["--temporal"] * temporal
        mmor("scene-graph", "samples", "--data", root, "--relations", relations, "--out", out, *options)
        (path,) = out.glob(f"train_1perm_{temporal}temp_Falsetempaug_*_drophistory0.5.json")
        ours = json.loads(path.read_text())
        yield compare(f"temporal {temporal}: shards by command", list(read_shards(shard_folder(path))), ours, EXACT)
        theirs = [
            _remember(record, facts["take_timepoint_to_memory_str"], temporal) for record in facts["non_temporal"]
        ]
        shifted = {record["id"] for record in theirs if any(NOT_SHOWN in name for name in record.get("image", ()))}
        pairs = ([_plain(record, shifted) for record in by_id(records)] for records in (ours, theirs))
        yield compare(f"temporal {temporal}: records by command", *pairs, EXACT)


def downstream_samples(
    facts: Mapping[str, Any], options: Sequence[str], generator: Random, root: Path
) -> Iterator[Result]:
    """The downstream training JSON of the miniature dataset, with the recorded draws."""
    relations, out = root / "scene_graph_generation" / "data", root / "downstream_samples"
    files = ["--data", root, "--relations", relations, "--out", out]
    with patch("random.Random", lambda seed: generator):
        mmor("downstream", "samples", *files, "--published-memory", "--drop-history", "0", *options)
    (path,) = out.glob("*.json")
    yield compare("by command", json.loads(path.read_text()), facts["samples"], EXACT)
    shutil.rmtree(out)


class Listener(SceneGraphGenerator):
    """Notes what the model would be shown and gives the recorded answers."""

    fingerprint = "recorded"
    _tokens: Any = SimpleNamespace(conversation=conversation)

    def __init__(self, cases: Sequence[Mapping[str, Any]]) -> None:
        self.shown: dict[str, tuple[str, Evidence]] = {}
        self._answers = {case["sample_id"]: case["model_output"] for case in cases}
        self.model: Any = SimpleNamespace(settings=MM2SGConfig(), vision="sees")
        self._reader: Any = self._note

    def read(self, timepoint: Timepoint, memory: str | None) -> Any:
        """The question by its sample id."""
        super().read(timepoint, memory)
        sample_id = timepoint.sample_id
        self.shown[sample_id] = self._noted
        return SimpleNamespace(sample_id=sample_id, dropped_memory=0)

    def read_ahead(self, timepoints: Sequence[Timepoint]) -> None:
        """No file is read."""

    def answer(self, examples: Sequence[Any]) -> list[str]:
        """What the published model said."""
        return [self._answers[example.sample_id] for example in examples]

    def _note(self, evidence: Evidence, prompt: str, **_: Any) -> Example:
        self._noted = prompt, evidence
        return Example(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 3, 1, 1))


def evaluation_prompts(config: str, cases: Sequence[Mapping[str, Any]], root: Path) -> Iterator[Result]:
    """Prompts and pictures in their slots as `evaluate` gives them to the model, the takes side by side.

    The published code counts cameras among the files that exist: where that leaves another slot black or shows another
    camera, pictures are left out here and compared in the case without command.
    """
    relations, out = root / "scene_graph_generation" / "data", root / "evaluation" / f"{config}.json"
    listener = Listener(cases)
    with patch("mmor.cli.evaluator.load_generator", lambda *_: listener):
        files = ["--data", root, "--relations", relations, "--out", out]
        mmor("scene-graph", "evaluate", "--config", config, "--model-path", root, *files)
    shown = [listener.shown[case["sample_id"]] for case in cases]
    yield compare(f"{config} prompts by command", [text for text, _ in shown], [c["prompt"] for c in cases], EXACT)
    given = [[evidence.cloud is not None, evidence.audio is not None] for _, evidence in shown]
    expected = [[case["generate_kwargs"][key] is not None for key in ("pc", "audio")] for case in cases]
    yield compare(f"{config} cloud and audio by command", given, expected, EXACT)
    named, counted = Dataset(root), Dataset(root, positional_views=True)
    ours, theirs = [], []
    for (_, evidence), case in zip(shown, cases):
        name, frame = split_sample_id(case["sample_id"])
        timepoints = [dataset.take(domains.mmor().find_take(name)).timepoint(frame) for dataset in (named, counted)]
        pictures = [timepoint.collection.evaluation_pictures(timepoint.views) for timepoint in timepoints]
        if pictures[0] == pictures[1]:
            ours.append([BLACK if path is None else path.relative_to(root).as_posix() for path in evidence.views])
            theirs.append(case["image_slots"])
    yield compare(f"{config} slots by command ({len(ours)} of {len(cases)})", ours, theirs, EXACT)


def by_id(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records in a fixed order."""
    return sorted(records, key=lambda record: record["id"])


def make_take(tree: Path, seconds: Any) -> Path:
    """A take of MM-OR with an index and a list of seconds, and nothing else; returns the folder of the dataset."""
    collection = bundled("mmor").collection("MMOR")
    data = tree / collection.root
    frames = {second: dict.fromkeys(collection.frame_keys, f"{second:06d}") for second in seconds}
    index = [[f"{second:06d}", numbers] for second, numbers in frames.items()]
    write(index_place(data, TAKE, of_folder=True), json.dumps(index).encode())
    write(place(data, "seconds", TAKE), json.dumps({"timestamps": {str(s): f for s, f in frames.items()}}).encode())
    return data


def write(path: Path, content: bytes) -> None:
    """Write a file, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _remember(record: dict[str, Any], memories: Mapping[str, str], temporal: bool) -> dict[str, Any]:
    """A recorded sample without memory, with the recorded memory of its timepoint if asked for."""
    if not temporal:
        return record
    question, answer = record["conversations"]
    memory = memories[f"{record['id'].rpartition('_')[0]}_{record['timepoint']}"]
    mark = f"{IMAGE_MARK}\n"
    text = question["value"].replace(mark, f"{mark}{MEMORY_START}{memory}{MEMORY_END}.\n", 1)
    return {**record, "conversations": [{**question, "value": text}, answer]}


def _plain(record: dict[str, Any], shifted: set[str]) -> dict[str, Any]:
    """A record with its relations in order, and without pictures if they are shifted."""
    question, answer = record["conversations"]
    told = target_text(sorted(parse(answer["value"])))
    plain = {**record, "conversations": [question, {**answer, "value": told}]}
    return {key: value for key, value in plain.items() if key != "image" or record["id"] not in shifted}
