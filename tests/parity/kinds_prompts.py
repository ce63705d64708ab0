"""Cases of prompts, dataset items, training records, the category table, the conversation and the sampler."""

from __future__ import annotations

import re
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import torch

from operating_room.domain.domain import mmor
from operating_room.graphs.graph_files import load_samples
from operating_room.graphs.memory import Memory, truncate
from operating_room.graphs.prompts import IMAGE_MARK, conversation, drop_blocks, human_prompt, metadata_blocks
from operating_room.graphs.scene_graph import Sample, Triplet, as_triplets, parse, target_text
from operating_room.graphs.similarity import SimilarSamples
from operating_room.recordings.dataset import Dataset
from operating_room.recordings.questions import timepoint_prompt
from operating_room.recordings.timepoint import Timepoint
from operating_room.scores.downstream import read_labels
from scene_graph_generation.inputs.example import IGNORED, IMAGE
from scene_graph_generation.inputs.tokens import train_tokens
from scene_graph_generation.samples.downstream_samples import (
    downstream_file_name,
    downstream_records,
    graph_records,
)
from scene_graph_generation.samples.records import SampleOptions, augment_record, training_records
from scene_graph_generation.samples.sample_modalities import MODALITIES
from scene_graph_generation.samples.sampler import length_grouped_order
from tests.parity import commands
from tests.parity.case import EXACT, Result, compare, load_json
from tests.parity.commands import BLACK

END_TOKEN = "</s>"
_ORDER = re.compile(r"all_(?P<sign>negative|positive)_(?:batch(?P<batch>\d+)_world(?P<world>\d+)|\d+_samples)")
WITHOUT_MASKS = tuple(name for name in MODALITIES if name != "PREDSEGMASKS")  # switched off in the published code


class Scripted(Random):
    """A source of randomness that gives recorded draws and leaves every order as it is."""

    def __init__(self, draws: Sequence[Any]) -> None:
        super().__init__(0)
        self.draws = list(draws)

    def random(self) -> float:
        """The next recorded number."""
        draw = self.draws.pop(0)
        return draw if isinstance(draw, float) else {"random": draw[1]}[draw[0]]

    def choice(self, seq: Any) -> Any:
        """The next recorded choice, which must have been one among the same options."""
        _, options, chosen = self.draws.pop(0)
        assert list(seq) == options, f"choice among {seq} instead of {options}"
        return chosen

    def randrange(self, start: int, stop: int | None = None, step: int = 1) -> int:
        """The first of the piles that records are dealt to before they are shuffled."""
        return 0

    def shuffle(self, x: Any) -> None:
        """Nothing."""


def prompts(folder: Path) -> Iterator[Result]:
    """The files of the folder `prompts`, with its miniature dataset."""
    files = {path.name.split(".")[0]: path for path in sorted(folder.glob("*.json.gz"))}
    archive = files.keys() - {"templates", "evaluation_truncation"}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        if archive:
            with tarfile.open(folder / "mini_dataset.tar.gz") as tree:
                tree.extractall(root, filter="data")
        for name, path in files.items():
            for result in _PROMPT_FILES[name](load_json(path), root):
                yield Result(f"{name} {result.name}", result.error, result.tolerance, result.where)


def _templates(facts: Any, _: Path) -> Iterator[Result]:
    humans, targets = [], []
    for case in facts["cases"]:
        robot, tracker, memory = case["robot_metadata"], case["tracker"], case["memory"]
        speech = None if case["speech_transcript"] is None else case["speech_transcript"]["text"]
        humans.append(human_prompt(mmor().language, robot, tracker, speech, memory))
        if any(
            mark in humans[-1].replace(f"{IMAGE_MARK}\n", "", 1)[: -len(mmor().language.question)] for mark in MARKS
        ):
            humans[-1] = _published_prompt(metadata_blocks(mmor().language, robot, tracker, speech), memory)
        targets.append(target_text(as_triplets(case["relationships_sub_obj_pred"])))
    yield compare("human", humans, [case["human"] for case in facts["cases"]], EXACT)
    yield compare("target", targets, [case["target"] for case in facts["cases"]], EXACT)


