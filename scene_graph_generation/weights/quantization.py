"""The language model in 4 bits: NF4 with double quantisation (Dettmers et al. 2023; stage-2 specification, section 5).

bitsandbytes does it, on a GPU and on a CPU. It is an optional dependency: `pip install "mmor[quant]"`.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import torch
from torch import nn

from operating_room.errors import UserError
from operating_room.files.tensors import check_numbers
from operating_room.work.progress import track
from scene_graph_generation.model.mm2sg import MM2SG

# Bytes of a weight in NF4 with double quantisation: 4 bits, 8 bits for each 64 weights, 32 for each 256 of these.
NF4_BYTES = (4 + 8 / 64 + 32 / (64 * 256)) / 8


def quantize(model: MM2SG, device: torch.device | str = "cpu", where: object = "the model's weights") -> None:
    """Replace every linear layer of the language model, lm_head included as published, by its 4-bit form on `device`.

    Embeddings and norms stay as they are (and lm_head, where it is the embeddings), and so does everything outside the
    language model. Layers are done one after
    the other, so no second copy of the model is needed. An adapter is added afterwards.

    Raises:
        UserError: bitsandbytes is not installed, the model has an adapter already, or a weight is NaN or infinite
            (`where` says where it comes from): in 4 bits nobody could see it any more.
    """
    try:
        bitsandbytes: Any = import_module("bitsandbytes.nn")
    except ImportError as error:
        raise UserError('4 bits need bitsandbytes; pip install "mmor[quant]", or choose 16 bits') from error
    if any(".lora_" in name for name, _ in model.language.named_modules()):
        raise UserError("an adapter cannot be quantised; quantise the base first, then add the adapter")
    for name, layer in track(list(quantizable(model)), "reading weights into 4 bits"):
        small = bitsandbytes.Linear4bit(
            layer.in_features,
            layer.out_features,
            bias=layer.bias is not None,
            compute_dtype=torch.bfloat16,
            quant_type="nf4",
            compress_statistics=True,
            device="meta",
        )
        full = layer.weight.data.to(torch.bfloat16)
        check_numbers({f"language.{name}.weight": full}, where)
        weight = bitsandbytes.Params4bit(full, quant_type="nf4", compress_statistics=True, module=small)
        small.weight = weight.to(device)  # this quantises
        small.bias = layer.bias
        small.register_load_state_dict_pre_hook(_without_states)
        # On a CPU with AVX512-BF16 an evaluation pass would repack the weights for a kernel without a backward pass:
        # from then on LoRA gradients are wrong (cosine 0.20), with a warning only.
        small.support_avx512bf16_for_cpu = False
        model.language.set_submodule(name, small)


def _without_states(layer: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Leave out what bitsandbytes writes of how it quantised, and takes back from no file: a layer has it already.

    DeepSpeed loads the whole model from its checkpoint, and strictly.
    """
    for name in [name for name in state if name.startswith(f"{prefix}weight.")]:
        del state[name]


def quantizable(model: MM2SG) -> Iterator[tuple[str, nn.Linear]]:
    """Name within the language model, and layer, of all that is in 4 bits in a quantised model, without an adapter's.

    That is every linear layer, but for one whose weights are the embeddings.
    """
    embeddings = model.language.get_input_embeddings().weight
    for name, layer in model.language.named_modules():
        if type(layer) is nn.Linear and layer.weight is not embeddings and ".lora_" not in name:
            yield name, layer


def is_quantized(model: MM2SG) -> bool:
    """Whether `quantize` was applied (its layers are linear layers of another class)."""
    return any(isinstance(layer, nn.Linear) and type(layer) is not nn.Linear for layer in model.language.modules())
