"""A model folder as the commands use it: loaded, asked and scored, by one process or by several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from mmor.cli.options import Bits, note_left_out, tell_part_done
from operating_room.work.processes import ALL, Share

if TYPE_CHECKING:
    from operating_room.domain.domain import Domain
    from operating_room.graphs.scene_graph import Sample
    from operating_room.recordings.dataset import Dataset
    from scene_graph_generation.inference.evaluate import Evaluation
    from scene_graph_generation.inference.generator import SceneGraphGenerator


class Config(StrEnum):
    """The published configurations of the evaluation."""

    MMOR = "mmor"
    MMOR_TEMPORAL_PRED = "mmor_temporal_pred"


class Roles(StrEnum):
    """Who asks and who answers, as the conversation calls them."""

    AS_TRAINED = "as_trained"
    AS_EVALUATED = "as_evaluated"

    @property
    def names(self) -> tuple[str, str]:
        """In the conversation; EgoExOR's published evaluator asks with other ones than its training."""
        return ("USER", "ASSISTANT") if self == Roles.AS_TRAINED else ("human", "gpt")


def load_generator(
    model: Path,
    domain: Domain,
    device: str | None,
    bits: Bits | None,
    batch_size: int,
    max_new_tokens: int,
    roles: tuple[str, str] = Roles.AS_TRAINED.names,
    valid: bool = False,
) -> SceneGraphGenerator:
    """The model of a folder on a device; says how much memory a batch can take beside it.

    With `valid` it says nothing but scene graphs of the domain.

    Raises:
        UserError: the model or the device is not there, or the model is of another domain than the data.
    """
    from computing.machine import choose_device
    from operating_room.domain.stored import require_domain
    from operating_room.work.processes import is_first
    from scene_graph_generation.inference.generator import SceneGraphGenerator, memory_note
    from scene_graph_generation.weights import precision
    from scene_graph_generation.weights.checkpoints import load_model

    chosen = choose_device(device)
    choices: dict[Bits | None, precision.Bits | None] = {None: None, "4": 4, "16": 16, "32": 32}
    require_domain(model, domain)
    loaded = load_model(model, bits=choices[bits], device=str(chosen))
    generator = SceneGraphGenerator(*loaded, str(chosen), max_new_tokens, domain, roles, valid)
    if is_first() and (note := memory_note(generator, batch_size)):
        typer.echo(f"note: {note}", err=True)
    return generator


@dataclass
class Evaluator:
    """Evaluates a model folder into a results file, together with other processes if there are some."""

    samples: list[Sample]
    truth: Path  # the file they are from
    config: Config
    split: str
    dataset: Dataset
    batch_size: int
    device: str | None
    bits: Bits | None
    max_new_tokens: int
    roles: Roles = Roles.AS_TRAINED
    aside: bool = False  # texts of another model at the place of ours are put aside, not refused
    own: Share = ALL  # of this process
    valid: bool = False  # answers are made to be scene graphs

    def __call__(self, model: Path, out: Path) -> Evaluation | None:
        """The scores; None in a process that has done its share and does not collect."""
        from mmor.launch import do_share
        from scene_graph_generation.inference.evaluate import evaluate_model
        from scene_graph_generation.inference.evaluate_all import weights_fingerprint

        if (generator := do_share(self.own, lambda: self._answer(model, out))) is None:
            return None
        about = {
            "folder": str(model),
            "weights": weights_fingerprint(model),
            "bits": self.bits,
            "config": str(self.config),
            "split": self.split,
            "asked": {name: self._data[name] for name in ("annotations", "inputs", "shown")},
            **({} if self.roles == Roles.AS_TRAINED else {"roles": str(self.roles)}),
            **({"valid": True} if self.valid else {}),
        }
        memory = self.config == Config.MMOR_TEMPORAL_PRED
        return evaluate_model(generator, self.dataset, self.samples, out, about, memory, self.batch_size, self.truth)

    def _answer(self, model: Path, out: Path) -> SceneGraphGenerator:
        """The model, once it has answered this process's share of the questions."""
        from scene_graph_generation.inference.answers import put_aside
        from scene_graph_generation.inference.evaluate import evaluated_frames
        from scene_graph_generation.inference.generator import check_sees
        from scene_graph_generation.inference.infer import about_answers, answer_share, answers_path

        answers = answers_path(out)  # refuses an unusable name before a model is loaded
        generator = load_generator(
            model,
            self.dataset.domain,
            self.device,
            self.bits,
            self.batch_size,
            self.max_new_tokens,
            self.roles.names,
            self.valid,
        )
        check_sees(generator, model)
        memory = self.config == Config.MMOR_TEMPORAL_PRED
        if self.aside:
            put_aside(answers, about_answers(generator, memory, self.batch_size))
        if not self.own.is_whole:
            frames = evaluated_frames(self.dataset, self.samples)
            told = answer_share(generator, self.dataset, frames, out, self.own, memory, self.batch_size)
            note_left_out(self.own, told)
        return generator

    def about(self, model: Path) -> Mapping[str, Any]:
        """What the results of a model folder must say of themselves to be those of this run."""
        from scene_graph_generation.inference.evaluate_all import answers_depend_on_batch, weights_fingerprint

        settings: dict[str, Any] = {"config": str(self.config), "split": self.split, "bits": self.bits}
        settings["max_new_tokens"] = self.max_new_tokens
        if answers_depend_on_batch(model):
            settings["batch_size"] = self.batch_size
        return {**settings, **self._data, "weights": weights_fingerprint(model)}

    @cached_property
    def _data(self) -> dict[str, Any]:
        from operating_room.scores.fingerprints import (
            annotations_fingerprint,
            code_version,
            inputs_fingerprint,
            shown_fingerprint,
        )

        on_disk = self._on_disk()
        return {
            "annotations": annotations_fingerprint(self.samples),
            "inputs": inputs_fingerprint(self.dataset, on_disk),
            "shown": shown_fingerprint(self.dataset, on_disk),
            "code": code_version(),
        }

    def _on_disk(self) -> list[Sample]:
        """Those of takes all of whose timepoints are there: the evaluation leaves out the others."""
        from operating_room.errors import UserError

        missing: set[str] = set()
        for sample in self.samples:
            try:
                self.dataset.take(self.dataset.domain.find_take(sample.take_name)).timepoint(sample.frame_id)
            except UserError:
                missing.add(sample.take_name)
        return [sample for sample in self.samples if sample.take_name not in missing]


def follow(run: Evaluator) -> None:
    """Do this process's share of each model that the first one begins with."""
    from computing.meeting import from_first

    while (model := from_first(None)) is not None:
        run(*model)


def evaluate_parts(run: Evaluator, models: Iterable[tuple[Path, Path]]) -> None:
    """Do this job's share of the models; one that cannot be used keeps it from no other."""
    from operating_room.errors import UserError

    for model, results in models:
        try:
            run(model, results)
        except UserError as error:
            note_left_out(run.own, [f"{model}: {error}"])
    tell_part_done(run.own)
