"""What a training that is begun again goes on from, what must be as it was then, and when nothing is left to do.

What a model has learnt to see is kept until its training is over: no checkpoint is there before the first steps. Where
it stands in the middle of that is kept now and then.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from random import Random
from time import monotonic
from typing import Any

from transformers import TrainerState

from computing.machine import go_on_randomly, random_state
from computing.training_checkpoints import Found, find_checkpoint, last_state, remove_half_written, require_begun
from operating_room.errors import UserError
from operating_room.files.atomic import write_json
from operating_room.files.readers import read_json
from operating_room.files.tensors import read_pickle, read_tensors, write_pickle, write_safetensors
from operating_room.work.processes import is_first
from scene_graph_generation.config.settings import Experiment, TrainConfig
from scene_graph_generation.inputs.tokens import FILE
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.training.presence import TEACHER
from scene_graph_generation.weights.adapter_config import ADAPTER_CONFIG
from scene_graph_generation.weights.base_models import CONFIG
from scene_graph_generation.weights.checkpoints import SEEN_WEIGHTS, WEIGHTS
from scene_graph_generation.weights.fine_tuned import ADAPTER_WEIGHTS, OTHER_WEIGHTS, OWN_ADAPTER, OWN_WEIGHTS

BEGUN = "training.json"  # the settings that a training began with
GOES_ON = "goes_on"  # empty; while it is there, the model in the folder is of an earlier end
_FORMS = (  # what a checkpoint holds in each form that is written
    (CONFIG, OWN_ADAPTER, FILE, OWN_WEIGHTS),
    (CONFIG, ADAPTER_CONFIG, OTHER_WEIGHTS, ADAPTER_WEIGHTS),
    (CONFIG, FILE, WEIGHTS),
)
_OF_TAKES = ("model.labels", "model.masks")
SEEING = ("vision.", "pooler.", "projector.")  # parameters in front of the language model
PHASES = ("patches", "hands", "triplets")  # of learning to see, in their order
HALF_SEEN = "half_seen.pt"  # where learning to see stands
_EVERY = 300.0  # s, after which it is kept
SEEN_BY = "seen.json"  # is written after what was seen, and says of which training that is
_ANEW = "learning to see begins anew"
_OF_ANOTHER = "is of another training, or of another version of this program"  # what differs was not told by name
# What is changed where a GPU was too small for the first step afterwards: it has no say in what is seen.
_AFTERWARDS = ("train.batch_size", "train.accumulation")


def is_done(state: TrainerState, config: TrainConfig) -> bool:
    """Whether a training has nothing left to do."""
    if config.max_steps > 0:
        return state.global_step >= config.max_steps
    return (state.epoch or 0.0) >= config.epochs - 1e-6  # a sum of many fractions


def keep_seeing(out: Path, model: MM2SG, begun: Mapping[str, Any], taught: bool) -> None:
    """Keep what a model has learnt to see.

    Args:
        out: the folder of the training.
        model: has learnt.
        begun: what its training began with.
        taught: whether its vision tower was taught its patches.

    Raises:
        UserError: the folder cannot be written.
    """
    (out / SEEN_BY).unlink(missing_ok=True)
    state = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(SEEING)}
    write_safetensors(
        out / SEEN_WEIGHTS, {name: t.detach().to("cpu", copy=True).contiguous() for name, t in state.items()}
    )
    write_json(out / SEEN_BY, {"taught": taught, "begun": _digest(begun)})
    (out / HALF_SEEN).unlink(missing_ok=True)


def seen_before(out: Path, model: MM2SG, begun: Mapping[str, Any]) -> bool | None:
    """Fill a model with what `keep_seeing` has kept; whether its tower was taught, None if nothing is kept of it."""
    if not (out / SEEN_BY).is_file():
        return None
    try:
        told, state = read_json(out / SEEN_BY), read_tensors(out / SEEN_WEIGHTS)
    except UserError as error:
        print(f"{error}; {_ANEW}", file=sys.stderr)
        return None
    if not isinstance(told, dict) or told.get("begun") != _digest(begun):
        print(f"{out / SEEN_BY}: {_OF_ANOTHER}; {_ANEW}", file=sys.stderr)
        return None
    model.load_state_dict(state, strict=False)
    return told.get("taught") is True


def forget_seeing(out: Path) -> None:
    """After the training: its model has it."""
    for name in (SEEN_BY, SEEN_WEIGHTS, HALF_SEEN):
        (out / name).unlink(missing_ok=True)


class Halfway:
    """Where learning to see stands in a folder: kept now and then, and taken up again by the same training.

    Args:
        out: the folder of the training; None: nothing is kept.
        begun: what the training began with.

    Attributes:
        phase: that an earlier run was in when it was kept; None if nothing is kept of this training.
        taught: whether the vision tower was taught its patches.
    """

    def __init__(self, out: Path | None = None, begun: Mapping[str, Any] | None = None) -> None:
        self._path, self._of = None if out is None else out / HALF_SEEN, _digest(begun or {})
        self._kept = self._read()
        self.phase: str | None = self._kept.get("phase")
        self.taught: bool = self._kept.get("taught", False)

    def _read(self) -> dict[str, Any]:
        if self._path is None or not self._path.is_file():
            return {}
        try:
            kept = read_pickle(self._path)
        except UserError as error:
            print(f"{error}; {_ANEW}", file=sys.stderr)
            return {}
        if not isinstance(kept, dict) or kept.get("of") != self._of:
            print(f"{self._path}: {_OF_ANOTHER}; {_ANEW}", file=sys.stderr)
            return {}
        return kept

    def enter(self, phase: str, steps: int, model: MM2SG, parts: list[Any], drawn: Random | None = None) -> int:
        """How many steps of a phase are done; what takes part in it is then as it was after them.

        Args:
            phase: one of `PHASES`.
            steps: that it has.
            model: learns to see.
            parts: what else has a state: head, optimiser, schedule.
            drawn: what the samples of a step are drawn from, if from step to step.
        """
        device = next(model.parameters()).device
        self._next, self._now = monotonic() + _EVERY, (phase, model, parts, drawn, device)
        if self.phase is None or PHASES.index(self.phase) < PHASES.index(phase):
            return 0
        if self.phase != phase:
            return steps
        kept = self._kept
        print(f"{self._path}: goes on learning to see after step {kept['step']} of {phase}", file=sys.stderr)
        model.load_state_dict(kept["seeing"], strict=False)
        for part, state in zip(parts, kept["parts"], strict=True):
            part.load_state_dict(state)
        if drawn is not None:
            drawn.setstate(kept["drawn"])
        go_on_randomly(kept["random"], device)
        return kept["step"]

    def keep(self, step: int, told: bool) -> None:
        """After a step: keep where it stands if that was told in the log, or enough time has passed.

        Raises:
            UserError: it cannot be written.
        """
        if self._path is None or not (told or monotonic() >= self._next):
            return
        phase, model, parts, drawn, device = self._now
        state = {
            "of": self._of,
            "phase": phase,
            "step": step,
            "taught": self.taught,
            "seeing": {name: value for name, value in model.state_dict().items() if name.startswith(SEEING)},
            "parts": [part.state_dict() for part in parts],
            "drawn": None if drawn is None else drawn.getstate(),
            "random": random_state(device),
        }
        write_pickle(self._path, state)
        self._next = monotonic() + _EVERY


def _digest(begun: Mapping[str, Any]) -> str:
    return sha256(json.dumps(while_seeing(begun), sort_keys=True, default=str).encode()).hexdigest()


def while_seeing(begun: Mapping[str, Any]) -> dict[str, Any]:
    """What a training began with, but for what has no say in what is seen."""
    return {name: value for name, value in begun.items() if name not in _AFTERWARDS}


def settings_that_stay(mapping: dict[str, Any], of: str = "") -> dict[str, Any]:
    """The settings by their full names, but for those that may change when a training goes on.

    Args:
        mapping: of an experiment, or of its section `of`.
        of: what their names begin with.
    """
    flat: dict[str, Any] = {}

    def flatten(values: dict[str, Any], prefix: str) -> None:
        for name, value in values.items():
            if isinstance(value, dict):
                flatten(value, f"{prefix}{name}.")
            elif f"{prefix}{name}" not in _MAY_CHANGE:
                flat[f"{prefix}{name}"] = list(value) if isinstance(value, tuple) else value

    flatten({name: values for name, values in mapping.items() if name not in ("files", "pretrain")}, of)
    return flat


_MAY_CHANGE = {
    f"train.{name}"
    for name in (
        *("max_steps", "epochs", "save_steps", "save_total_limit", "log_steps", "workers", "skip_bad_samples"),
        *("report_to", "run_name", "deepspeed", "tf32", "gradient_checkpointing"),
    )
} | {"start.base", "start.vision", "start.curriculum"}


def already_done(experiment: Experiment, data: Sequence[Path], out: Path) -> str | None:
    """What there is to say of a folder whose training is over; None if there is something left to do.

    Raises:
        UserError: it holds a trained model that cannot be trained further, or one of other settings or samples.
    """
    if not finished(out):
        return None
    state = last_state(out)
    if state is None or not (out / BEGUN).is_file():
        raise UserError(f"{out}: holds a trained model already; choose another folder")
    check_goes_on(experiment, data, out, out)
    if not is_done(state, experiment.train) or (out / GOES_ON).exists():
        return None
    return f"{out}: is trained already, {state.global_step} steps; more --max_steps would go on from there"


def check_goes_on(experiment: Experiment, data: Sequence[Path], out: Path, where: Path) -> None:
    """A training in a folder goes on with what it began with, as far as that can be told without its samples.

    Args:
        experiment: that is to go on.
        data: files of its samples.
        out: the folder.
        where: the checkpoint that it would go on from; `out` if it is over.

    Raises:
        UserError: something that cannot change is another, or it is a training of something else.
    """
    if where != out and not (where / CONFIG).is_file():
        raise UserError(f"{where}: is no checkpoint of a scene-graph model; choose another folder")
    if (out / BEGUN).is_file():
        # The takes, which are looked at later, say how many labels masks have.
        now = {name: value for name, value in begun_with(experiment, data).items() if name not in _OF_TAKES}
        check_same_training(out, now, where)


def whole_checkpoint(out: Path, deepspeed: bool, processes: int | None = None) -> Found:
    """`find_checkpoint` of a training of ours, which goes on from what has all files of its model.

    Where none of ours has begun, they are none of ours (`check_goes_on`).
    """

    def lacks(checkpoint: Path) -> str | None:
        if not (out / BEGUN).is_file():
            return None
        least = min(([name for name in form if not (checkpoint / name).is_file()] for form in _FORMS), key=len)
        if _began(out)["train.presence"] and not (checkpoint / TEACHER).is_file():
            least = [*least, TEACHER]
        return f"{checkpoint / least[0]}: is missing" if least else None

    return find_checkpoint(out, deepspeed, processes=processes, lacks=lacks)


def begin_folder(experiment: Experiment, data: Sequence[Path], out: Path) -> Path | None:
    """The checkpoint to go on from; what a killed training has left is cleared."""
    if done := already_done(experiment, data, out):
        raise UserError(done)
    found = whole_checkpoint(out, experiment.train.deepspeed is not None)
    if found.path is None:
        if is_first():  # who leaves the mark and clears; another machine may have a disk of its own
            require_begun(out, BEGUN)
    else:
        check_goes_on(experiment, data, out, found.path)
    if is_first():
        for line in found.left_out:
            print(line, file=sys.stderr)
        if found.path is not None:
            print(f"going on from {found.path}", file=sys.stderr)
            if finished(out):
                (out / GOES_ON).touch()
                print(f"{out}: its model is of an earlier end, until this training ends", file=sys.stderr)
        remove_half_written(out)
    return found.path


def begun_with(experiment: Experiment, data: Sequence[Path]) -> dict[str, Any]:
    """What must stay as it is while a training goes on, as JSON gives it back; samples by the names of their files."""
    phases = experiment.pretrain  # a checkpoint has them behind it
    learns_first = {"pretrain": phases is not None, **settings_that_stay(asdict(phases) if phases else {}, "pretrain.")}
    names = {"sample_files": [path.stem for path in data]}
    return _plain({**settings_that_stay(asdict(experiment)), **learns_first, **names})


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives them back."""
    return json.loads(json.dumps(settings, default=str))


def check_same_training(out: Path, now: Mapping[str, Any], where: Path) -> None:
    """Compare with what the training began with: a checkpoint brings its own rates and order, whatever is asked for.

    Raises:
        UserError: something that cannot change is another.
    """
    before = _began(out)
    for name, value in now.items():
        if name in before and before[name] != value:
            raise UserError(
                f"{where}: {name} was {str(before[name])[:60]} and is now {str(value)[:60]}; "
                "give what it began with, or choose another folder"
            )


def _began(out: Path) -> dict[str, Any]:
    """What the training in a folder began with."""
    found = read_json(out / BEGUN)
    # What a setting that was unsaid, or came later, stood for before it was there is its default.
    usual = _plain(settings_that_stay(asdict(Experiment())))
    return {**usual, **(found if isinstance(found, dict) else {})}


def finished(out: Path) -> bool:
    """Whether a folder holds a whole model of either form."""
    return any((out / name).exists() for name in (WEIGHTS, OTHER_WEIGHTS, OWN_WEIGHTS))  # these are written last