MARKS = ("Entities: ", IMAGE_MARK)


def _published_prompt(blocks: Sequence[str], memory: str | None) -> str:
    """The prompt by replacing text: it repeats blocks where metadata hold a mark, which ours never does (fix 5)."""
    text = mmor().language.question
    for block in blocks:
        text = text.replace(MARKS[0], block + MARKS[0])
    text = f"{IMAGE_MARK}\n{text}"
    if memory is not None:
        text = text.replace(f"{IMAGE_MARK}\n", f"{IMAGE_MARK}\n<memory_start>: {memory}<memory_end>.\n")
    return text


def _dataset_items(facts: Any, root: Path) -> Iterator[Result]:
    dataset = Dataset(root, positional_views=True)
    for split, items in facts["splits"].items():
        samples = [Sample.from_record(item["sample"]) for item in items]
        timepoints = [_timepoint(dataset, sample) for sample in samples]
        ours = [_item(timepoint, item["multimodal_data"], root) for timepoint, item in zip(timepoints, items)]
        yield compare(f"{split} items", ours, [item["multimodal_data"] for item in items], EXACT)
        masks = [_paths(list(timepoint.several("masks").values()), root) or None for timepoint in timepoints]
        yield compare(f"{split} masks", masks, [item["segmasks_if_enabled"] for item in items], EXACT)
        if items[0]["similar_samples"] is not None:
            similar = SimilarSamples(samples, mmor())
            ids = [[samples[other].sample_id for other in similar.similar(index)] for index in range(len(samples))]
            yield compare(f"{split} similar samples", ids, [item["similar_samples"] for item in items], EXACT)


