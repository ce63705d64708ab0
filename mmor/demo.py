"""The demo: a simulated take through both stages to a report, with the bundled small models or freshly trained ones."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

import torch

from computing.experiments import CONFIGS
from mmor.reports.page import write_report
from mmor.reports.pictures import Album
from mmor.reports.seconds import take_seconds
from operating_room.domain.collection import Take
from operating_room.domain.domain import mmor
from operating_room.errors import UserError
from operating_room.files.atomic import write_json
from operating_room.graphs.graph_files import load_samples
from operating_room.graphs.scene_graph import Sample
from operating_room.recordings.conversion import convert
from operating_room.recordings.dataset import Dataset
from operating_room.work.processes import cpu_threads
from operating_room.work.workers import in_workers
from operating_room_simulator.story.story import script_surgery
from operating_room_simulator.writer import synthesize
from panoptic_segmentation.config.settings import read_config
from panoptic_segmentation.data.videos import find_videos
from panoptic_segmentation.inference.predict import load as load_segmenter
from panoptic_segmentation.inference.predict import model_path, predict
from panoptic_segmentation.inference.predictions import picture_path
from panoptic_segmentation.scores.evaluate import evaluate as evaluate_masks
from panoptic_segmentation.scores.evaluate import results_path
from panoptic_segmentation.training.train import train as train_segmenter
from scene_graph_generation.config.settings import PretrainConfig, read_experiment
from scene_graph_generation.inference.evaluate import evaluate as evaluate_graphs
from scene_graph_generation.inference.evaluate import score_constant_guess
from scene_graph_generation.inference.infer import SceneGraphGenerator, infer
from scene_graph_generation.preprocess.audio import preprocess_audio
from scene_graph_generation.preprocess.embeddings import mel_encoder, preprocess_audio_embeddings
from scene_graph_generation.preprocess.masks import preprocess_masks
from scene_graph_generation.preprocess.transcripts import preprocess_transcripts
from scene_graph_generation.samples.records import SampleOptions, training_records
from scene_graph_generation.training.train import train as train_graphs
from scene_graph_generation.weights.checkpoints import load_model

# Of the test split: no model has been trained on a take of this name, or with this seed.
TAKE = mmor().find_take("004_PKA")
PICTURE_SIZE = (320, 240)  # px
REPORT_BYTES = 6_000_000
SECONDS_BYTES = 3_500_000  # of them, for the take second by second
TRAINING_SEED = 0
TRAINING_SECONDS = 120  # of each take the bundled models were trained on
SHORT_TRAINING_SECONDS = 60  # of each take for training within the demo
SHORT_SEGMENTER = (  # single small pictures: a third of the time per step
    *("SOLVER.MAX_ITER", "1000", "SOLVER.IMS_PER_BATCH", "4", "INPUT.SAMPLING_FRAME_NUM", "1"),
    *("INPUT.MIN_SIZE_TRAIN", "96", "INPUT.MIN_SIZE_TEST", "96", "MODEL.MASK_FORMER.TRAIN_NUM_POINTS", "512"),
)
SHORT_SEEING = 400  # steps before the language model is trained
SHORT_GRAPHS = 3.0  # epochs
BUNDLED = Path(__file__).parent / "checkpoints"
SEGMENTER, GRAPHS = "panoptic_small", "scene_graph_small"


def run_demo(out: Path, seconds: int, seed: int, train: bool, segmenter: Path | None = None) -> Path:
    """Simulate a take, segment it, generate its scene graphs with memory, score both and write the report.

    Args:
        out: folder for everything; what an earlier run with the same options left is used again.
        seconds: length of the take.
        seed: of the take.
        train: train both models in `out` first instead of taking the bundled ones.
        segmenter: a file or folder to take instead.

    Returns:
        the path of the report.

    Raises:
        UserError: `out` holds something else, or cannot be written; `segmenter` cannot be used, or is given to `train`.
    """
    if train and segmenter is not None:
        raise UserError("--train makes a segmenter of its own; leave out --train or --segmenter")
    if seed == TRAINING_SEED:
        raise UserError(f"seed {seed} is the training takes' own; choose another one for a take nobody trained on")
    models = out / "models" if train else BUNDLED
    if train:
        train_models(out / "training", models)
    model_file = model_path(segmenter or models / SEGMENTER)
    loaded = load_segmenter(model_file, mmor())  # first, since what is wrong with it can be told at once
    print(f"1/5 simulating {seconds} s of take {TAKE.name}, seed {seed}")
    data = out / "data"
    synthesize(data, [TAKE], seconds, seed, size=PICTURE_SIZE, workers=cpu_threads())
    convert(Dataset(data), data)
    truth = [s for s in load_samples(data / "relationships_test.json") if s.take_name == TAKE.sample_name]

    print("2/5 segmenting its annotated cameras")
    dataset = Dataset(data)
    videos = find_videos(dataset, [TAKE])
    predict(*loaded, videos, out / "panoptic", "test", model_file)
    truth_of_masks = out / "ground_truth", "ground_truth_test"
    masks_file = results_path(out / "panoptic", "test")
    quality = evaluate_masks(videos, out / "panoptic", "test", *truth_of_masks, PICTURE_SIZE).classes

    print("3/5 preparing sound, speech and small masks")
    prepare(data, [TAKE], out / "panoptic" / "inference" / "pan_pred")

    print("4/5 generating scene graphs, second by second, with memory")
    dataset = Dataset(data)
    graphs_file = out / "scene_graphs.json"
    graphs = infer(SceneGraphGenerator(*load_model(models / GRAPHS)), dataset, {TAKE: None}, graphs_file)
    scores = evaluate_graphs(truth, graphs_file, dataset.domain, out / "scene_graph_scores.json")

    print("5/5 writing the report")
    constant = score_constant_guess(training_graphs(), truth, dataset.domain).overall.macro_f1
    shown = {p: picture_path(out / "panoptic", v.video_id, p.name) for v in videos for p in v.pictures()}
    album = Album(dataset, shown)
    write_report(
        [out / "scene_graph_scores.json", masks_file],
        out / "report.html",
        dataset.domain,
        album,
        title=f"Take {TAKE.name}",
        about=f"Simulated take, seed {seed}, {seconds} s; small models trained on other simulated takes. One constant "
        f"graph, the most frequent of the training takes, would have a macro F1 of {constant:.3f}.",
        before=[take_seconds(truth, graphs, album, SECONDS_BYTES)],
        limit=REPORT_BYTES,
    )
    print(f"VPQ {quality.vpq:.1f}, scene graph macro F1 {scores.overall.macro_f1:.3f}")
    return out / "report.html"


def prepare(data: Path, takes: list[Take], masks: Path | None) -> None:
    """All files of stage 2 for `takes`: small masks from predictions, or from annotations where `masks` is None."""
    dataset = Dataset(data)
    preprocess_audio(dataset, takes).require()
    preprocess_audio_embeddings(dataset, takes, mel_encoder).require()
    preprocess_transcripts(dataset, takes).require()
    preprocess_masks(dataset, takes, masks, as_predictions=masks is None).require()


def training_graphs() -> list[Sample]:
    """The scene graphs of the training takes, which follow from their seed without any picture."""
    surgeries = [script_surgery(take, TRAINING_SEED, TRAINING_SECONDS) for take in mmor().split_takes("train")]
    return [
        Sample(surgery.take.sample_name, f"{moment.second:06d}", moment.triplets)
        for surgery in surgeries
        for moment in surgery.moments
    ]


def train_models(work: Path, models: Path) -> None:
    """Train both small models at once, one process each, on simulated takes; what is trained already is kept.

    The scene-graph model sees annotated masks here; `scripts/train_small.sh` trains it on predicted ones.
    """
    data = work / "data"
    takes = mmor().split_takes("train")
    print(f"training 1/2: simulating {len(takes)} takes of {SHORT_TRAINING_SECONDS} s and preparing them")
    synthesize(data, takes, SHORT_TRAINING_SECONDS, TRAINING_SEED, size=PICTURE_SIZE, workers=cpu_threads())
    convert(Dataset(data), data)
    prepare(data, takes, None)
    print("training 2/2: both models, one process each")
    list(in_workers(partial(_train, data, work, models), (SEGMENTER, GRAPHS), 2, "training both models"))


def _train(data: Path, work: Path, models: Path, which: str) -> None:
    torch.set_num_threads(1)
    if which == SEGMENTER:
        _train_segmenter(data, models)
    else:
        _train_graphs(data, work, models)


def _train_segmenter(data: Path, models: Path) -> None:
    config = read_config(CONFIGS / "panoptic" / "small.yaml", SHORT_SEGMENTER)
    train_segmenter(config, Dataset(data), models / SEGMENTER, models / SEGMENTER / "ground_truth", resume=True)


def _train_graphs(data: Path, work: Path, models: Path) -> None:
    if (models / GRAPHS / "model.safetensors").exists():
        return
    experiment = read_experiment(CONFIGS / "scene_graph" / "small.yaml")
    seeing = replace(experiment.pretrain or PretrainConfig(), steps=SHORT_SEEING)
    shorter = replace(experiment.train, epochs=SHORT_GRAPHS, max_steps=-1)
    experiment = replace(experiment, pretrain=seeing, train=shorter)
    samples = load_samples(data / "relationships_train.json")
    options = SampleOptions(permutations=1, temporal=True, augment_memory=False)
    records = list(training_records(Dataset(data), samples, options, Random(TRAINING_SEED)))
    write_json(work / options.file_name("train"), records)
    train_graphs(experiment, [work / options.file_name("train")], Dataset(data), models / GRAPHS)
