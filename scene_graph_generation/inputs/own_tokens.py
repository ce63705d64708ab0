"""The tokenizer, conversation and end tokens that another language model than the published one brings with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tokenizers import Tokenizer, models

from operating_room.errors import UserError
from operating_room.files.atomic import write_json, write_text
from operating_room.graphs.prompts import IMAGE_MARK, ROLES
from scene_graph_generation.inputs.example import IGNORED, IMAGE
from scene_graph_generation.inputs.tokens import Tokens

TOKENIZER_CONFIG, TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
GENERATION_CONFIG = "generation_config.json"
_QUESTION = "WHAT-IS-ASKED-STANDS-HERE"
# A template that tells the day would make every day's prompt another one. That of Llama 3.1 has this one if no clock.
_CLOCK = "{% macro strftime_now(form) %}26 Jul 2024{% endmacro %}"


class OwnTokens(Tokens):
    """A language model's own tokenizer, with what stands before and after a question, and what ends an answer.

    Args:
        tokenizer: of its file.
        special: name of a special token (`eos_token` at least) -> its text.
        end_ids: further ids that end an answer.
        template: how it writes a conversation (Jinja, run by transformers in a sandbox); None: as published, Vicuna's.

    Raises:
        UserError: it has no token that ends an answer, or the template does not show what is asked.
    """

    def __init__(
        self, tokenizer: Tokenizer, special: Mapping[str, str], end_ids: tuple[int, ...], template: str | None
    ) -> None:
        super().__init__(tokenizer, special["eos_token"])
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.template = template
        self.end_ids = tuple(dict.fromkeys((self.end_id, *end_ids)))
        self.size = max(tokenizer.get_vocab().values(), default=-1) + 1
        self._special = dict(special)
        self._around = None if template is None else _rendered(template, special)
        # A template writes the beginning itself; a tokenizer may also end every text, which is no answer's end.
        begun = [] if self._around else tokenizer.encode("").ids
        self._begin = [token for token in begun if token not in self.end_ids]

    def conversation(self, prompt: str, roles: tuple[str, str] = ROLES) -> str:
        """The conversation up to where the answer begins; a chat template has roles of its own.

        Raises:
            UserError: it has, and others are asked for.
        """
        if self._around is None:
            return super().conversation(prompt, roles)
        if roles != ROLES:
            raise UserError("this language model has a chat template with roles of its own; leave out --roles")
        return self._around[0] + prompt + self._around[1]

    def encode(self, prompt: str, answer: str | None = None) -> tuple[list[int], list[int]]:
        """As `Tokens.encode`; the answer is tokenised on its own, so that it is learnt as it will be generated.

        Raises:
            UserError: see there.
        """
        first, mark, rest = prompt.partition(IMAGE_MARK)
        self.check_marks(prompt, rest, answer)
        asked = [*self._begin, *self._ids(first), *([IMAGE, *self._ids(rest)] if mark else [])]
        if answer is None:
            return asked, [IGNORED] * len(asked)
        said = [*self._ids(answer if self._around else f" {answer}"), self.end_id]
        return asked + said, [IGNORED] * len(asked) + said

    def save(self, folder: Path) -> None:
        """Write the files of these names that a model of the hub has; `read_tokens` reads both."""
        super().save(folder)
        write_json(folder / TOKENIZER_CONFIG, self._special, indent=1)
        write_json(folder / GENERATION_CONFIG, {"eos_token_id": list(self.end_ids)}, indent=1)
        if self.template is not None:
            write_text(folder / TEMPLATE, self.template)

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids


def _rendered(template: str, special: Mapping[str, str]) -> tuple[str, str]:
    """What a chat template writes before and after the user's turn, up to where the answer begins.

    Raises:
        UserError: it is damaged, or does not write down the turn as it is, once.
    """
    from transformers import PreTrainedTokenizerFast

    writer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), **special)
    try:
        text = writer.apply_chat_template(
            [{"role": "user", "content": _QUESTION}],
            chat_template=_CLOCK + template,
            add_generation_prompt=True,
            tokenize=False,
            enable_thinking=False,  # of Qwen 3 and others: the answer comes at once
        )
    except Exception as error:  # a template is a program: it may raise whatever it likes
        reason = " ".join(str(error).split())[:150] or type(error).__name__
        raise UserError(f"its chat template cannot be used ({reason}); copy it again") from error
    before, *after = str(text).split(_QUESTION)
    if len(after) != 1 or IMAGE_MARK in str(text):
        raise UserError("its chat template does not write down what is asked, once and as it is; give another model")
    return before, after[0]
