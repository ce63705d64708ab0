"""`mmor panoptic`: from the cameras of takes to panoptic masks and their VPQ."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from mmor.cli.options import (
    CPUS,
    Data,
    DomainFile,
    Gpus,
    Part,
    Takes,
    Workers,
    chosen_domain,
    experiment_file,
    note_left_out,
    open_dataset,
    open_takes,
    parse_size,
    segmenter_file,
    tell_part_done,
)

app = typer.Typer(help="Panoptic masks: train, predict, score.", no_args_is_help=True)

ConfigFile = Annotated[Path | None, typer.Option(help="Experiment file with the published keys (default: small.yaml).")]
Overrides = Annotated[list[str] | None, typer.Argument(help="KEY VALUE pairs that override the file.")]
Model = Annotated[Path, typer.Option(help="Model file, or a folder that holds one and its config.yaml.")]
ModelConfig = Annotated[
    Path | None,
    typer.Option("--config-file", help="Experiment file of a published .pth (default: config.yaml beside)."),
]
PredictedTakes = Annotated[
    list[str] | None,
    typer.Option("--take", help="Take or split; repeat for several (default: all that are predicted)."),
]
Name = Annotated[str, typer.Option(help="Of the prediction file, pred_NAME.json.")]
AllFrames = Annotated[bool, typer.Option("--all-frames", help="Also frames without annotated mask.")]
Frames = Annotated[int | None, typer.Option(help="Only the first N frames of each camera, for a first try.", min=1)]
Dtype = Annotated[
    str | None,
    typer.Option(help="float32 (published), bfloat16 or float16: of products on the GPU. Sets TEST.DTYPE."),
]
Blend = Annotated[bool, typer.Option("--blend", help="Also write each picture with its masks drawn over it.")]


@app.command("train")
def train(
    config_file: ConfigFile = None,
    data: Data = Path("data"),
    domain: DomainFile = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the model (default: OUTPUT_DIR of the file).")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint in the folder, if there is one.")
    ] = False,
    eval_only: Annotated[
        bool, typer.Option("--eval-only", help="Predict and score DATASETS.TEST with MODEL.WEIGHTS instead.")
    ] = False,
    num_gpus: Gpus = 1,
    num_machines: Annotated[int, typer.Option(help="Machines; start the command on each.", min=1)] = 1,
    machine_rank: Annotated[int, typer.Option(help="Number of this machine, from 0.", min=0)] = 0,
    dist_url: Annotated[str, typer.Option(help="tcp://HOST:PORT of machine 0.")] = "auto",
    report_to: Annotated[str, typer.Option(help="wandb: log there too.")] = "none",
    ground_truth: Annotated[
        Path | None, typer.Option(help="Folder of the prepared ground truth (default: in the model's).")
    ] = None,
    workers: Workers = CPUS,
    dry: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would happen: data, steps, files, memory, problems.")
    ] = False,
    overrides: Overrides = None,
) -> None:
    """Train a segmenter, or evaluate one."""
    from mmor.launch import check_machines, note_tasks, start_processes
    from operating_room.errors import UserError
    from operating_room.work.processes import is_first, is_started, machines, share
    from panoptic_segmentation.config.settings import read_config

    check_machines(num_machines, machine_rank, dist_url)

    config = read_config(segmenter_file(config_file), overrides or ())
    of_training = {"--resume": resume, "--dry-run": dry, "--report-to": report_to != "none"}
    if eval_only and (given := [option for option, is_given in of_training.items() if is_given]):
        raise UserError(f"{given[0]} is of a training, --eval-only scores MODEL.WEIGHTS; leave out one of the two")
    folder = out or Path(config.output_folder)
    prepared = ground_truth or folder / "ground_truth"
    if dry:
        from panoptic_segmentation.training.dry_run import dry_run

        # A start by torchrun, on several machines perhaps, knows of all processes.
        started, on = (share().processes, machines()) if is_started() else (num_gpus * num_machines, num_machines)
        report = dry_run(config, data, folder, resume, started, report_to, chosen_domain(domain), on)
        if not is_first():
            return
        typer.echo(report.text)
        if report.problems:
            raise UserError(f"training would not start: {len(report.problems)} problems, see above")
        return
    if num_machines == 1:
        note_tasks()
    if num_gpus * num_machines > 1 and not is_started():
        start_processes(num_gpus, num_machines, machine_rank, dist_url)
        return
    dataset = open_dataset(data, domain)
    if eval_only:
        from panoptic_segmentation.scores.evaluate import predict_and_evaluate

        for evaluation in predict_and_evaluate(config, dataset, folder, prepared, workers, share()):
            typer.echo(str(evaluation))
        return
    from panoptic_segmentation.training.train import train

    path = train(config, dataset, folder, prepared, resume=resume, workers=workers, report_to=report_to)
    if is_first():
        typer.echo(f"model in {path}")


@app.command("predict")
def predict(
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder that gets inference/pan_pred and the prediction file.")],
    config_file: ModelConfig = None,
    data: Data = Path("data"),
    domain: DomainFile = None,
    take: Takes = None,
    name: Name = "test",
    all_frames: AllFrames = False,
    limit: Frames = None,
    blend: Blend = False,
    dtype: Dtype = None,
    num_gpus: Gpus = 1,
    part: Part = None,
    overrides: Overrides = None,
) -> None:
    """Segment the annotated cameras of takes. Videos that are predicted already are kept."""
    from mmor.launch import divide
    from panoptic_segmentation.data.videos import first_frames
    from panoptic_segmentation.inference.blends import write_blends
    from panoptic_segmentation.inference.predict import LeftOut, load, predict, read_test_config, videos_to_predict

    if (own := divide(num_gpus, part)) is None:
        return
    dataset, takes = open_takes(data, domain, take)
    lost: list[str] = []
    videos = first_frames(videos_to_predict(dataset, takes, not all_frames, lost), limit)
    keys = [*(overrides or ()), *_dtype_key(dtype)]
    config = read_test_config(model, config_file and experiment_file(config_file), keys)
    collects = own.together and own.rank == 0
    try:
        path = predict(*load(model, dataset.domain, config), videos, out, name, model, own)
        if collects:
            typer.echo(f"predictions in {path}")
    except LeftOut as error:
        lost.append(str(error))
    if blend and collects:
        lost += write_blends(videos, out)
    note_left_out(own, lost)
    tell_part_done(own)
    if lost and collects:
        raise LeftOut("; ".join(lost))


@app.command("export-masks")
def export_masks(
    model: Model = Path("output_CTVIS_R50_HybridOR_withsimstation"),
    out: Annotated[Path | None, typer.Option(help="Folder of the predictions (default: masks in the model's).")] = None,
    config_file: ModelConfig = None,
    data: Data = Path("data"),
    domain: DomainFile = None,
    take: Takes = None,
    all_frames: AllFrames = False,
    limit: Frames = None,
    dtype: Dtype = None,
    num_gpus: Gpus = 1,
    part: Part = None,
) -> None:
    """Predict all masks that stage 2 reads. Split by split; run again, it goes on where it stopped.

    Nothing looks into the future, unless the model is the offline one.
    """
    from mmor.launch import divide
    from panoptic_segmentation.inference.predict import export_masks

    if (own := divide(num_gpus, part)) is None:
        return
    config = config_file and experiment_file(config_file)
    folder = out or (model if model.is_dir() else model.parent) / "masks"
    dataset = open_dataset(data, domain)
    keys = _dtype_key(dtype)
    for path in export_masks(model, config, dataset, folder, take, not all_frames, own, limit, keys):
        if own.together and own.rank == 0:
            typer.echo(f"predictions in {path}")
    tell_part_done(own)


def _dtype_key(dtype: str | None) -> list[str]:
    return [] if dtype is None else ["TEST.DTYPE", dtype]


@app.command("evaluate")
def evaluate(
    out: Annotated[Path, typer.Option(help="Folder with the predictions; gets the scores.")],
    data: Data = Path("data"),
    domain: DomainFile = None,
    take: PredictedTakes = None,
    name: Name = "test",
    limit: Frames = None,
    canvas: Annotated[
        str | None, typer.Option(help="Width x height in px of pictures of other programs (ours tell theirs).")
    ] = None,
    ground_truth: Annotated[
        Path | None, typer.Option(help="Folder of the prepared ground truth (default: in that of the predictions).")
    ] = None,
    workers: Workers = CPUS,
) -> None:
    """Score predictions by video panoptic quality (VPQ). Videos that are not wholly predicted are left out."""
    from operating_room.errors import UserError
    from panoptic_segmentation.data.videos import find_videos, first_frames
    from panoptic_segmentation.scores.evaluate import PREDICT_AGAIN, evaluate, of_predicted_takes, scored_size

    problems: list[str] = []
    videos = find_videos(*open_takes(data, domain, take), left_out=problems)
    if take is None:
        videos = of_predicted_takes(videos, out, name)
    videos = first_frames(videos, limit)
    truth = ground_truth or out / "ground_truth", f"ground_truth_{name}"
    size = scored_size(out, parse_size(canvas) if canvas else None)
    evaluation = evaluate(videos, out, name, *truth, size, workers)
    typer.echo(str(evaluation))
    if lost := evaluation.left_out:
        print(*lost, sep="\n", file=sys.stderr)
        problems.append(f"{len(lost)} of {len(videos)} videos are not scored, the others are; {PREDICT_AGAIN}")
    if problems:
        raise UserError("; ".join(problems))
