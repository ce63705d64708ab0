"""Another language model than the published one, as its own config.json describes it.

Nothing about it is known here: sizes, rotary settings, grouped keys, tied embeddings and what else it has are read by
transformers from its own values. Code that comes with a model is never run.
"""

from __future__ import annotations

import inspect
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from operating_room.errors import UserError

# How a model is called here: with vectors in place of tokens, padded on the left, and scored where it is asked for.
_CALLED_WITH = ("inputs_embeds", "attention_mask", "position_ids", "logits_to_keep", "use_cache")
_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
_FAR = 1 << 20  # positions of a model whose config.json sets no end to them


@dataclass(frozen=True)
class OtherLanguage:
    """Any causal language model of transformers that can be given vectors in place of tokens.

    Args:
        config: the values of its config.json, with `model_type`.

    Raises:
        UserError: it is of a kind that is unknown, cannot be used here, or would need code of its own.
    """

    config: dict[str, Any]

    def __post_init__(self) -> None:
        if "auto_map" in self.config or "trust_remote_code" in self.config:
            raise UserError(
                "asks for code of its own (auto_map), and code that comes with a model is never run; take a model that "
                "transformers knows, and where it does know this one a copy of its config.json without auto_map"
            )
        if "quantization_config" in self.config:
            raise UserError(
                "describes weights of few bits; give a copy in 16 or 32 bits (fewer bits are chosen with --bits)"
            )
        model = _classes().get(type(self.library), None)
        if getattr(self.library, "is_encoder_decoder", False):
            raise UserError(f"{self._kind} is an encoder with a decoder; {_GIVE}")
        if model is None or self.library.sub_configs or _sees_what_follows(self.library):
            raise UserError(f"{self._kind} is no language model that writes one token after the other; {_GIVE}")
        taken = inspect.signature(model.forward).parameters
        if missing := [name for name in _CALLED_WITH if name not in taken]:
            raise UserError(f"{self._kind} cannot be used here, it does not take {missing[0]}; {_GIVE}")
        for name in _SIZES:
            size = getattr(self.library, name, None)
            if not isinstance(size, int) or size < 1:
                raise UserError(f"{name} of {self._kind} is {str(size)[:60]}, expected a whole number of at least 1")

    @cached_property
    def library(self) -> Any:
        """The same as transformers' own settings of the model."""
        from transformers import CONFIG_MAPPING

        if self._kind not in CONFIG_MAPPING:
            raise UserError(f"model_type {self._kind} is unknown to the installed transformers; {_GIVE}")
        try:
            return CONFIG_MAPPING[self._kind].from_dict(deepcopy(self.config))
        except Exception as error:  # each kind of model checks its values in its own way
            reason = " ".join(str(error).split())[:150] or type(error).__name__
            raise UserError(f"describes no {self._kind} that can be built ({reason}); copy it again") from error

    def build(self) -> Any:
        """The model, freshly initialised, in PyTorch's present number format and on its present device."""
        return _classes()[type(self.library)](deepcopy(self.library))

    @property
    def vocabulary(self) -> int:
        """Token ids."""
        return self.library.vocab_size

    @property
    def width(self) -> int:
        """Numbers of a token."""
        return self.library.hidden_size

    @property
    def layers(self) -> int:
        """Decoder layers."""
        return self.library.num_hidden_layers

    @property
    def positions(self) -> int:
        """The longest text with its answer, in tokens."""
        return getattr(self.library, "max_position_embeddings", None) or _FAR

    @property
    def key_width(self) -> int:
        """Numbers of a token's keys in one layer; several heads may share them (Ainslie et al. 2023)."""
        heads = self.library.num_attention_heads
        size = getattr(self.library, "head_dim", None) or self.width // heads
        return size * (getattr(self.library, "num_key_value_heads", None) or heads)

    @property
    def _kind(self) -> str:
        return str(self.config.get("model_type"))[:60]


_GIVE = "give a causal language model like Llama, Qwen or Mistral, or the published liuhaotian/llava-v1.5-7b"


def _sees_what_follows(library: Any) -> bool:
    """Whether it is a model like BERT, which attends to both sides unless its settings say that it is a decoder."""
    from transformers import MODEL_FOR_MASKED_LM_MAPPING

    return type(library) in MODEL_FOR_MASKED_LM_MAPPING and getattr(library, "is_decoder", True) is False


def _classes() -> Any:
    """Settings of a causal language model -> its class, both of transformers."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    return MODEL_FOR_CAUSAL_LM_MAPPING
