"""The scripts that train the small models: nothing of a held-out take is learnt from."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import psutil
from PIL import Image

from operating_room.domain.domain import mmor
from operating_room.graphs.graph_files import load_samples, save_predictions, save_samples
from operating_room.graphs.scene_graph import Sample, Triplet
from operating_room.recordings.conversion import convert
from operating_room.recordings.dataset import Dataset
from operating_room_simulator import writer
from operating_room_simulator.story.annotated import annotated_surgery
from operating_room_simulator.story.news import draw_news
from operating_room_simulator.story.story import Surgery, script_surgery
from panoptic_segmentation.config.settings import save_config
from panoptic_segmentation.weights.checkpoints import build_model, save_model
from panoptic_segmentation.weights.model_card import ModelCard, read_card
from scene_graph_generation.preprocess.masks import preprocess_masks
from tests.panoptic_segmentation.training.test_panoptic_train import TINY

ROOT = Path(__file__).parents[2]


def test_training_with_eyes_learns_from_no_held_out_take(tmp_path: Path) -> None:
    """The script is run with a command that only notes what it is called with."""
    said, command = tmp_path / "said.txt", tmp_path / "mmor"
    command.write_text(f'#!/bin/sh\necho "$@" >> "{said}"\n')
    command.chmod(0o755)
    asked = os.environ | {
        "MMOR": str(command),
        "ROOMS": "3",
        "ANSWERED": "2",
        "SHORT": "2",
        "SHORT_4DOR": "1",
        "HEARD": "1",
    }
    subprocess.run(["bash", "scripts/train_eyes.sh", str(tmp_path / "work")], cwd=ROOT, env=asked, check=True)
    calls = [line.split() for line in said.read_text().splitlines()]
    assert {tuple(call[:2]) for call in calls} >= {("data", "synthesize"), ("scene-graph", "train")}
    taken = {name for call in calls for flag, name in pairwise(call) if flag == "--take"}
    more = {"501_SIM", "502_SIM", "501_4DOR", "1001_SIM"}
    assert taken == more | {f"{number}_{kind}" for number in (401, 402, 403) for kind in ("SIM", "4DOR")}
    dark = {name for call in calls for flag, name in pairwise(call) if flag == "--without-cameras"}
    assert dark == {"1001_SIM"}
    held_out = {take.name for split in ("val", "test") for take in mmor().split_takes(split)}
    assert not taken & held_out
    assert {call[call.index("--split") + 1] for call in calls if "samples" in call} == {"own"}
    assert all(call[call.index("--data") + 1] == str(tmp_path / "work" / "data") for call in calls if "--data" in call)


def test_training_the_small_models_learns_from_no_held_out_take(tmp_path: Path) -> None:
    """The script is run with commands that only note what they are called with."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "train_small.sh", tmp_path / "scripts")
    (tmp_path / "scripts" / "environment.sh").write_text("set -euo pipefail\n")
    said = tmp_path / "said.txt"
    for name in ("mmor", "python"):
        makes = 'case "$*" in *synthesize*) mkdir -p work/data work/unseen ;; esac'
        (tmp_path / name).write_text(f'#!/bin/sh\necho "$@" >> "{said}"\n{makes}\n')
        (tmp_path / name).chmod(0o755)
    command = ["bash", tmp_path / "scripts" / "train_small.sh", "work"]
    subprocess.run(command, cwd=tmp_path, env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}, check=True)
    calls = [line.split() for line in said.read_text().splitlines()]
    held_out = {"val", "test", *(take.name for split in ("val", "test") for take in mmor().split_takes(split))}
    learnt = [call for call in calls if "train" in call[:2] or {"samples", "--from-annotations"} & {*call}]
    taken = {name for call in learnt for flag, name in pairwise(call) if flag in ("--take", "--split")}
    assert taken >= {"train", "own", "501_SIM", "555_4DOR", "645_SIM", "724_4DOR", "1029_SIM"}
    assert not taken & held_out
    segmenters = [" ".join(call) for call in calls if call[:2] == ["panoptic", "train"]]
    assert len(segmenters) == 4  # coarse masks, clips, the size of the pictures, more of their cells
    assert not any("val" in call or "test" in call for call in segmenters)
    # By folder: stage 1 has one of its own, without the takes that stage 2 alone learns from, and those whose masks it
    # predicts for stage 2 are in another one.
    simulated: dict[str, set[str]] = {"data": set(), "unseen": set()}
    for call in calls:
        if "synthesize" in call:
            folder = Path(call[call.index("--out") + 1]).name
            simulated[folder] |= {name for flag, name in pairwise(call) if flag == "--take"}
    assert taken - {"own"} <= simulated["data"]
    assert {call.split("--data ")[1].split()[0] for call in segmenters} == {"work/pictures"}
    predicted = [call for call in calls if call[:2] == ["panoptic", "predict"]]
    assert [call[call.index("--data") + 1] for call in predicted] == ["work/unseen", "work/data"]
    assert len(simulated["unseen"]) == 45
    assert not simulated["unseen"] & {*simulated["data"], *held_out}


