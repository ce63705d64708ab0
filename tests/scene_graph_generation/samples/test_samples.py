"""Training records of a small hand-made dataset: what is in them, what is drawn, what is left out."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from operating_room.errors import UserError
from operating_room.graphs.scene_graph import Sample, Triplet, parse
from operating_room.recordings.dataset import Dataset
from scene_graph_generation.samples.records import Record, SampleOptions, augment_record, training_records
from scene_graph_generation.samples.sample_modalities import PUBLISHED, mix_modalities, never_shown

SECONDS = 4
TAKE = "001_PKA"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An MM-OR take of four seconds; second 2 has a transcript and nothing else, second 3 has nothing."""
    data = tmp_path / "MM-OR_data"
    index = [[f"{i:06d}", {"azure": f"{i:06d}", "simstation": f"{i:06d}", "trackercam": f"{i:06d}"}] for i in range(4)]
    _write(data / TAKE / "timestamp_to_pcd_and_frames_list.json", index)
    for second in (0, 1):
        for camera in range(1, 6):
            _write(data / TAKE / "colorimage" / f"camera0{camera}_colorimage-{second:06d}.jpg", "")
        _write(data / "take_point_clouds_sparse" / TAKE / f"{second:06d}.pcd", "")
        _write(data / "take_audio_embeddings_per_timepoint" / TAKE / f"{second:06d}.pt", "")
        _write(
            data / "screen_summaries" / TAKE / f"{second:06d}.json", {"0": {"type": "a", "template_name": f"{second}"}}
        )
    for second in (0, 1, 2):
        _write(data / "take_transcripts_per_timepoint" / TAKE / f"{second:06d}.json", {"text": f"second {second}"})
    return tmp_path


SAMPLES = [
    Sample(f"{TAKE}_MMOR", f"{second:06d}", tuple(Triplet(*relation) for relation in relations))
    for second, relations in enumerate(
        [
            [
                ("head_surgeon", "patient", "cutting"),
                ("nurse", "patient", "closeTo"),
                ("head_surgeon", "saw", "holding"),
            ],
            [("head_surgeon", "patient", "cutting")],
            [],
            [("nurse", "drape", "preparing")],
        ]
    )
]


def _records(root: Path, seed: int = 0, **options: Any) -> list[Record]:
    return list(training_records(Dataset(root), SAMPLES, SampleOptions(**options), Random(seed)))


def test_records_hold_what_exists(root: Path) -> None:
    first, second, third = _records(root, permutations=1)  # the fourth sample has nothing to see or hear
    assert first["id"] == "001_PKA_MMOR_000000"
    assert first["timepoint"] == 0
    assert first["image"][:2] == [f"MM-OR_data/{TAKE}/colorimage/camera0{c}_colorimage-000000.jpg" for c in (1, 4)]
    assert first["pc"] == f"MM-OR_data/take_point_clouds_sparse/{TAKE}/000000.pcd"
    assert "second 1" in second["conversations"][0]["value"]
    assert third.keys() == {"id", "timepoint", "vis_knowledge_paths", "conversations"}
    assert third["conversations"][1] == {"from": "gpt", "value": "<SG> </SG>"}


def test_what_no_record_has_is_told(root: Path) -> None:
    """A training file was named after sound of which nobody had made the embeddings, without a word."""

    def told(*modalities: str) -> list[str]:
        shown: set[str] = set()
        options = SampleOptions(permutations=1, modalities=modalities or PUBLISHED)
        assert list(training_records(Dataset(root), SAMPLES, options, Random(0), None, None, shown))
        return never_shown(Dataset(root), SAMPLES, options.modalities, shown)

    step = "masks --predictions OUT/inference/pan_pred"  # without, the command would end as soon as it is copied
    masks = f"no record has PREDSEGMASKS; `mmor scene-graph preprocess {step} --data {root}` makes it"
    assert told() == [masks]
    assert told("PC", "SPEECH") == []
    shutil.rmtree(root / "MM-OR_data" / "take_audio_embeddings_per_timepoint")
    assert told() == [
        masks.replace("PREDSEGMASKS", "AUDIO").replace(step, "audio-embeddings"),
        masks,
    ]
    # A training file was named after robot logs that nobody had put into the dataset.
    (logs,) = told("PC", "ROBOTLOG")
    assert logs.startswith("no record has ROBOTLOG; ")


def test_permutations_reorder_the_relations(root: Path) -> None:
    records = [record for record in _records(root, permutations=30) if record["timepoint"] == 0]
    answers = Counter(record["conversations"][1]["value"] for record in records)
    assert len(records) == 30
    assert len(answers) == 6  # all orders of three relations
    assert len({frozenset(parse(answer)) for answer in answers}) == 1


def test_same_seed_same_records(root: Path) -> None:
    options = {"permutations": 3, "temporal": True, "mixed": True}
    assert _records(root, 5, **options) == _records(root, 5, **options)
    assert _records(root, 5, **options) != _records(root, 6, **options)


def test_memory_knows_earlier_timepoints_only(root: Path) -> None:
    records = _records(root, permutations=1, temporal=True, augment_memory=False)
    memories = [
        record["conversations"][0]["value"].split("<memory_start>: ")[1].split("<memory_end>")[0] for record in records
    ]
    holding = "head surgeon,patient,cutting; head surgeon,saw,holding"
    assert memories == [
        "Long: Short",
        f"Long: Short: {holding}",
        f"Long: Short: {holding}; head surgeon,saw,not holding",
    ]


