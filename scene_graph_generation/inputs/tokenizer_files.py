"""The tokenizer in a model folder: Llama's, one that another language model brings, or a closed-language one of ours.

What another language model brings: `tokenizer.json`; the special tokens of `tokenizer_config.json`; a chat template,
from `chat_template.jinja` or `tokenizer_config.json`; `eos_token_id` of `generation_config.json` and `config.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from operating_room.errors import UserError
from operating_room.files.raw_files import read_bytes
from operating_room.files.readers import read_json
from scene_graph_generation.inputs.llama_tokens import LLAMA_FILE, read_llama_tokenizer
from scene_graph_generation.inputs.own_tokens import GENERATION_CONFIG, TEMPLATE, TOKENIZER_CONFIG, OwnTokens
from scene_graph_generation.inputs.tokens import FILE, Tokens

CONFIG = "config.json"
TOKENIZER = (FILE, LLAMA_FILE, TOKENIZER_CONFIG, TEMPLATE, GENERATION_CONFIG, CONFIG)  # all that a tokenizer is
_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")  # that a template may name


def read_tokens(folder: Path) -> Tokens:
    """The tokenizer in a model folder, with its conversation and what ends an answer.

    Raises:
        UserError: there is none, a file is damaged, no token ends an answer, or the chat template cannot be used.
    """
    if _brings_its_own(folder):
        return _read_own(folder)
    tokens = Tokens(_read_tokenizer(folder))
    if len(tokens.encode("")[0]) != 1:
        raise UserError("the tokenizer does not begin a text with one token of its own; expected Llama's or ours")
    return tokens


def is_other_language(values: Mapping[str, Any]) -> bool:
    """Whether a config.json is of a language model alone, as the hub has them, and not of LLaVA or of ours.

    A LLaVA that is trained without vision tower (downstream) is written as `llama`, with LLaVA's own keys beside.
    """
    kind = str(values.get("model_type", "llava"))
    return not kind.startswith("llava") and not (kind == "llama" and "mm_projector_type" in values)


def _brings_its_own(folder: Path) -> bool:
    """Our folders say so by what is written beside `tokenizer.json` for such a model only."""
    values = _settings(folder / CONFIG)
    return is_other_language(values) or ("language" in values and (folder / TOKENIZER_CONFIG).is_file())


def _read_tokenizer(folder: Path) -> Tokenizer:
    path = folder / FILE
    if path.is_file():
        try:
            return Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises nothing more special
            raise UserError(f"{path}: is no tokenizer ({error}); copy it again from where the model came") from error
    if (folder / LLAMA_FILE).is_file():
        return read_llama_tokenizer(folder / LLAMA_FILE)
    raise UserError(f"{folder}: holds no tokenizer; expected {FILE} or Llama's {LLAMA_FILE}")


def _read_own(folder: Path) -> OwnTokens:
    """What the files of a language model's folder say.

    Raises:
        UserError: a file is missing or damaged, no token ends an answer, or the chat template cannot be used.
    """
    tokenizer = _read_tokenizer(folder)
    values = _settings(folder / TOKENIZER_CONFIG)
    special = {name: text for name in _SPECIAL if (text := _text(values.get(name))) is not None}
    ends = [_settings(folder / name).get("eos_token_id") for name in (GENERATION_CONFIG, CONFIG)]
    end_ids = [i for ids in ends for i in (ids if isinstance(ids, list) else [ids]) if isinstance(i, int)]
    if "eos_token" not in special:
        found = next((text for i in end_ids if i >= 0 and (text := tokenizer.id_to_token(i)) is not None), None)
        if found is None:
            raise UserError(
                f"{folder}: names no token that ends an answer (eos_token of {TOKENIZER_CONFIG}, eos_token_id of "
                f"{GENERATION_CONFIG} or {CONFIG}); copy the whole folder again"
            )
        special["eos_token"] = found
    try:
        return OwnTokens(tokenizer, special, tuple(end_ids), _template(folder, values))
    except UserError as error:
        raise UserError(f"{folder}: {error}") from error


def _template(folder: Path, values: Mapping[str, Any]) -> str | None:
    """The chat template; of several the one that is named `default`."""
    if (folder / TEMPLATE).is_file():
        try:
            return read_bytes(folder / TEMPLATE).decode()
        except UnicodeDecodeError as error:
            raise UserError(f"{folder / TEMPLATE}: is no text; copy it again") from error
    template = values.get("chat_template")
    if isinstance(template, list):
        named = {item.get("name"): item.get("template") for item in template if isinstance(item, dict)}
        template = named.get("default")
    return template if isinstance(template, str) and template.strip() else None


def _settings(path: Path) -> dict[str, Any]:
    """A JSON object; none if there is no such file."""
    values = read_json(path) if path.is_file() else {}
    if not isinstance(values, dict):
        raise UserError(f"{path}: must hold an object of settings; copy it again")
    return values


def _text(token: Any) -> str | None:
    """The text of a special token, which may be written with how it is found."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) and text else None
