"""EgoExOR's published samples, written and read (facts of egoexor.md, section 8), and its two ways of asking."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

pytest.importorskip("h5py", reason="h5py is not installed (extra egoexor)")

from operating_room.domain.domain import bundled
from operating_room.errors import UserError
from operating_room.graphs.graph_files import load_samples
from operating_room.graphs.prompts import SYSTEM, conversation, human_prompt
from operating_room.graphs.scene_graph import Sample, Triplet
from operating_room.importers.egoexor.importing import import_egoexor
from operating_room.recordings.dataset import Dataset
from scene_graph_generation.inputs.evidence import Evidence
from scene_graph_generation.samples.egoexor import (
    place_of,
    published_file_name,
    published_frequency_name,
    published_records,
)
from scene_graph_generation.samples.records import SampleOptions, training_records
from scene_graph_generation.samples.sample_modalities import choose_modalities
from tests.operating_room.importers.tiny_egoexor import tiny_take, write_legacy

LANGUAGE = bundled("egoexor").language
PROMPT = (  # section 8, exact
    "Entities: [assistant, anaesthetist, circulator, head surgeon, operating table, operating room, "
    "instrument table, antiseptic, anesthesia equipment, bin, body marker, cotton, gloves, health monitor, "
    "instruments, microscope controller, microscope eye, microscope screen, needle, patient, scalpel, "
    "scissors, forceps, curette, tissue mark, tissue paper, ultrasound gel, ultrasound machine, ultrasound "
    "probe, ultrasound screen, unsterile instruments, vertebrae, herbal disk, dressing material]. Predicates: "
    "[disinfection, close to, touching, cutting, holding, lying on, manipulating, preparing, scanning, "
    "positioning, controlling, looking, inserting, injecting, dropping, applying, dressing, entering, "
    "removing, aspirating, wearing, anaesthetising]. Given the following scene graph memory representation, "
    "generate a scene graph for timepoint T. The output should strictly be a list of triplets, each in the "
    'format "entity1,entity2,predicate;". Do not provide a narrative or descriptive text.'
)
TRIPLETS = (
    Triplet("patient", "operating_table", "lyingon"),
    Triplet("anesthetist", "operating_table", "closeto"),
    Triplet("head_surgeon", "microscope", "looking"),
)
SAMPLES = [Sample("MISS_1_1", "000000", TRIPLETS), Sample("MISS_1_1", "000003", TRIPLETS[:1])]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.mktemp("egoexor")
    import_egoexor(write_legacy(root / "miss_1.h5", [tiny_take("MISS", frames=4)]), root / "data")
    return Dataset(root / "data")


def test_the_prompt_is_the_published_one() -> None:
    assert human_prompt(LANGUAGE, None, None, None, None) == f"<image>\n{PROMPT}"


def test_roles() -> None:
    """Section 9: trained with Vicuna's roles, evaluated with those of the JSON."""
    assert conversation("a") == f"{SYSTEM} USER: a ASSISTANT:"
    assert conversation("a", ("human", "gpt")) == f"{SYSTEM} human: a gpt:"


def test_published_form(dataset: Dataset) -> None:
    """Section 8: keys, plain numbers, modalities in its words, targets as (subject, object, predicate)."""
    records = list(published_records(dataset, SAMPLES, 4, Random(0)))
    assert [record["id"] for record in records] == [f"MISS_1_1_{frame}_{n}" for frame in (0, 3) for n in range(4)]
    first = records[0]
    assert list(first) == ["id", "timepoint", "hdf5_indices", "conversations"]
    assert {**first["hdf5_indices"], "available_modalities": sorted(first["hdf5_indices"]["available_modalities"])} == {
        "surgery_type": "MISS",
        "procedure_id": 1,
        "take_id": 1,
        "frame_idx": 0,
        "available_modalities": [
            *("audio", "ego_frames", "exo_frames", "eye_gaze", "eye_gaze_depth", "hand_tracking", "point_cloud"),
        ],
    }
    assert first["conversations"][0] == {"from": "human", "value": f"<image>\n{PROMPT}"}
    assert records[4]["conversations"][1] == {"from": "gpt", "value": "<SG> patient,operating table,lyingon </SG>"}
    said = {record["conversations"][1]["value"] for record in records[:4]}
    assert len(said) > 1  # every permutation has an order of its own
    assert {part for text in said for part in text.removeprefix("<SG> ").removesuffix(" </SG>").split("; ")} == {
        "patient,operating table,lyingon",
        "anesthetist,operating table,closeto",
        "head surgeon,microscope,looking",
    }


