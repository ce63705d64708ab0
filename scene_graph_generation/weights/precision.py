"""A model before it has weights, the memory it will take, and its number format: 32, 16 or 4 bits.

Weights are read as mapped files; `set_precision` converts one after the other, so that they are never held twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from computing.machine import require_memory
from operating_room.errors import UserError
from operating_room.files.tensors import check_numbers
from operating_room.work.progress import track
from scene_graph_generation.config.settings import MM2SGConfig
from scene_graph_generation.model.mm2sg import MM2SG, language_model
from scene_graph_generation.model.pooler import ImagePooler
from scene_graph_generation.weights.quantization import NF4_BYTES, quantizable, quantize

Bits = Literal[4, 16, 32]
LARGE = 1_000_000_000  # parameters from which a CPU, too, takes 16 bits unless it is told otherwise
MOST_LAYERS = 1000  # a sanity check: a damaged number must not keep somebody waiting for hours

_POINTS = "pooler.point_encoder."


def outline(settings: MM2SGConfig, where: object, pictures: bool = True) -> MM2SG:
    """The model with shapes only, which costs no memory whatever its sizes are.

    Args:
        settings: its sizes.
        where: they come from, for messages.
        pictures: without, it reads text only and has nothing in front of its language model.

    Raises:
        UserError: no model can be built with these sizes.
    """
    deepest = max(settings.vision.layers, settings.pooler.layers, settings.language.layers, *settings.points.depths)
    if deepest > MOST_LAYERS:
        raise UserError(f"{where}: asks for {deepest} layers, no such model exists; copy it again")
    try:
        with torch.device("meta"):
            model = MM2SG(settings)
    except Exception as error:  # three libraries check these sizes, each with exceptions of its own
        reason = str(error).strip().splitlines()[0][:150] if str(error).strip() else type(error).__name__
        raise UserError(f"{where}: describes no model that can be built ({reason}); copy it again") from error
    if not pictures:
        for part in ("vision", "pooler", "projector"):
            model.register_module(part, None)
    return model.eval()


def build_empty(settings: MM2SGConfig, where: object = "the settings", pictures: bool = True) -> MM2SG:
    """`outline` with a freshly initialised pooler, which no base has, and with the buffers that are computed."""
    model = outline(settings, where, pictures)
    with init_empty_weights():  # parameters without memory, buffers (rotary tables) as they are
        model.language = language_model(settings.language)
    model.language.tie_weights()
    if pictures:
        model.pooler = published_pooler(settings)
        embeddings = model.vision.clip.embeddings
        positions = torch.arange(embeddings.num_positions).expand(1, -1)
        embeddings.register_buffer("position_ids", positions, persistent=False)
    return model.eval()


def published_pooler(settings: MM2SGConfig) -> ImagePooler:
    """A pooler as the published training around a base begins with it (stage-2 specification, section 5, 6 and 9).

    Positions, sound and masks are drawn otherwise there than in a model from scratch.
    """
    pooler = ImagePooler(settings)
    bert = pooler.views.bert
    nn.init.normal_(bert.embeddings.position_embeddings.weight, std=bert.config.initializer_range)
    nn.init.normal_(pooler.project_audio.weight, std=0.02)
    nn.init.zeros_(pooler.project_audio.bias)
    for convolution in () if pooler.mask_encoder is None else pooler.mask_encoder.convolutions:
        assert isinstance(convolution, nn.Conv2d)
        convolution.reset_parameters()
    return pooler


def default_bits(model: MM2SG, device: torch.device | str) -> Bits:
    """16, but 32 for a small model on a CPU, where bfloat16 is no faster."""
    large = sum(parameter.numel() for parameter in model.parameters()) >= LARGE
    return 32 if torch.device(device).type == "cpu" and not large else 16


def memory_needed(model: MM2SG, bits: Bits) -> int:
    """Bytes of a model's weights; of an outline, too."""
    return sum(int(parameter.numel() * size) for parameter, size in _sizes(model, bits))


def check_memory(model: MM2SG, bits: Bits, device: torch.device | str, where: object, more: int = 0) -> None:
    """Stop before weights are read that have no place.

    Args:
        model: an outline will do.
        bits: of its weights.
        device: where they are to be.
        where: they come from, for messages.
        more: bytes needed beside them.

    Raises:
        UserError: the device has less free memory; it says what each number of bits needs.
    """
    needs = {choice: memory_needed(model, choice) + more for choice in sorted(get_args(Bits), reverse=True)}
    told = ", ".join(f"{choice} bits need {needed / 1e9:.1f} GB" for choice, needed in needs.items())
    advice = f"{told}: choose fewer with --bits, end other programs or take a larger machine"
    require_memory(needs[bits], f"{where}: the model in {bits} bits", torch.device(device), advice)


def set_precision(
    model: MM2SG,
    bits: Bits,
    device: torch.device | str = "cpu",
    where: object = "the model's weights",
    language_only: bool = False,
) -> None:
    """Bring a model to `device` in float32, bfloat16, or with its language model in 4 bits and the rest in bfloat16.

    The point encoder and all buffers stay float32 (stage-2 specification, section 11).

    Args:
        model: its weights may still be in mapped files.
        bits: see above.
        device: where it is to be.
        where: its weights come from, for messages.
        language_only: all but the language model in float32, since it is to be trained and must not be rounded before.

    Raises:
        UserError: a weight is NaN or infinite.
    """
    if bits == 4:
        quantize(model, device, where=where)
    for name, parameter in track(list(model.named_parameters()), "reading weights"):
        if parameter.is_floating_point():
            of_it = 32 if language_only and not name.startswith("language.") else bits
            parameter.data = _converted(name, parameter.data, _dtype(name, of_it), device, where)
    for prefix, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            wanted = torch.float32 if buffer.is_floating_point() else buffer.dtype
            module._buffers[name] = _converted(f"{prefix}.{name}", buffer, wanted, device, where)


def _converted(name: str, tensor: Tensor, dtype: torch.dtype, device: torch.device | str, where: object) -> Tensor:
    moved = tensor.to(device, dtype)
    check_numbers({name: moved}, where)
    return moved


def _dtype(name: str, bits: Bits) -> torch.dtype:
    return torch.float32 if bits == 32 or name.startswith(_POINTS) else torch.bfloat16


def _sizes(model: MM2SG, bits: Bits) -> Iterator[tuple[nn.Parameter, float]]:
    """Each parameter and the bytes of one of its values."""
    linear = {f"language.{name}.weight" for name, _ in quantizable(model)}
    for name, parameter in model.named_parameters():
        small = bits == 4 and name in linear
        yield parameter, NF4_BYTES if small else _dtype(name, bits).itemsize