def test_what_trains_beside_the_script_fails_with_it_and_ends_with_it(tmp_path: Path) -> None:
    """Its failure was not asked for, and Ctrl-C, which the shell hides from it, left it training for hours."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "train_small.sh", tmp_path / "scripts")
    (tmp_path / "scripts" / "environment.sh").write_text("set -euo pipefail\n")
    said, number = tmp_path / "said.txt", tmp_path / "number.txt"
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["bash", tmp_path / "scripts" / "train_small.sh", "work"]

    def mmor(first_training: str) -> None:
        (tmp_path / "mmor").write_text(
            f'#!/bin/sh\necho "$@" >> "{said}"\nmkdir -p work/data\n'
            f'case "$*" in *"scene-graph train"*scene_graph_first*) {first_training} ;; esac\n'
        )
        (tmp_path / "mmor").chmod(0o755)

    mmor("exit 3")
    assert subprocess.run(command, cwd=tmp_path, env=environment, check=False).returncode == 3
    assert "561_SIM" not in said.read_text()  # what needs the first training was not begun

    mmor(f"echo $$ > {number}; exec sleep 300")
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        start_new_session=True,
        # What a shell starts in its background ignores Ctrl-C, and no script can change that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as script:
        deadline = time.monotonic() + 60
        while not (number.exists() and number.read_text().strip()) and time.monotonic() < deadline:
            time.sleep(0.1)
        os.killpg(script.pid, signal.SIGINT)  # as a terminal does it
        assert script.wait(60) != 0
    training = int(number.read_text())
    while (alive := psutil.pid_exists(training)) and time.monotonic() < deadline:
        time.sleep(0.1)
    if alive:
        os.kill(training, signal.SIGKILL)
    assert not alive


def test_a_bundled_segmenter_has_the_test_settings_of_its_training(tmp_path: Path) -> None:
    folder = tmp_path / "work" / "panoptic_small"
    folder.mkdir(parents=True)
    model = build_model("ctvis", TINY.segmenter, TINY.video)
    save_model(folder / "model.safetensors", model, ModelCard("ctvis", TINY.segmenter, TINY.video))
    save_config(replace(TINY, test=replace(TINY.test, shortest=77)), folder / "config.yaml")
    command = [sys.executable, "scripts/bundle_small.py", tmp_path / "work", tmp_path / "bundle"]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, capture_output=True)
    made = tmp_path / "bundle" / "panoptic_small" / "model.safetensors"
    assert read_card(made).preprocessing["shortest"] == 77
    assert made.stat().st_size < 0.6 * (folder / "model.safetensors").stat().st_size  # 16 bits


def test_what_is_painted_where_a_tool_is_annotated_is_told(tmp_path: Path) -> None:
    colors = {category.name: category.color for category in mmor().labels.categories}
    segment = {"category_id": 1, "area": 6, "bbox": [1, 1, 3, 2]}
    frames = [{"file_name": f"{number}.jpg", "segments_info": [segment]} for number in range(4)]
    truth = {
        "categories": [{"id": 1, "name": "saw"}],
        "videos": [{"video_id": "002_4DOR_1", "video_folder": "export_holistic_take2_processed"}],
        "annotations": [{"video_id": "002_4DOR_1", "annotations": frames}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "002_4DOR_1").mkdir()
    for number, (painted, right) in enumerate((("drill", 4), ("drill", 4), ("patient", 4), ("saw", 3))):
        picture = Image.new("RGB", (6, 4))
        picture.paste(colors[painted], (1, 1, right, 3))
        picture.paste(colors["hammer"], (5, 3, 6, 4))  # elsewhere
        picture.save(tmp_path / "002_4DOR_1" / f"{number}.png")
    command = [sys.executable, "scripts/probe_painted.py", tmp_path / "truth.json", tmp_path]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "4DOR: 4 pictures, 4 in which any of them is painted",
        "  saw: annotated in 4, 6 px; painted in its box: drill 2; none of them 1; saw 1; "
        "as itself at 0.67 of its size",
    ]


def test_triplets_with_a_predicate_and_an_entity_are_counted(tmp_path: Path) -> None:
    near, held = Triplet("circulator", "secondary_table", "closeTo"), Triplet("circulator", "drill", "holding")
    samples = [Sample("001_PKA_MMOR", f"{place:06d}", (near, held)) for place in range(4)]
    save_samples(tmp_path / "truth.json", samples)
    said = {sample.sample_id: (near,) if place < 1 else (held,) for place, sample in enumerate(samples)}
    save_predictions(tmp_path / "said.json", said)
    command = [sys.executable, "scripts/probe_triplets.py", tmp_path / "said.json", tmp_path / "truth.json"]
    for words, told in (
        (("closeTo", "secondary_table"), "4 true, 1 predicted, 1 right, F1 0.400"),
        (("holding",), "4 true, 3 predicted, 3 right, F1 0.857"),
        (("holding", "nurse"), "0 true, 0 predicted, 0 right, F1 0.000"),
    ):
        done = subprocess.run(
            [*command, *words],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == told


def test_deeds_are_learnt_from_small_masks_and_sooner_if_drawn_by_size(tmp_path: Path) -> None:
    take = mmor().find_take("301_4DOR")
    writer.synthesize(tmp_path, [take], 40, size=(96, 72))
    convert(Dataset(tmp_path), tmp_path)
    preprocess_masks(Dataset(tmp_path), [take], None, as_predictions=True).require()
    relations = tmp_path / "relationships_own.json"
    command = [sys.executable, "scripts/probe_masks.py", tmp_path, relations, "--held-out", tmp_path, relations]
    done = subprocess.run(
        [*command, "--steps", "40"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    counted, _, _, *rows = done.stdout.splitlines()
    assert counted == "40 timepoints to learn from; held out: relationships_own 40; 40 steps of 32"
    scores = {row.split("|")[1].strip(): float(row.split("|")[3]) for row in rows}
    assert len(scores) == 5
    assert min(scores["encoder drawn by size"], scores["both"]) > 0.5  # of the very timepoints that they have learnt
    assert scores["encoder"] < 0.5  # which begins without what is small, and needs more than 40 steps


def test_shuffled_deeds_are_takes_that_can_be_rendered(tmp_path: Path) -> None:
    """One deed at a time, a tool in one hand, help for whoever works; and a deed comes as often as is asked."""
    relations = tmp_path / "relationships_told.json"
    surgeries = [script_surgery(mmor().find_take(name), 0, 60) for name in ("701_SIM", "701_4DOR")]
    save_samples(relations, [sample for surgery in surgeries for sample in graphs_of(surgery)])
    command = [sys.executable, "scripts/shuffle_deeds.py", relations, "--mmor", "3", "--4dor", "2", "--out"]

    def shuffled(*words: str) -> list[Sample]:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        subprocess.run([*command, tmp_path / "shuffled.json", *words], cwd=ROOT, env=environment, check=True)
        return load_samples(tmp_path / "shuffled.json")

    samples = shuffled()
    assert samples == shuffled("--seed", "0")
    assert len({sample.take_name for sample in samples}) == 5
    deeds = {"cutting", "drilling", "sawing", "hammering", "cementing", "suturing", "cleaning"}
    for sample in samples:
        workers = {who for who, _, predicate in sample.triplets if predicate in deeds}
        assert len(workers) <= 1
        assert {whom for _, whom, predicate in sample.triplets if predicate == "assisting"} <= workers
        held = [what for _, what, predicate in sample.triplets if predicate == "holding"]
        assert len(held) == len(set(held))

    def cementing(of: list[Sample]) -> int:
        return sum(triplet.predicate == "cementing" for sample in of for triplet in sample.triplets)

    assert cementing(shuffled("--often", "cementing=20")) > cementing(samples) > 0
    take = mmor().find_take("921_SIM")
    asked = [sample for sample in samples if sample.take_name == take.sample_name]
    rendered = graphs_of(annotated_surgery(take, samples, 0, 40))
    assert [set(sample.triplets) for sample in rendered] == [set(sample.triplets) for sample in asked]


def test_slips_in_shuffling_are_told_in_one_line(tmp_path: Path) -> None:
    """A deed that nobody has was asked for in silence; names and lengths that cannot be ended in a traceback."""
    relations = tmp_path / "relationships_told.json"
    save_samples(relations, graphs_of(script_surgery(mmor().find_take("701_SIM"), 0, 60)))
    command = [sys.executable, "scripts/shuffle_deeds.py", relations, "--out", tmp_path / "out.json", "--4dor", "0"]
    for words, told in (
        (["--often", "cement=4"], "'cement=4' must be like cementing=4"),
        (["--often", "cementing"], "'cementing' must be like cementing=4"),
        (["--4dor", "1", "--first", "5000"], "take name '5000_4DOR'"),
        (["--seconds", "61"], "no take of MMOR in the files given has 61 timepoints"),
        (["--4dor", "1"], "no take of 4DOR in the files given has 40 timepoints"),
    ):
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run([*command, *words], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 2
        assert told in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "out.json").exists()


def graphs_of(surgery: Surgery) -> list[Sample]:
    return [Sample(surgery.take.sample_name, f"{moment.second:06d}", moment.triplets) for moment in surgery.moments]


def test_people_on_their_way_are_counted() -> None:
    """Whoever breaks sterility has arrived, which is not so for all that is done."""
    script = [sys.executable, str(ROOT / "scripts" / "probe_walking.py"), "--takes", "4", "--breaches", "8"]
    told = subprocess.run(script, capture_output=True, text=True, check=True).stdout.splitlines()
    cells = [line.strip("| ").split(" | ") for line in told if line.endswith("% |")]
    rows = {name: (int(count), float(share.removesuffix("%"))) for name, count, share in cells}
    assert rows.keys() == {"closeTo", "touching", "manipulating", "preparing", "breach"}
    listed = [float(line.split()[-3]) for line in told if line.endswith(" m away")]
    count, share = rows["breach"]
    assert len(listed) == count > 50
    assert share == round(100 * sum(distance > 0.6 for distance in listed) / count, 1) < 10
    assert 0 < rows["manipulating"][1] < 50


def test_who_tells_a_deed_is_asked_of_the_seed_that_a_take_was_simulated_with(tmp_path: Path) -> None:
    """With the usual seed for takes of another one the table was of other senses, without a word."""
    take, seed = mmor().find_take("901_SIM"), 7
    dark = writer.Faults(no_cameras=(take.name,))
    writer.synthesize(tmp_path, [take], 40, seed, size=(96, 72), faults=dark, news=True)
    convert(Dataset(tmp_path), tmp_path)
    samples = load_samples(tmp_path / "relationships_own.json")
    save_predictions(tmp_path / "said.json", {sample.sample_id: sample.triplets for sample in samples})
    files = [str(tmp_path / name) for name in ("said.json", "", "relationships_own.json")]
    command = [sys.executable, "scripts/probe_witnesses.py", *files]
    told = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()[2:]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in told]
    news = draw_news(take, seed, 40)
    assert rows
    assert all(witness == news.witness(deed) and right == count for deed, witness, count, right, _ in rows)
    assert any(draw_news(take, 2026, 40).witness(deed) != witness for deed, witness, *_ in rows)
