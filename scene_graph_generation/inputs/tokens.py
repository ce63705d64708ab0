"""Text to token ids and back: Llama's tokenizer for the published model, a closed-language one for small models.

Stage-2 specification, section 7: the text is split at `<image>`, each part is tokenised on its own, the beginning
token of the second part is dropped and IMAGE stands between them. Learnt is everything after `ASSISTANT:`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from operating_room.domain.vocabulary import ENTITIES, PREDICATES
from operating_room.errors import UserError
from operating_room.files.atomic import write_text
from operating_room.graphs.prompts import BLOCKS, IMAGE_MARK, conversation, human_prompt
from operating_room.graphs.scene_graph import END, START, Triplet, target_text
from scene_graph_generation.inputs.example import IGNORED, IMAGE
from scene_graph_generation.inputs.llama_tokens import LLAMA_FILE, read_llama_tokenizer

BEGIN_TOKEN, END_TOKEN = "<s>", "</s>"
FILE = "tokenizer.json"
# Pieces that are never joined: a name of one or two words with its separator (so that a triplet is three tokens),
# a word, up to two digits, a run of signs, white space.
_PIECES = r" ?[\p{L}_]+(?: [\p{L}_]+)?[,;]| ?[\p{L}_]+| ?-?\d{1,2}| ?[^\s\p{L}_\d]+|\s+"


class Tokens:
    """A tokenizer and the id that ends an answer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.size = tokenizer.get_vocab_size()
        end = tokenizer.token_to_id(END_TOKEN)
        if end is None:
            raise UserError(
                f"the tokenizer has no {END_TOKEN} token, which ends every answer; expected Llama's or ours"
            )
        if len(tokenizer.encode("").ids) != 1:
            raise UserError("the tokenizer does not begin a text with one token of its own; expected Llama's or ours")
        self.end_id = end

    def encode(self, prompt: str, answer: str | None = None) -> tuple[list[int], list[int]]:
        """Ids of a conversation, and labels that are IGNORED up to `ASSISTANT:`, where `prompt` ends.

        A prompt without `<image>` is text only and gets no IMAGE. Only the first one is the placeholder: to generate an
        answer to speech in which somebody says `<image>` is fine, to learn from such a sample is not, as published.

        Raises:
            UserError: there is an `answer`, but `prompt` holds more than one `<image>`.
        """
        first, mark, rest = prompt.partition(IMAGE_MARK)
        shown, told = ([first], rest) if mark else ([], prompt)
        if answer is not None and IMAGE_MARK in told:
            raise UserError(f"a prompt may hold {IMAGE_MARK} once, this one has it {prompt.count(IMAGE_MARK)} times")
        spoken = "" if answer is None else f" {answer}{END_TOKEN}"
        before = [token for part in shown for token in (*self._tokenizer.encode(part).ids, IMAGE)]
        after = self._tokenizer.encode(told + spoken)
        learnt = [token if start >= len(told) else IGNORED for token, (start, _) in zip(after.ids, after.offsets)]
        begun = 1 if shown else 0  # the beginning token of the second part is dropped
        return before + after.ids[begun:], [IGNORED] * len(before) + learnt[begun:]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of generated ids, without beginning and end."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def names(self) -> dict[str, int]:
        """Token text -> id."""
        return self._tokenizer.get_vocab()

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json`."""
        write_text(folder / FILE, self._tokenizer.to_str())


def read_tokens(folder: Path) -> Tokens:
    """The tokenizer in a model folder: `tokenizer.json`, or Llama's `tokenizer.model`.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = folder / FILE
    if path.is_file():
        try:
            return Tokens(Tokenizer.from_str(path.read_text(encoding="utf-8")))
        except Exception as error:  # the library raises nothing more special
            raise UserError(f"{path}: is no tokenizer ({error}); copy it again from where the model came") from error
    if (folder / LLAMA_FILE).is_file():
        return Tokens(read_llama_tokenizer(folder / LLAMA_FILE))
    raise UserError(f"{folder}: holds no tokenizer; expected {FILE} or Llama's {LLAMA_FILE}")


def train_tokens(texts: Iterable[str], vocabulary: int) -> Tokens:
    """A byte-level tokenizer for the closed language of prompts and graphs.

    The fixed instruction and each block marker are one token, and so is every entity and predicate with its separator;
    the rest of `vocabulary` is learnt from `texts`. Any text can be encoded, also an unseen one.
    """
    tokenizer = Tokenizer(models.BPE())
    pieces = pre_tokenizers.Split(Regex(_PIECES), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pieces, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    # Longer phrases first: the tokenizer takes the first that fits.
    fixed = sorted(_fixed_phrases(), key=lambda phrase: (-len(phrase), phrase))
    special = [BEGIN_TOKEN, END_TOKEN]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(fixed),
        min_frequency=2,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )

    def corpus() -> Iterable[str]:
        for text in texts:
            for phrase in fixed:
                text = text.replace(phrase, "\n")
            yield text
        yield from [_closed_language()] * 20

    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in fixed])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN_TOKEN} $A", special_tokens=[(BEGIN_TOKEN, tokenizer.token_to_id(BEGIN_TOKEN))]
    )
    return Tokens(tokenizer)


def _fixed_phrases() -> set[str]:
    """What stands in every conversation, and what opens and closes its blocks."""
    before, after = conversation(human_prompt(None, None, None, None)).split(IMAGE_MARK)
    blocks = [("memory", "."), *((name, ". ") for name in BLOCKS)]
    markers = [mark for name, end in blocks for mark in (f"<{name}_start>: ", f"<{name}_end>{end}")]
    return {before, after.strip(), f" {START}", f" {END}", *markers}


def _closed_language() -> str:
    """Every entity as subject and object and every predicate, as graphs spell them, in two orders."""
    triplets = [
        Triplet(entity, ENTITIES[-1 - i], predicate) for i, entity in enumerate(ENTITIES) for predicate in PREDICATES
    ]
    return " ".join(target_text((triplet, triplet)) for triplet in triplets)
