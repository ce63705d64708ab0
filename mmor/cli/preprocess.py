"""`mmor scene-graph preprocess` and `samples`: from takes to the files that scene graphs are learnt from."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mmor.cli.options import (
    Data,
    DomainFile,
    Gpus,
    Part,
    Relations,
    SamplesFolder,
    Seed,
    Split,
    finish,
    load_split,
    open_dataset,
    open_takes,
    samples_folder,
    tell_notes,
)

if TYPE_CHECKING:
    from operating_room.domain.collection import Take
    from operating_room.recordings.dataset import Dataset
    from scene_graph_generation.preprocess.run import Outcome

app = typer.Typer()
_EITHER = "masks come either from --predictions FOLDER or --from-annotations; give one of them"
WHISPER, VIEW_SIZE, OWN_SHARE = "large-v3", 336, 0.5  # defaults of options that have a meaning beside others only


class Step(StrEnum):
    """What `preprocess` can prepare."""

    AUDIO = "audio"
    EMBEDDINGS = "audio-embeddings"
    TRANSCRIPTS = "transcripts"
    MASKS = "masks"
    VIEWS = "views"
    ALL = "all"


class AudioEncoder(StrEnum):
    """Where audio vectors come from: CLAP as published, or our weightless mel descriptor."""

    CLAP = "clap"
    MEL = "mel"


@app.command("preprocess")
def preprocess(
    step: Annotated[Step, typer.Argument(help="What to prepare; all is all but views, which take much room.")],
    data: Data = Path("data"),
    domain: DomainFile = None,
    take: Annotated[
        list[str] | None,
        typer.Option("--take", "--split", help="Take or split; repeat for several (default: all on disk)."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write into this folder, which gets links to all that the dataset has and is then a dataset itself: "
            "for one that cannot be written."
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Takes at once (default: all CPUs of the process; one with clap or --transcribe, which load a model.)",
            min=1,
        ),
    ] = None,
    causal: Annotated[
        bool, typer.Option("--causal", help="Sound up to a second only; the published window ends one second later.")
    ] = False,
    audio_encoder: Annotated[AudioEncoder, typer.Option(help="Published: clap; small model: mel.")] = AudioEncoder.CLAP,
    published_feeding: Annotated[
        bool, typer.Option("--published-feeding", help="CLAP gets sound as the published code feeds it (see docs).")
    ] = False,
    audio_scaling: Annotated[
        Literal["published", "peak"] | None,
        typer.Option(
            help="CLAP gets sound as EgoExOR's model: published (sample by sample), or peak (as it was meant)."
        ),
    ] = None,
    transcribe: Annotated[
        bool, typer.Option("--transcribe", help="Make the .srt of takes without one by speech recognition.")
    ] = False,
    whisper_model: Annotated[str, typer.Option(help="Whisper model, or its folder.")] = WHISPER,
    predictions: Annotated[Path | None, typer.Option(help="Stage 1's pan_pred folder (masks).")] = None,
    from_annotations: Annotated[
        bool, typer.Option("--from-annotations", help="Masks from annotated label masks, read in place of predictions.")
    ] = False,
    size: Annotated[
        int, typer.Option(help="Of prepared views, px: that of the model's vision tower.", min=1, max=4096)
    ] = VIEW_SIZE,
    gpus: Gpus = 1,
    part: Part = None,
) -> None:
    """Prepare the files of each timepoint. What exists is kept: an interrupted run goes on where it stopped."""
    from computing.meeting import gather
    from mmor.launch import divide
    from operating_room.errors import UserError
    from operating_room.work.processes import is_first, own_threads
    from scene_graph_generation.preprocess import audio, embeddings, masks, transcripts, views
    from scene_graph_generation.preprocess.overlay import overlay, read_only
    from scene_graph_generation.preprocess.run import Outcome, from_elsewhere, half_copied

    if step in (Step.MASKS, Step.ALL) and predictions is not None and from_annotations:
        raise UserError(_EITHER)
    of_sound, of_masks, clap = (Step.EMBEDDINGS, Step.ALL), (Step.MASKS, Step.ALL), audio_encoder == AudioEncoder.CLAP
    for option, is_given, steps in (
        ("--causal", causal, (Step.AUDIO, *of_sound)),
        ("--audio-encoder", not clap, of_sound),
        ("--published-feeding", published_feeding, of_sound),
        ("--audio-scaling", audio_scaling is not None, of_sound),
        ("--transcribe", transcribe, (Step.TRANSCRIPTS, Step.ALL)),
        ("--predictions", predictions is not None, of_masks),
        ("--from-annotations", from_annotations, of_masks),
        ("--size", size != VIEW_SIZE, (Step.VIEWS,)),
    ):
        if is_given and step not in steps:
            raise UserError(f"{option} is of {', '.join(steps)} and not of {step}; leave it out")
        if is_given and not clap and option in ("--published-feeding", "--audio-scaling"):
            raise UserError(f"{option} is of CLAP; leave it out with --audio-encoder mel")
    if whisper_model != WHISPER and not transcribe:
        raise UserError("--whisper-model is of --transcribe; add that, or leave it out")
    if (own := divide(gpus, part)) is None:
        return
    dataset, takes = open_takes(data, domain, take)
    masked = step == Step.MASKS or (step == Step.ALL and bool(dataset.domain.labels.categories))
    if masked and predictions is None and not from_annotations:
        raise UserError(_EITHER)
    if step == Step.ALL and not masked and (predictions is not None or from_annotations):
        given = "--from-annotations" if from_annotations else "--predictions"
        raise UserError(f"domain {dataset.domain.name} has no categories, so that no take has masks; leave out {given}")
    if predictions is not None:
        masks.require_predictions(predictions)  # before the other steps, which can take hours
    wanted, takes = takes, takes[own.rank :: own.processes]
    if out is not None:
        dataset = overlay(dataset, out)
    elif (root := read_only(dataset)) is not None:
        raise UserError(f"{root}: cannot be written; --out FOLDER writes elsewhere and links to what is there")
    outcome = Outcome(problems=tuple(half_copied(dataset, take)))
    many, few = workers or own_threads(), workers or 1
    if step in (Step.AUDIO, Step.ALL):
        outcome += audio.preprocess_audio(dataset, takes, causal, many)
    if step in (Step.EMBEDDINGS, Step.ALL):
        fed = embeddings.ClapEncoder(embeddings.CLAP, published_feeding, audio_scaling)
        encoder = fed if clap else embeddings.mel_encoder
        outcome += embeddings.preprocess_audio_embeddings(dataset, takes, encoder, causal, few if clap else many)
    if step in (Step.TRANSCRIPTS, Step.ALL):
        if transcribe:
            outcome += _transcribe(dataset, takes, whisper_model, few, step == Step.ALL)
        outcome += transcripts.preprocess_transcripts(dataset, takes, many)
    if masked:
        outcome += masks.preprocess_masks(dataset, takes, predictions, from_annotations, many)
    if step == Step.VIEWS:
        outcome += views.preprocess_views(dataset, takes, size, many)
    done = gather((outcome, len(takes)))  # of every process that works with this one
    if not is_first():
        return
    outcome = sum((of_one for of_one, _ in done), Outcome())
    for what, modality, source, is_made in (
        ("clips of sound", "audio", "recording", causal and step in (Step.AUDIO, Step.ALL)),
        ("vectors of sound", "audio_embedding", "recording", step in of_sound),
        ("small masks", "masks", None, masked),
    ):
        if is_made and (kept := from_elsewhere(dataset, wanted, modality, source)):
            told = f"{len(kept)} takes have {what} that came with them, and these stay, however they were made"
            tell_notes([f"{told}; move a folder such as {kept[0]} away to have them made as asked for"])
    what = "views" if step == Step.VIEWS else "files"
    typer.echo(f"{outcome.written} {what} written for {sum(count for _, count in done)} takes")
    if out is not None:
        typer.echo(f"with links to all that was there in {out}: give this as --data from now on")
    finish(outcome.told(wanted))


def _transcribe(dataset: Dataset, takes: list[Take], model: str, workers: int, go_on: bool) -> Outcome:
    """Speech recognition; with `go_on` a model that cannot be loaded is a problem, and the other steps are done."""
    from operating_room.errors import UserError
    from scene_graph_generation.preprocess.run import Outcome
    from scene_graph_generation.preprocess.transcripts import transcribe

    try:
        return transcribe(dataset, takes, model, workers)
    except UserError as error:
        if not go_on:
            raise
        return Outcome(problems=(str(error),))


@app.command("samples")
def samples(
    data: Data = Path("data"),
    domain: DomainFile = None,
    relations: Relations = None,
    split: Split = "train",
    out: SamplesFolder = None,
    permutations: Annotated[int, typer.Option(help="Records per timepoint.", min=1, max=10_000)] = 20,
    temporal: Annotated[bool, typer.Option("--temporal", help="With memory of the past.")] = False,
    temporal_augmentation: Annotated[
        bool, typer.Option(help="Style of the memory at random and entries dropped; else all of it.")
    ] = True,
    drop_history: Annotated[float, typer.Option(help="Share of memory entries that are dropped.", min=0, max=1)] = 0.5,
    mixed_modalities: Annotated[
        bool, typer.Option("--mixed-modalities", help="Modalities swapped with those of similar samples.")
    ] = False,
    modalities: Annotated[
        str | None,
        typer.Option(
            help="Some of AZURE,SIMSTATION,TRACKERCAM,PC,AUDIO,SPEECH,ROBOTMETA,TRACKINGMETA,PREDSEGMASKS (all), "
            "also ROBOTLOG; EGO,GAZE,HANDS in domains that have them."
        ),
    ] = None,
    answers: Annotated[
        list[Path] | None,
        typer.Option(help="What a model answered for takes of the split (`infer`); repeat. Memory then holds that."),
    ] = None,
    own_share: Annotated[
        float, typer.Option(help="With --answers: share of their takes' records whose memory is so.", min=0, max=1)
    ] = OWN_SHARE,
    stale_memory: Annotated[
        float,
        typer.Option(help="Share of records whose memory ends at an earlier moment (not published).", min=0, max=1),
    ] = 0.0,
    repeat_rare: Annotated[
        float,
        typer.Option(
            help="More records of a timepoint with a triplet that is in less than this share (not published).",
            min=0,
            max=1,
        ),
    ] = 0.0,
    form: Annotated[
        Literal["paths", "egoexor"],
        typer.Option(help="egoexor: EgoExOR's published form, without paths, for programs that read its files."),
    ] = "paths",
    tokenizer: Annotated[
        str | None,
        typer.Option(help="Folder or hub name of a model: also count its tokens in the answers (token frequencies)."),
    ] = None,
    seed: Seed = 0,
) -> None:
    """Write the training JSON in the published form. The same as shards, which training reads piece by piece."""
    from collections import Counter
    from random import Random

    from operating_room.errors import UserError
    from operating_room.files.atomic import write_json
    from operating_room.graphs.graph_files import load_several
    from operating_room.graphs.scene_graph import Sample
    from operating_room.scores.scoring import notes_on_names
    from scene_graph_generation.inputs.tokenizer_files import TOKENIZER, read_tokens
    from scene_graph_generation.preprocess.run import half_copied
    from scene_graph_generation.samples import egoexor
    from scene_graph_generation.samples.records import LeftOut, SampleOptions, describe, training_records
    from scene_graph_generation.samples.sample_files import count_answer_tokens, frequency_file_name, write_samples
    from scene_graph_generation.samples.sample_memory import OwnAnswers
    from scene_graph_generation.samples.sample_modalities import choose_modalities, never_shown
    from scene_graph_generation.weights.base_models import find_folder

    if stale_memory and not temporal:
        raise UserError("--stale-memory is of samples with memory; add --temporal")
    if answers and not temporal:
        raise UserError("--answers are told in memory; add --temporal")
    if own_share != OWN_SHARE and not answers:
        raise UserError("--own-share is of --answers; add these, or leave it out")
    dataset = open_dataset(data, domain)
    options = SampleOptions(
        permutations=permutations,
        temporal=temporal,
        augment_memory=temporal_augmentation,
        drop_history=drop_history,
        mixed=mixed_modalities,
        modalities=choose_modalities(modalities, dataset.domain),
        own_answers=own_share if answers else 0.0,
        stale_memory=stale_memory if temporal else 0.0,
        repeat_rare=repeat_rare,
    )
    own = None
    if answers:
        own = OwnAnswers(load_several(answers), own_share)
        tell_notes(notes_on_names(map(Sample.of_id, own.graphs), own.graphs, dataset.domain.language))
    tokens = None if tokenizer is None else read_tokens(find_folder(tokenizer, TOKENIZER))
    graphs = load_split(relations, split, dataset)
    left_out: LeftOut = {}
    shown: set[str] = set()
    name, frequency_name = options.file_name(split), frequency_file_name(split, permutations)
    if form == "egoexor":
        if temporal or mixed_modalities or modalities or repeat_rare:
            raise UserError(
                "--form egoexor has no memory, nothing mixed or repeated and no chosen modalities; leave these out"
            )
        records = egoexor.published_records(dataset, graphs, permutations, Random(seed), left_out)
        name = egoexor.published_file_name(split, options)
        frequency_name = egoexor.published_frequency_name(permutations)
    else:
        records = training_records(dataset, graphs, options, Random(seed), left_out, own, shown)
    counts: Counter[int] = Counter()
    if tokens is not None:
        records = count_answer_tokens(records, tokens, counts)
    folder = samples_folder(out, dataset.root)
    path = folder / name
    written = write_samples(path, records, len(graphs) * permutations, Random(f"order {seed}"))
    problems = [*half_copied(dataset, [split]), *describe(left_out, graphs)]
    if not written:
        raise UserError("; ".join(["no training sample can be made", *problems]))
    typer.echo(f"{written} records in {path}")
    if form == "paths":
        tell_notes(never_shown(dataset, graphs, options.modalities, shown))
    if tokens is not None:
        texts = {token: text for text, token in tokens.names().items()}
        frequencies = folder / frequency_name
        write_json(frequencies, {texts[token]: count for token, count in counts.items()})
        typer.echo(f"token frequencies in {frequencies}")
    finish(problems)