def test_file_names() -> None:
    options = SampleOptions(permutations=4, augment_memory=False)
    assert published_file_name("train", options) == "train_4perm_Falsetemp_Falsetempaug_EgoExOR_drophistory0.5.json"
    plain = SampleOptions(permutations=1, augment_memory=False, drop_history=0.0)
    assert published_file_name("test", plain) == "test_1perm_Falsetemp_Falsetempaug_EgoExOR.json"
    assert published_frequency_name(4) == "test_token_freqs_7b_4perm_EgoExOR.json"


def test_published_samples_are_read_as_timepoints_of_imported_takes(dataset: Dataset, tmp_path: Path) -> None:
    records = list(published_records(dataset, SAMPLES, 1, Random(0)))
    path = tmp_path / "test_1perm_Falsetemp_Falsetempaug_EgoExOR_5k_samples_drophistory0.5.json"
    path.write_text(json.dumps(records))
    samples = load_samples(path)
    assert [(sample.sample_id, sorted(sample.triplets)) for sample in samples] == [
        ("MISS_1_1_000000", sorted(Triplet(*(name.replace("_", " ") for name in t)) for t in TRIPLETS)),
        ("MISS_1_1_000003", [Triplet("patient", "operating table", "lyingon")]),
    ]
    take = dataset.take(dataset.domain.find_take(samples[0].take_name))
    assert take.timepoint(samples[1].frame_id).one("gaze") is not None


@pytest.mark.parametrize(
    "change",
    [{"hdf5_indices": {"surgery_type": "MISS"}}, {"conversations": []}, {"hdf5_indices": None}],
)
def test_samples_of_another_form_are_refused(dataset: Dataset, tmp_path: Path, change: dict[str, Any]) -> None:
    (record,) = published_records(dataset, SAMPLES[:1], 1, Random(0))
    (tmp_path / "s.json").write_text(json.dumps([{**record, **change}]))
    with pytest.raises(UserError, match=r"s\.json: a sample of EgoExOR needs hdf5_indices"):
        load_samples(tmp_path / "s.json")


@pytest.mark.parametrize(
    "target",
    [
        *("I cannot see", "", "<SG> assistant,patient,holding", "<SG> assistant,patient </SG>"),
        *("<SG> assistant,patient,holding; bin </SG>", "<SG> assistant,,holding </SG>", "<SG> <SG> </SG>"),
    ],
)
def test_a_target_that_is_no_graph_is_named(dataset: Dataset, tmp_path: Path, target: str) -> None:
    (record,) = published_records(dataset, SAMPLES[:1], 1, Random(0))
    record["conversations"][1]["value"] = target
    (tmp_path / "s.json").write_text(json.dumps([record]))
    with pytest.raises(UserError, match=r"s\.json: sample MISS_1_1_000000 must have a target <SG> subject,object"):
        load_samples(tmp_path / "s.json")


@pytest.mark.parametrize(
    ("target", "graph"),
    [("<SG> </SG>", ()), ("<SG>assistant,patient,holding; </SG>\n", (Triplet("assistant", "patient", "holding"),))],
)
def test_targets_with_blanks_are_graphs(
    dataset: Dataset, tmp_path: Path, target: str, graph: tuple[Triplet, ...]
) -> None:
    (record,) = published_records(dataset, SAMPLES[:1], 1, Random(0))
    record["conversations"][1]["value"] = target
    (tmp_path / "s.json").write_text(json.dumps([record]))
    assert load_samples(tmp_path / "s.json")[0].triplets == graph


@pytest.mark.parametrize("name", ["001_PKA_MMOR", "MISS_1", "MISS_1_x"])
def test_takes_of_others_have_no_place(name: str) -> None:
    with pytest.raises(UserError, match="is no take of EgoExOR"):
        place_of(name)


def test_samples_of_the_house_layout_have_all_that_the_takes_have(dataset: Dataset) -> None:
    modalities = choose_modalities(None, dataset.domain)
    (record,) = training_records(dataset, SAMPLES[:1], SampleOptions(1, modalities=modalities), Random(0))
    folder = "takes/MISS_1_1"
    assert record["image"][:4] == [
        f"{folder}/views/{name}/000000.jpg" for name in ("head_surgeon", "assistant", "circulator", "anesthetist")
    ]
    assert record["ego_image"] == {str(n): record["image"][n - 1] for n in range(1, 5)}  # section 3.1: numbers 1 to 4
    assert (record["gaze"], record["hands"]) == (f"{folder}/gaze/000000.npy", f"{folder}/hands/000000.npy")
    assert record["pc"] == f"{folder}/clouds/000000.npz"
    told = Evidence.of_record(record, dataset.root)
    shown = Evidence.of_timepoint(dataset.take(dataset.domain.find_take("MISS_1_1")).timepoint("000000"))
    assert (told.ego, told.others) == (shown.ego, shown.others)
    assert set(told.views) == set(shown.views)
