"""A model with its tokenizer and reader: timepoints in, texts out (stage-2 specification, section 10)."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from functools import cache, cached_property
from hashlib import sha256
from pathlib import Path

import torch

from computing.machine import free_memory, is_full, release_memory
from operating_room.domain.domain import Domain, mmor
from operating_room.errors import UserError
from operating_room.graphs.prompts import ROLES
from operating_room.recordings.modalities import TABLE
from operating_room.recordings.questions import timepoint_prompt
from operating_room.recordings.timepoint import Timepoint
from operating_room.scores.fingerprints import fingerprint, source_fingerprint, stamp
from scene_graph_generation.inputs.evidence import Evidence, ExampleReader
from scene_graph_generation.inputs.example import Example
from scene_graph_generation.inputs.grammar import Grammar
from scene_graph_generation.inputs.tokens import Tokens
from scene_graph_generation.model.decoding import MAX_NEW_TOKENS, cache_bytes
from scene_graph_generation.model.draft_decoding import decode
from scene_graph_generation.model.drafts import Said
from scene_graph_generation.model.mm2sg import MM2SG

FINGERPRINTED = 8  # numbers of each parameter that identify a model
WORTH_TELLING = 500_000_000  # bytes
_MAKERS = (  # the code between files and text, as far as the prompt does not show what it does
    "operating_room/files/*.py",
    "scene_graph_generation/inputs/*.py",
    "scene_graph_generation/model/*.py",
)


@dataclass(frozen=True)
class Cost:
    """What answers took."""

    tokens: int = 0  # generated
    passes: int = 0  # of the language model, each over a batch
    drafted: int = 0  # tokens that were guessed
    accepted: int = 0  # of these the right ones

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(ours + theirs for ours, theirs in zip(astuple(self), astuple(other))))

    def __sub__(self, other: Cost) -> Cost:
        return Cost(*(ours - theirs for ours, theirs in zip(astuple(self), astuple(other))))

    def __str__(self) -> str:
        return (
            f"{self.tokens} tokens in {self.passes} passes of the language model; {self.accepted} of {self.drafted} "
            "guessed tokens were right"
        )


class SceneGraphGenerator:
    """A model with what it needs to read timepoints and to answer.

    Args:
        model: it is moved to the device.
        tokens: its tokenizer.
        device: where it runs.
        max_new_tokens: of an answer; longer ones are cut off.
        domain: that it was trained for; None is MM-OR with 4D-OR.
        roles: who asks and who answers, as the conversation calls them.
        valid: answers are scene graphs of the domain, whatever the model would rather say; for questions of text alone
            leave it off.
    """

    max_new_tokens = MAX_NEW_TOKENS
    valid = False
    cost = Cost()  # of all answers so far
    _domain: Domain | None = None
    _roles = ROLES

    def __init__(
        self,
        model: MM2SG,
        tokens: Tokens,
        device: str = "cpu",
        max_new_tokens: int = MAX_NEW_TOKENS,
        domain: Domain | None = None,
        roles: tuple[str, str] = ROLES,
        valid: bool = False,
    ) -> None:
        tokens.conversation("", roles)  # refuses roles that it cannot have
        self._domain = domain
        self._roles = roles
        self.model = model.eval().to(device)
        self.max_new_tokens = max_new_tokens
        self._device = device
        self._tokens = tokens
        self._reader = ExampleReader(model.settings, tokens)
        self.valid = valid
        self._at_once: int | None = None  # so many questions at most, since more did not fit
        self._said: defaultdict[str, Said] = defaultdict(Said)
        self._grammar = Grammar(tokens, self.domain.language) if valid else None

    @property
    def domain(self) -> Domain:
        """What the model was trained for."""
        return mmor() if self._domain is None else self._domain

    @cached_property
    def fingerprint(self) -> str:
        """The same for the same weights, whatever file they came from."""
        digest = sha256(repr(self.model.settings).encode())
        digest.update(repr(sorted(self._tokens.names().items())).encode())
        for name, value in self.model.state_dict().items():
            flat = value.detach().flatten()
            some = flat[:: max(1, len(flat) // FINGERPRINTED)].cpu().contiguous()
            digest.update(name.encode() + some.view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    def question(self, timepoint: Timepoint, memory: str | None) -> str:
        """Identifies all that decides the answer beside the model: prompt, slots, files, switches, the code between.

        Files count by name, size and time; their content is not read.

        Raises:
            UserError: a text file of the timepoint is damaged, or a file is not there.
        """
        prompt, evidence = self._ask(timepoint, memory)
        known = evidence.only(self.model.settings.modalities)
        slots = [None if path is None else path.name for path in known.views]
        seen = [f"{path.parent.name}/{path.name} {stamp(path)}" for path in known.files()]
        valid = ["valid"] if self.valid else []
        return fingerprint([made_by(), str(self.max_new_tokens), prompt, str(slots), *seen, *valid])

    def text_question(self, prompt: str) -> str:
        """As `question`, of a question of text alone."""
        return fingerprint([made_by(), str(self.max_new_tokens), prompt])

    def read(self, timepoint: Timepoint, memory: str | None) -> Example:
        """The question for the scene graph of a timepoint.

        Raises:
            UserError: a file of the timepoint is damaged, or its prompt does not fit the model even without memory.
        """
        prompt, evidence = self._ask(timepoint, memory)
        try:
            example = self._reader(evidence, prompt, reserve=self.max_new_tokens)
        except UserError as error:
            raise UserError(f"{timepoint.take.sample_name}, timepoint {timepoint.frame_id}: {error}") from error
        return replace(example, take=timepoint.take.sample_name)

    def read_ahead(self, timepoints: Sequence[Timepoint]) -> None:
        """Begin to read the files of timepoints that will be asked next, of several groups, while the model answers.

        To be called at each step: what was begun before goes on if it is among them, and is given up if not.
        """
        self._reader.read_ahead([Evidence.of_timepoint(timepoint) for timepoint in timepoints])

    def read_text(self, prompt: str) -> Example:
        """A question of text alone.

        Raises:
            UserError: it does not fit the model.
        """
        return self._reader(Evidence(()), self._tokens.conversation(prompt), reserve=self.max_new_tokens)

    def answer(self, examples: Sequence[Example]) -> list[str]:
        """The texts that the model generates for these questions, as one batch.

        What was answered before of the same take is the draft of its next answer, which takes fewer passes by that and
        stays the same.

        Raises:
            UserError: the GPU has no room even for one, or the model's scores are no numbers.
        """
        said = [None if example.take is None else self._said[example.take] for example in examples]
        generated: list[list[int]] = []
        while len(generated) < len(examples):
            places = slice(len(generated), len(generated) + (self._at_once or len(examples)))
            some = self._try(examples[places], said[places])
            if some is None:
                release_memory(torch.device(self._device))
            else:
                generated += some
        for history, ids in zip(said, generated):
            if history is not None:
                history.add([*ids, self._tokens.end_id])
        return [self._tokens.decode(ids) for ids in generated]

    def _try(self, examples: Sequence[Example], said: Sequence[Said | None]) -> list[list[int]] | None:
        """The generated tokens; None if there are too many questions for the GPU, and less will be tried from now on.

        Raises:
            UserError: there is nothing less to try.
        """
        try:
            moved = [example.to(self._device) for example in examples]
            found = decode(self.model, moved, self._tokens.end_ids, self.max_new_tokens, said, self._grammar)
        except RuntimeError as error:
            if not is_full(error):
                raise
            alone = len(examples) == 1
            if alone or self.model.settings.batching == "published":  # whose answers depend on their batch
                many = "one question" if alone else f"{len(examples)} questions at once"
                advice = "--bits 4 or another GPU" if alone else "a smaller --batch-size"
                kept = "What has been generated is kept"
                raise UserError(f"{self._device}: has too little memory for {many}; choose {advice}. {kept}") from error
        else:
            self.cost += Cost(sum(map(len, found.ids)), found.passes, found.drafted, found.accepted)
            return found.ids
        self._at_once = len(examples) // 2
        told = f"has too little memory for {len(examples)} questions at once, going on with {self._at_once}"
        print(f"{self._device}: {told}; the answers are the same", file=sys.stderr)
        return None

    def _ask(self, timepoint: Timepoint, memory: str | None) -> tuple[str, Evidence]:
        """The conversation and the files that go with it."""
        known = _only(timepoint, self.model.settings.modalities)
        prompt = timepoint_prompt(known, memory)
        return self._tokens.conversation(prompt, self._roles), Evidence.of_timepoint(known)


@cache
def made_by() -> str:
    """Of the code that makes texts of files: stored texts of other code are generated again."""
    return source_fingerprint(*_MAKERS)


def check_sees(generator: SceneGraphGenerator, folder: Path) -> None:
    """Scene graphs need a model that is shown something.

    Raises:
        UserError: it reads text only, as those of the downstream tasks.
    """
    if generator.model.vision is None or not generator.model.settings.modalities:
        raise UserError(
            f"{folder}: this model reads text only; it answers `mmor downstream evaluate`, scene graphs need another"
        )


def memory_note(generator: SceneGraphGenerator, batch_size: int) -> str | None:
    """What the keys and values of a batch can take beside the weights; None where that is next to nothing."""
    settings, parameter = generator.model.settings, next(generator.model.language.parameters())
    itemsize = parameter.itemsize if parameter.is_floating_point() else torch.bfloat16.itemsize  # 4 bits count in 16
    batch_size = min(batch_size, 1 << 30)  # so that the sum can be told
    needed = cache_bytes(settings, batch_size, generator.max_new_tokens, itemsize)
    if needed < WORTH_TELLING:
        return None
    free = free_memory(parameter.device)
    # Guesses that one answer rejects stay beside those that others accept: answers of other lengths take some more.
    told = f"key-value cache of {batch_size} questions at once: about {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB free"
    fits = max(1, free * batch_size // needed)
    return f"{told}; --batch-size {fits} fits" if fits < batch_size else told


def _only(timepoint: Timepoint, modalities: Sequence[str]) -> Timepoint:
    """Without the texts of modalities that the model was not made for; `Evidence.only` does the same for files."""
    texts = [row for row in TABLE if row.input is not None and row.record is None]
    return timepoint.without([row.name for row in texts if row.input not in modalities])