def test_augmented_memory_is_of_several_styles(root: Path) -> None:
    questions = [
        record["conversations"][0]["value"]
        for record in _records(root, permutations=200, temporal=True)
        if record["timepoint"] == 1
    ]
    starts = Counter(
        question.partition("<memory_start>: ")[2][:5] for question in questions
    )  # "Short", "Long:", "Long" of an empty one
    assert 70 < starts[""] < 130
    assert starts["Short"]
    assert starts["Long:"] + starts["Long<"]


@pytest.mark.parametrize("frame_id", ["", "a", "-1", "²"])
def test_frame_id_that_is_no_position(root: Path, frame_id: str) -> None:
    samples = [Sample(f"{TAKE}_MMOR", frame_id, ())]
    for records in (
        training_records(Dataset(root), samples, SampleOptions(temporal=True), Random(0)),
        training_records(Dataset(root), samples, SampleOptions(), Random(0)),
    ):
        with pytest.raises(UserError, match="001_PKA"):
            list(records)


def test_mixing_swaps_what_both_have(root: Path) -> None:
    take = Dataset(root).takes()[0]
    recorded = Dataset(root).take(take)
    first, second, third = (recorded.timepoint(f"{second:06d}") for second in range(3))
    mixed = mix_modalities(first, [second], Random(0))
    assert mixed.one("audio_embedding") == second.one("audio_embedding")
    assert mixed.one("robot_screen") == second.one("robot_screen")
    assert mixed.several("room_views") == first.several("room_views")
    mixed = mix_modalities(first, [third], Random(0))
    assert mixed.one("audio_embedding") == first.one("audio_embedding")
    assert mixed.one("transcript") == third.one("transcript")
    assert mix_modalities(third, [first], Random(0)).one("audio_embedding") is None


def test_file_names_are_the_published_ones() -> None:
    assert SampleOptions().file_name("train") == (
        "train_20perm_Falsetemp_Truetempaug_AZURE_SIMSTATION_TRACKERCAM_PC_AUDIO_SPEECH_ROBOTMETA_TRACKINGMETA_PREDSEGMASKS"
        "_drophistory0.5.json"
    )
    options = SampleOptions(permutations=1, temporal=True, augment_memory=False, drop_history=0.0, mixed=True)
    assert options.file_name("val") == (
        "val_1perm_Truetemp_Falsetempaug_AZURE_SIMSTATION_TRACKERCAM_PC_AUDIO_SPEECH_ROBOTMETA_TRACKINGMETA_PREDSEGMASKS"
        "_MIXED.json"
    )


def test_augmentation_keeps_the_record_and_drops_modalities(root: Path) -> None:
    record = _records(root, permutations=1)[0]
    untouched = json.loads(json.dumps(record))
    seen = [augment_record(record, Random(seed)) for seed in range(200)]
    assert record == untouched
    assert Counter(len(view["image"]) for view in seen).keys() == {1, 2, 3, 4, 5}
    assert all(len(set(view["image"])) == len(view["image"]) for view in seen)
    assert 70 < sum("pc" in view for view in seen) < 130
    assert 70 < sum("<speech_transcript_start>" in view["conversations"][0]["value"] for view in seen) < 130
    assert all(view["conversations"][1] == record["conversations"][1] for view in seen)


def test_augmentation_of_a_record_without_anything(root: Path) -> None:
    record = _records(root, permutations=1)[2]
    assert augment_record(record, Random(0), 0.0) == record


def _write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def test_a_damaged_robot_log_costs_its_take(root: Path) -> None:
    modalities = (*PUBLISHED, "ROBOTLOG")
    options = SampleOptions(permutations=1, modalities=modalities)
    data = root / "MM-OR_data"
    shutil.copytree(data / TAKE, data / "002_PKA")
    _write(data / "take_timestamp_to_robot_logs" / "002_PKA.json", "")
    (data / "take_timestamp_to_robot_logs" / "002_PKA.json").write_text("[1,2")
    samples = [replace(sample, take_name="002_PKA_MMOR") for sample in SAMPLES[:2]] + SAMPLES[:2]
    left_out: dict[str, list[str]] = {}
    records = list(training_records(Dataset(root), samples, options, Random(0), left_out))
    assert {record["id"][:7] for record in records} == {TAKE}
    assert len(left_out) == 1


def test_names_that_nobody_could_score_are_not_learnt(root: Path) -> None:
    """As of a file with the predicate in the place of the object: evaluation refuses it, training learnt it."""
    swapped = replace(SAMPLES[1], triplets=(Triplet("head_surgeon", "cutting", "patient"),))
    left_out: dict[str, list[str]] = {}
    samples = [SAMPLES[0], swapped, *SAMPLES[2:]]
    found = training_records(Dataset(root), samples, SampleOptions(permutations=1), Random(0), left_out)
    assert [record["id"] for record in found] == ["001_PKA_MMOR_000000", "001_PKA_MMOR_000002"]
    assert [
        "001_PKA_MMOR_000001" in line and "'cutting' is no entity" in line for line in left_out[f"{TAKE}_MMOR"]
    ] == [True]
