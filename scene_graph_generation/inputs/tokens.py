"""Text to token ids and back: Llama's tokenizer for the published model, a closed-language one for small models.

Stage-2 specification, section 7: the text is split at `<image>`, each part is tokenised on its own, the beginning
token of the second part is dropped and IMAGE stands between them. Learnt is everything after `ASSISTANT:`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from operating_room.domain.language import Language
from operating_room.errors import UserError
from operating_room.files.atomic import write_text
from operating_room.graphs.prompts import BLOCKS, IMAGE_MARK, ROLES, conversation, human_prompt, told
from operating_room.graphs.scene_graph import END, START, Triplet, target_text
from scene_graph_generation.inputs.example import IGNORED, IMAGE

BEGIN_TOKEN, END_TOKEN = "<s>", "</s>"
FILE = "tokenizer.json"
# Pieces that are never joined: a name of one or two words with its separator (so that a triplet is three tokens),
# a word, up to two digits, a run of signs, white space.
_PIECES = r" ?[\p{L}_]+(?: [\p{L}_]+)?[,;]| ?[\p{L}_]+| ?-?\d{1,2}| ?[^\s\p{L}_\d]+|\s+"


class Tokens:
    """A tokenizer, the conversation around a question, and what ends an answer: as published, Llama's and Vicuna's.

    Args:
        tokenizer: one that begins every text with a token of its own.
        end_token: is learnt at the end of every answer.

    Raises:
        UserError: the tokenizer has no such token.
    """

    def __init__(self, tokenizer: Tokenizer, end_token: str = END_TOKEN) -> None:
        self._tokenizer = tokenizer
        self.size = tokenizer.get_vocab_size()
        end = tokenizer.token_to_id(end_token)
        if end is None:
            raise UserError(f"the tokenizer has no {end_token} token, which ends every answer; copy its files again")
        self.end_token = end_token
        self.end_id = end
        self.end_ids: tuple[int, ...] = (end,)  # each of them ends an answer that is generated

    def conversation(self, prompt: str, roles: tuple[str, str] = ROLES) -> str:
        """The conversation up to where the answer begins; `roles` ask and answer."""
        return conversation(prompt, roles)

    def encode(self, prompt: str, answer: str | None = None) -> tuple[list[int], list[int]]:
        """Ids of a conversation, and labels that are IGNORED up to `ASSISTANT:`, where `prompt` ends.

        A prompt without `<image>` is text only and gets no IMAGE. Only the first one is the placeholder: to generate an
        answer to speech in which somebody says `<image>` is fine, to learn from such a sample is not, as published.

        Raises:
            UserError: there is an `answer`, but `prompt` holds more than one `<image>`.
        """
        first, mark, rest = prompt.partition(IMAGE_MARK)
        shown, told = ([first], rest) if mark else ([], prompt)
        self.check_marks(prompt, told, answer)
        spoken = "" if answer is None else f" {answer}{self.end_token}"
        before = [token for part in shown for token in (*self._tokenizer.encode(part).ids, IMAGE)]
        after = self._tokenizer.encode(told + spoken)
        learnt = [token if start >= len(told) else IGNORED for token, (start, _) in zip(after.ids, after.offsets)]
        begun = 1 if shown else 0  # the beginning token of the second part is dropped
        return before + after.ids[begun:], [IGNORED] * len(before) + learnt[begun:]

    @staticmethod
    def check_marks(prompt: str, rest: str, answer: str | None) -> None:
        """What is learnt from has no second image mark in the `rest` behind the first.

        Raises:
            UserError: it has, or holds half a character, which no tokenizer takes.
        """
        try:
            told(f"{prompt}{answer}")
        except ValueError as error:
            raise UserError(f"a text holds {error}; make it again") from error
        if answer is not None and IMAGE_MARK in rest:
            raise UserError(f"a prompt may hold {IMAGE_MARK} once, this one has it {prompt.count(IMAGE_MARK)} times")

    def decode(self, ids: Sequence[int]) -> str:
        """The text of generated ids, without beginning and end."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def names(self) -> dict[str, int]:
        """Token text -> id."""
        return self._tokenizer.get_vocab()

    def pieces(self) -> list[bytes]:
        """What each token adds to a text that is decoded; nothing for those that are not written, as the end."""
        anchor = self._tokenizer.encode("a", add_special_tokens=False).ids[-1:]  # else a first blank would be dropped
        begun = self._tokenizer.decode(anchor)
        texts = self._tokenizer.decode_batch([[*anchor, token] for token in range(self.size)])
        names = {token: name for name, token in self.names().items()}
        return [
            _bytes_of(names.get(token, "")) if "\ufffd" in text else text.removeprefix(begun).encode()
            for token, text in enumerate(texts)
        ]

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json`."""
        write_text(folder / FILE, self._tokenizer.to_str())


def train_tokens(texts: Iterable[str], vocabulary: int, language: Language) -> Tokens:
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
    fixed = sorted(_fixed_phrases(language), key=lambda phrase: (-len(phrase), phrase))
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
        yield from [_closed_language(language)] * 20

    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in fixed])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN_TOKEN} $A", special_tokens=[(BEGIN_TOKEN, tokenizer.token_to_id(BEGIN_TOKEN))]
    )
    return Tokens(tokenizer)


def _bytes_of(name: str) -> bytes:
    """The bytes of a token that is no text alone, part of a letter, by its name: `<0xC3>`, or GPT-2's letters."""
    if found := re.fullmatch(r"<0x([0-9A-F]{2})>", name):
        return bytes.fromhex(found[1])
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]  # these bytes are shown by themselves
    letters = {chr(byte): byte for byte in shown}
    letters |= {chr(256 + place): byte for place, byte in enumerate(sorted({*range(256)} - {*shown}))}
    return bytes(letters[letter] for letter in name) if letters.keys() >= set(name) else b""


def _fixed_phrases(language: Language) -> set[str]:
    """What stands in every conversation, and what opens and closes its blocks."""
    before, after = conversation(human_prompt(language, None, None, None, None)).split(IMAGE_MARK)
    blocks = [("memory", "."), *((name, ". ") for name in BLOCKS)]
    markers = [mark for name, end in blocks for mark in (f"<{name}_start>: ", f"<{name}_end>{end}")]
    return {before, after.strip(), f" {START}", f" {END}", *markers}


def _closed_language(language: Language) -> str:
    """Every entity as subject and object and every predicate, as graphs spell them, in two orders."""
    entities = language.entities
    pairs = list(zip(entities, reversed(entities)))
    triplets = [Triplet(*pair, predicate) for pair in pairs for predicate in language.predicates]
    return " ".join(target_text((triplet, triplet)) for triplet in triplets)
