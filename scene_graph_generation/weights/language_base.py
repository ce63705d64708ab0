"""The weights of a language model alone, as its folder on the hub has them, under the names that they have here."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from operating_room.errors import UserError
from scene_graph_generation.model.mm2sg import MM2SG


def language_name(model: MM2SG) -> Callable[[str], str]:
    """Our name of a weight, which is the model's own; some files leave out what all names begin with."""
    known, prefix = set(model.language.state_dict()), model.language.base_model_prefix

    def ours(name: str) -> str:
        return f"language.{name if name in known else f'{prefix}.{name}'}"

    return ours


def read_by_library(folder: Path) -> dict[str, Tensor]:
    """The weights of files that name or divide them in another way than the model does, as transformers joins them.

    So are those of mixtures of experts and of some older models. All are in memory at once then, as they are stored.

    Raises:
        UserError: transformers cannot read them.
    """
    from transformers import AutoModelForCausalLM

    try:
        with _no_bars():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype="auto",
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,  # never a pickle
                output_loading_info=True,
            )
    except Exception as error:  # the library reports damage of many kinds in as many ways
        reason = " ".join(str(error).split())[:150] or type(error).__name__
        raise UserError(f"{folder}: transformers cannot read its weights ({reason}); copy it again") from error
    model, told = loaded
    invented = set(told["missing_keys"])  # and freshly initialised
    return {name: tensor.detach() for name, tensor in model.state_dict().items() if name not in invented}


@contextmanager
def _no_bars() -> Generator[None]:
    """Progress is shown in our way."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
