"""`mmor live`: scene graphs while a take is being recorded."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from math import isinf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TextIO

import typer

from mmor.cli.evaluation import load_generator
from mmor.cli.options import MODEL, BitsOption, Data, Device, DomainFile, MaxNewTokens, chosen_domain
from operating_room.errors import UserError
from operating_room.files.locks import lock
from operating_room.work.processes import ended_as_by_ctrl_c

if TYPE_CHECKING:
    from mmor.live.live import LiveSecond, Source
    from operating_room.domain.domain import Domain
    from operating_room.recordings.take import RecordedTake
    from panoptic_segmentation.inference.live import LiveSegmenter
    from scene_graph_generation.preprocess.embeddings import Encoder

SoundEncoder = Literal["mel", "clap", "none"]
_SLOWEST = 0.001  # of a replay: a second of the take in a quarter of an hour
Scaling = Literal["published", "peak"]


def live(
    folder: Annotated[Path | None, typer.Argument(help="Folder of the take that is being recorded.")] = None,
    replay: Annotated[str | None, typer.Option(help="Recorded take in --data, at its own pace, instead.")] = None,
    data: Data = Path("data"),
    speed: Annotated[float, typer.Option(help="Of the replay; 0: all seconds, as fast as possible.", min=0)] = 1.0,
    segmenter: Annotated[
        Path | None, typer.Option(help="Segmenter: file or folder (default: the small one that comes with this).")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(*MODEL, help="Scene-graph model (default: the small one that comes with this).")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="New file for the lines (default: standard output).")] = None,
    queue: Annotated[bool, typer.Option("--queue", help="Answer every second, however late; else skip some.")] = False,
    patience: Annotated[
        float | None, typer.Option(help="s to wait for what is missing (default: the time between seconds).", min=0)
    ] = None,
    sound: Annotated[
        SoundEncoder | None,
        typer.Option("--audio-encoder", help="As the model was trained with (default: mel, of models from scratch)."),
    ] = None,
    published_feeding: Annotated[
        bool, typer.Option("--published-feeding", help="CLAP gets sound as the published models were trained with.")
    ] = False,
    audio_scaling: Annotated[Scaling | None, typer.Option(help="Of sound for CLAP, as in preprocessing.")] = None,
    valid: Annotated[
        bool, typer.Option(help="Answers are made to be scene graphs of the domain; a valid one stays as it is.")
    ] = True,
    domain: DomainFile = None,
    max_new_tokens: MaxNewTokens = 300,
    device: Device = None,
    bits: BitsOption = None,
) -> None:
    """Write scene graphs while a take is being recorded. Each second is one line of JSON.

    Ends with ctrl-C, SIGTERM or SIGHUP, with the replay, or when nobody reads on.
    """
    if (folder is None) == (replay is None):
        raise UserError("mmor live needs the folder of a take that is being recorded, or --replay TAKE --data DIR")
    if sound != "clap" and (published_feeding or audio_scaling):
        raise UserError("--published-feeding and --audio-scaling are of CLAP; add --audio-encoder clap")
    if folder is not None and speed != 1:
        raise UserError("--speed is of a replay; leave it out, or give --replay TAKE in place of the folder")
    if replay is not None and patience is not None:
        raise UserError("--patience is of a take that is being recorded: in a replay all is there; leave it out")
    if 0 < speed < _SLOWEST:
        raise UserError(f"--speed {speed:g}: takes ages; give 0, or {_SLOWEST} and more")
    if isinf(speed):
        raise UserError("--speed inf: all seconds but the last would be skipped; give 0 for all as fast as possible")
    with _output(out) as file:
        recorded = _recorded(folder, replay, data, chosen_domain(domain))
        model = model or _bundled("graphs")
        from computing.machine import leave_a_processor
        from mmor.live.live import live
        from mmor.live.replay import Replay
        from mmor.live.source import Follow
        from scene_graph_generation.inference.generator import check_sees

        leave_a_processor()
        # What is wrong with sound or segmenter is told before the model is loaded, which may take minutes.
        read = _read_by(model, recorded.domain)
        if sound not in (None, "none") and "audio" not in read and read:
            raise UserError(f"--audio-encoder {sound}: {model} hears nothing; leave it out")
        encoder = sound_encoder(sound, published_feeding, audio_scaling, model if "audio" in read else None, device)
        if segmenter is not None and "masks" not in read and read:
            raise UserError(f"--segmenter {segmenter}: {model} reads no masks of these takes; leave it out")
        masks = _segmenter(segmenter or _bundled("segmenter"), recorded, device) if "masks" in read else None
        generator = load_generator(model, recorded.domain, device, bits, 1, max_new_tokens, valid=valid)
        check_sees(generator, model)
        inputs = generator.model.settings.modalities
        if replay is None:
            source: Source = Follow(recorded, inputs, encoder is not None, queue, patience)
        else:
            source = Replay(recorded, inputs, speed, queue)
        with ended_as_by_ctrl_c(), closing(live(source, masks, generator, encoder)) as seconds:
            _write(seconds, file)


def sound_encoder(
    sound: SoundEncoder | None,
    published_feeding: bool,
    scaling: Scaling | None,
    model: Path | None,
    device: str | None = None,
) -> Encoder | None:
    """What makes vectors of sound.

    Args:
        sound: as asked for; None: as models from scratch learn from.
        published_feeding, scaling: of CLAP, see `clap_encoder` and `scale_clip`.
        model: folder of the model, if it hears.
        device: that was asked for.

    Raises:
        UserError: nothing was asked for, and the model is around a base: it may have learnt from any. Or CLAP is not
            here and cannot be fetched.
    """
    from scene_graph_generation.preprocess.embeddings import clap_encoder, mel_encoder
    from scene_graph_generation.weights.checkpoints import WEIGHTS

    if sound is None and model is not None and not (model / WEIGHTS).is_file():
        told = "is around a base, and does not say from which vectors of sound it learnt"
        raise UserError(f"{model}: {told}; add --audio-encoder clap, and for published models --published-feeding")
    if sound == "clap":
        return replace(clap_encoder(published_feeding=published_feeding, device=device), scaling=scaling)
    return None if sound == "none" else mel_encoder


def _recorded(folder: Path | None, replay: str | None, data: Path, domain: Domain | None) -> RecordedTake:
    """The take to follow, or to replay."""
    if folder is not None:
        from mmor.live.source import require_there
        from mmor.live.take import take_of_folder

        return require_there(take_of_folder(folder, domain))
    from operating_room.recordings.dataset import Dataset

    dataset = Dataset(data, domain)
    recorded = dataset.take(dataset.named(replay or ""))
    _ = recorded.index  # what is wrong with it is told before models are loaded
    return recorded


def _bundled(what: Literal["graphs", "segmenter"]) -> Path:
    """Folder of the small model that comes with this, which is said."""
    from mmor.demo import BUNDLED, GRAPHS, SEGMENTER

    name = GRAPHS if what == "graphs" else SEGMENTER
    typer.echo(f"note: taking {name} of this software, trained on simulated takes only", err=True)
    return BUNDLED / name


def _read_by(model: Path, domain: Domain) -> tuple[str, ...]:
    """What a model reads of takes of a domain, by its config.json; nothing where it has none, which is told later."""
    from scene_graph_generation.weights.base_models import CONFIG, base_settings

    if not (model / CONFIG).is_file():
        return ()
    settings = base_settings(model, None)
    masks = settings.masks and domain.labels.categories  # else there is no mask encoder, and nothing to segment
    return tuple(name for name in settings.modalities if name != "masks" or masks)


def _segmenter(path: Path, recorded: RecordedTake, device: str | None) -> LiveSegmenter:
    from panoptic_segmentation.inference.live import LiveSegmenter
    from panoptic_segmentation.inference.predict import load, read_test_config

    loaded, settings = load(path, recorded.domain, read_test_config(path, None), device)
    return LiveSegmenter(loaded, settings, recorded.collection, recorded.domain.labels)


@contextmanager
def _output(path: Path | None) -> Generator[TextIO]:
    """The file that gets the lines.

    Raises:
        UserError: it has lines already, another run has it, or it cannot be written.
    """
    if path is None:
        yield sys.stdout
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another file") from error
    with file:
        if path.is_file():  # a pipe is for whoever opens it
            lock(path, file)
            if path.stat().st_size:
                raise UserError(f"{path}: holds the lines of another run; choose a new file")
        yield file


def _write(seconds: Iterator[LiveSecond], file: TextIO) -> None:
    """One line for each second, until there is none, ctrl-C, or nobody reads them."""
    count, skipped, slowest = 0, 0, 0.0
    try:
        for second in seconds:
            _put(second.to_json(), file)
            count, skipped = count + 1, skipped + second.skipped
            slowest = max(slowest, second.latency_s["total"])
    except (KeyboardInterrupt, BrokenPipeError):
        pass
    typer.echo(f"live: {count} seconds answered, {skipped} skipped; the slowest took {slowest:.2f} s", err=True)


def _put(line: str, file: TextIO) -> None:
    """Write a line at once.

    Raises:
        BrokenPipeError: nobody reads it.
        UserError: the disk is full.
    """
    try:
        print(line, file=file, flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())  # else the rest is tried again at the end
        if isinstance(error, BrokenPipeError):
            raise
        raise UserError(
            f"{file.name}: cannot be written ({error.strerror}); make room and choose a new file, the last "
            "line of this one may be cut"
        ) from error