def _item(timepoint: Timepoint, theirs: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """A timepoint as the published dataset class returns it: views always as lists, the rest only where present."""
    views = {
        "azure": list(timepoint.several("room_views").values()),
        "simstation": list(timepoint.several("station_views").values()),
        "trackercam": [timepoint.several("tracker_view").get("trackercam")],
    }
    files = {
        "pc": timepoint.one("point_cloud"),
        "robot_metadata": timepoint.one("robot_screen"),
        "audio": timepoint.one("audio_embedding"),
        "raw_audio": timepoint.one("audio"),
        "speech_transcript": timepoint.one("transcript"),
    }
    item = {name: _paths(paths, root) for name, paths in views.items()}
    item = {name: paths for name, paths in item.items() if paths or name in theirs}  # 4D-OR has no station, no tracker
    item |= {name: _paths([path], root) for name, path in files.items() if path is not None}
    return item | ({} if timepoint.tracker is None else {"tracker": [timepoint.tracker]})


def _training_samples(facts: Any, root: Path) -> Iterator[Result]:
    dataset = Dataset(root, positional_views=True)
    samples = _split_samples(root, "train")
    for name, temporal, draws in (("non_temporal", False, ()), ("temporal", True, facts["temporal_p"])):
        options = SampleOptions(permutations=1, temporal=temporal)
        file_name = options.file_name("train")
        yield compare(f"{name} file name", file_name in facts["file_names_written"], True, EXACT)
        options = replace(options, drop_history=0.0, modalities=WITHOUT_MASKS)
        records = list(training_records(dataset, samples, options, Scripted(draws)))
        yield compare(name, records, facts[name], EXACT)
    texts = {}
    memories: dict[str, Memory] = {}
    for sample in samples:
        memory = memories.setdefault(sample.take_name, Memory(mmor().language.forgotten_spellings))
        texts[f"{sample.take_name}_{int(sample.frame_id)}"] = memory.text()
        memory.add(parse(target_text(sample.triplets)), int(sample.frame_id))
    yield compare("memory", texts, facts["take_timepoint_to_memory_str"], EXACT)
    yield from commands.training_samples(facts, root)


def _downstream_samples(facts: Any, root: Path) -> Iterator[Result]:
    dataset = Dataset(root)
    samples = _split_samples(root, "train")
    labels, problems = read_labels(dataset, samples)
    yield compare("labels that cannot be used", problems, [], EXACT)
    graphs = facts["all_scene_graphs_train_GT"]
    for name, augment in (("with_temporal_augmentation", True), ("without", False)):
        theirs = facts[name]
        yield compare(
            f"{name} file name", downstream_file_name("train", augment, published_memory=True), theirs["file"], EXACT
        )
        generator = Scripted(theirs["draws"])
        per_timepoint = len(theirs["samples"]) // len(graphs)
        made = downstream_records(
            samples, labels, mmor(), generator, per_timepoint, augment, 0.0, published_memory=True
        )
        records = list(made)
        yield compare(name, records, theirs["samples"], EXACT)
        yield compare(f"{name} draws left", len(generator.draws), 0, EXACT)
        options = ["--per-timepoint", str(per_timepoint), f"--{'' if augment else 'no-'}temporal-augmentation"]
        for result in commands.downstream_samples(theirs, options, Scripted(theirs["draws"]), root):
            yield replace(result, name=f"{name} {result.name}")
    ids = {graph["sample_id"] for graph in graphs}  # the published file has MM-OR only
    yield compare("graphs", graph_records(s for s in samples if s.sample_id in ids), graphs, EXACT)


def _evaluation_prompts(facts: Any, root: Path) -> Iterator[Result]:
    dataset = Dataset(root, positional_views=True)
    samples = {sample.sample_id: sample for sample in _split_samples(root, "test")}
    for name, cases in facts["configs"].items():
        memories: dict[str, Memory] = {}
        ours = []
        for case in cases:
            sample = samples[case["sample_id"]]
            timepoint = _timepoint(dataset, sample)
            memory = memories.setdefault(sample.take_name, Memory(mmor().language.forgotten_spellings))
            told = truncate(memory.text()) if "temporal" in name else None
            memory.add(parse(case["model_output"]), int(sample.frame_id))
            pictures = timepoint.collection.evaluation_pictures(timepoint.views)
            slots = [BLACK if path is None else str(path.relative_to(root)) for path in pictures]
            present = (timepoint.one("point_cloud") is not None, timepoint.one("audio_embedding") is not None)
            ours.append((conversation(timepoint_prompt(timepoint, told)), slots, present))
        yield compare(f"{name} prompt", [prompt for prompt, _, _ in ours], [c["prompt"] for c in cases], EXACT)
        yield compare(f"{name} slots", [slots for _, slots, _ in ours], [c["image_slots"] for c in cases], EXACT)
        arguments = [case["generate_kwargs"] for case in cases]
        given = [[kwargs[key] is not None for key in ("pc", "audio")] for kwargs in arguments]
        yield compare(f"{name} cloud and audio", [present for _, _, present in ours], given, EXACT)
        yield from commands.evaluation_prompts(name, cases, root)


def _evaluation_truncation(facts: Any, _: Path) -> Iterator[Result]:
    memory = Memory(mmor().language.forgotten_spellings)
    for time, relations in facts["history_t_sub_pred_obj"]:
        memory.add([Triplet(s, o, p) for s, p, o in relations], time)
    prompt = conversation(human_prompt(mmor().language, None, None, None, truncate(memory.text())))
    yield compare("prompt", prompt, facts["prompt"], EXACT)


_PROMPT_FILES = {
    "templates": _templates,
    "dataset_items": _dataset_items,
    "training_samples": _training_samples,
    "downstream_samples": _downstream_samples,
    "evaluation_prompts": _evaluation_prompts,
    "evaluation_truncation": _evaluation_truncation,
}


def category_table(path: Path) -> Iterator[Result]:
    """The table of segmentation categories."""
    facts = load_json(path)
    ours = [
        {
            "track": category.name,
            "color_rgb": list(category.color),
            "label": category.label,
            "category_id": category.category_id,
            "panoptic_id_train": category.category_id * 10,
            "segment_id_from_colour": category.color_id,
        }
        for category in mmor().labels.categories
    ]
    yield compare("classes", ours, facts["classes"], EXACT)
    mistakes = {str(label): name for label, name in mmor().labels.mistakes.items()}
    yield compare("known mistakes", mistakes, facts["likely_mistake_labels_ignored"], EXACT)


def conversation_case(path: Path) -> Iterator[Result]:
    """Conversation around a question, what is learnt of it, and what training leaves out at random."""
    facts = load_json(path)
    human, answer = facts["human"], facts["answer"]
    asked = conversation(human)
    full = f"{asked} {answer}{END_TOKEN}"
    yield compare("generation prompt", asked, facts["generation_prompt"], EXACT)
    yield compare("full prompt", full, facts["full_prompt"], EXACT)
    yield compare("learnt characters", [len(asked), len(full)], facts["supervised_characters"], EXACT)
    yield compare("learnt text", full[len(asked) :], facts["supervised_text"], EXACT)
    tokens = train_tokens([full], 600, mmor().language)
    ids, learnt = tokens.encode(asked, answer)
    learnt = [token for token in learnt if token != IGNORED]
    said = facts["supervised_text"].removesuffix(END_TOKEN)
    yield compare("learnt by our tokens", [tokens.decode(learnt), learnt[-1]], [said, tokens.end_id], EXACT)
    yield compare("tokens of the picture", ids.count(IMAGE), facts["toy"]["input_ids"].count(IMAGE), EXACT)
    toy = facts["toy"]
    starts = [start for start, _ in toy["character_spans"]]
    labels = [token if start >= len(asked) else IGNORED for token, start in zip(toy["input_ids"], starts)]
    yield compare("toy labels", labels, toy["labels"], EXACT)
    dropout = facts["modality_dropout"]
    for probability, kept in dropout["samples"].items():
        text = drop_blocks(human, float(probability), Random(facts["seed"]))
        theirs = dropout[f"user_text_with_drop_probability_{float(probability):.0f}"]
        yield compare(f"text, drop probability {probability}", text, theirs, EXACT)
        yield compare(f"pictures, drop probability {probability}", *_pictures(facts["seed"], kept, probability), EXACT)


def _pictures(seed: int, kept: Mapping[str, Any], probability: str) -> tuple[list[str], list[str]]:
    """Our and their pictures: the first of the shuffled list, as many as were read."""
    names = ["camera01_colorimage-0.png", "camera02_colorimage-0.png", "simstation_camera01_0.png"]
    record = {"image": names, "conversations": [{"value": ""}, {"value": ""}]}
    ours = augment_record(record, Random(seed), float(probability))["image"]
    return ours, kept["order_of_the_list_after_the_call"][: kept["images_shape"][0]]


def sampler(path: Path) -> Iterator[Result]:
    """Order of the samples, grouped by length."""
    facts = load_json(path)
    lengths = facts["lengths"]
    for name, theirs in facts.items():
        if (how := _ORDER.fullmatch(name)) is None:
            continue
        generator = torch.Generator().manual_seed(facts["seed"])
        signed = [-n if how["sign"] == "negative" else n for n in lengths[: len(theirs)]]
        order = length_grouped_order(signed, int(how["batch"] or 4), int(how["world"] or 4), generator)
        yield compare(name, order, theirs, EXACT)


def _split_samples(root: Path, split: str) -> list[Sample]:
    return load_samples(root / "scene_graph_generation" / "data" / f"relationships_{split}.json")


def _timepoint(dataset: Dataset, sample: Sample) -> Timepoint:
    return dataset.take(mmor().find_take(sample.take_name)).timepoint(sample.frame_id)


def _paths(paths: Sequence[Path | None], root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in paths if path is not None]


KINDS = {
    "prompts": prompts,
    "category_table": category_table,
    "conversation": conversation_case,
    "sampler": sampler,
}
