"""Folders that hold what was trained beside a base: as the published system writes them, and our safetensors form.

Published (stage-2 specification, sections 4 and 9): config.json, adapter_config.json, adapter_model.bin (LoRA),
non_lora_trainables.bin (pooler, projector, last vision layers, and every buffer of the model). Newer libraries write
the adapter as adapter_model.safetensors: of either file the safetensors form is taken if it is there; it may lie beside
the other form only with the same weights.
Ours: config.json and adapter.json, trained.safetensors with all of it, tokenizer.json.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from computing.loading import LoadReport
from operating_room.errors import UserError
from operating_room.files.atomic import atomic_path, write_json
from operating_room.files.tensors import check_numbers, read_tensors, save_pickle, write_safetensors
from scene_graph_generation.config.language import OtherLanguage
from scene_graph_generation.config.mapping import from_mapping
from scene_graph_generation.config.settings import LanguageConfig, LoraConfig, MM2SGConfig, to_mapping
from scene_graph_generation.inputs.tokens import Tokens
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.weights.adapter_config import (
    ADAPTER_CONFIG,
    base_name,
    published_adapter_config,
    read_adapter_config,
)
from scene_graph_generation.weights.adapters import ADAPTER, adapted_layers, add_lora, freeze, is_adapter, targets
from scene_graph_generation.weights.base_models import (
    CONFIG,
    OWN_SETTINGS,
    assign,
    base_settings,
    find_folder,
    is_built,
    language_values,
    load_base,
    read_config,
    read_settings,
)
from scene_graph_generation.weights.parameter_names import WRAPPED, our_name, published_name
from scene_graph_generation.weights.precision import Bits, check_memory, default_bits, outline, set_precision

ADAPTER_WEIGHTS, OTHER_WEIGHTS = "adapter_model.bin", "non_lora_trainables.bin"
OWN_ADAPTER, OWN_WEIGHTS = "adapter.json", "trained.safetensors"
_IMAGE_POOLER = "model.image_pooler."
_POOLER = "image_pooler.bert.encoder."
_HEADS = 16  # of EgoExOR's pooler
_VISION_LAYERS = "model.vision_tower.vision_tower.vision_model.encoder.layers."


@dataclass(frozen=True)
class FineTuned:
    """What a folder adds to its bases."""

    folder: Path
    base: str
    vision: str | None
    lora: LoraConfig
    state: dict[str, Tensor]  # under published names

    @property
    def reads_pictures(self) -> bool:
        """Whether it has what stands in front of the language model; one of text only has an adapter alone."""
        return any(_POOLER in name for name in self.state)

    def with_branches(self, settings: MM2SGConfig) -> MM2SGConfig:
        """The settings of EgoExOR's model where the weights are its: no file of the published folder says them.

        Its pooler has two branches, gaze and hands, and no masks. Sizes are read off the weights; of heads these tell
        nothing, it has 16.
        """
        sizes = {
            name.split(_IMAGE_POOLER)[1]: tensor.shape for name, tensor in self.state.items() if _IMAGE_POOLER in name
        }
        if "gaze_encoder.mlp.0.weight" not in sizes or settings.pooler.branches == "ego_exo":
            return settings
        try:
            pooler = replace(
                settings.pooler,
                branches="ego_exo",
                layers=1 + max(int(name.split(".")[3]) for name in sizes if name.startswith("bert.encoder.layer.")),
                heads=_HEADS,
                mlp=sizes["bert.encoder.layer.0.intermediate.dense.weight"][0],
                max_views=sizes["bert.embeddings.position_embeddings.weight"][0] // settings.vision.tokens,
                audio_width=sizes["audio_projector.weight"][1],
                body_width=sizes["gaze_encoder.mlp.0.weight"][0],
            )
        except (KeyError, IndexError, ValueError) as error:
            raise UserError(
                f"{self.folder}: lacks a part of EgoExOR's image pooler ({error}); copy it again"
            ) from error
        return replace(settings, pooler=pooler, masks=0, modalities=("views", "cloud", "audio", "gaze", "hands"))


def read_fine_tuned(folder: Path) -> FineTuned:
    """Read a folder of either form; which one is decided by its files, never by its name.

    Raises:
        UserError: a file is missing or damaged, or the adapter is of a kind that is unknown here.
    """
    files = trained_files(folder)
    if (folder / OWN_ADAPTER).is_file():
        card = read_settings(folder / OWN_ADAPTER)
        lora = from_mapping(LoraConfig, card.get("lora"), str(folder / OWN_ADAPTER))
        state = {published_name(name): tensor for file in files for name, tensor in read_tensors(file).items()}
        base = base_name(card.get("base"), folder / OWN_ADAPTER)
        vision = card.get("vision")
    else:
        lora, base = read_adapter_config(folder / ADAPTER_CONFIG)
        others, adapter = map(read_tensors, files)
        if twice := sorted(others.keys() & adapter.keys()):
            raise UserError(f"{files[1]}: has {twice[0]}, which {files[0].name} has, too; copy the folder again")
        state = others | adapter
        vision = read_config(folder).get("mm_vision_tower")
    if vision is not None:
        vision = base_name(vision, folder / CONFIG)
    _check_rank(state, lora.rank, folder)
    check_numbers(state, folder)
    return FineTuned(folder, base, vision, lora, state)


def trained_files(folder: Path) -> list[Path]:
    """The files of a folder of either form that hold its weights.

    Raises:
        UserError: one is missing, or another that belongs to them.
    """
    if (folder / OWN_ADAPTER).is_file():
        if not (folder / OWN_WEIGHTS).is_file():
            raise UserError(f"{folder / OWN_WEIGHTS}: is missing; give the whole model again")
        return [folder / OWN_WEIGHTS]
    for name in (CONFIG, ADAPTER_CONFIG):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: {name} is missing; copy the whole published folder")
    return [_either_form(folder, name) for name in (OTHER_WEIGHTS, ADAPTER_WEIGHTS)]


def load_fine_tuned(
    tuned: FineTuned,
    base: str | Path | None = None,
    vision: str | Path | None = None,
    bits: Bits | None = None,
    device: torch.device | str = "cpu",
) -> tuple[MM2SG, LoadReport]:
    """The bases with what was trained beside them, and what was found; the adapter is not merged.

    Args:
        base, vision: folder or name on the hub, in place of those that the folder names.
        bits: 32, 16 (bfloat16) or 4 (language model only); None: what suits the model and the device.

    Raises:
        UserError: a base is missing or another one, the folder does not hold the whole of what was trained, a weight is
            no number, or there is not the memory for it all.
    """
    base, vision = find_folder(base or tuned.base), vision or tuned.vision
    tower = find_folder(vision) if vision is not None and tuned.reads_pictures else None
    settings = tuned.with_branches(base_settings(tuned.folder, tower))
    planned = outline(settings, tuned.folder / CONFIG, tuned.reads_pictures)
    bits = bits or default_bits(planned, device)
    adapter_size = sum(4 * tensor.numel() for name, tensor in tuned.state.items() if is_adapter(name))  # float32
    check_memory(planned, bits, device, tuned.folder, adapter_size)
    model = load_base(base, tower, settings, tuned.reads_pictures)
    matrices = {name: tensor for name, tensor in tuned.state.items() if is_adapter(name)}
    others = assign(model, {name: t for name, t in tuned.state.items() if name not in matrices}, tuned.folder)
    set_precision(model, bits, device, base if tower is None else f"{base} and {tower}")
    add_lora(model, tuned.lora.rank, tuned.lora.alpha, tuned.lora.dropout)
    adapter = assign(model, matrices, tuned.folder)
    for name, parameter in model.named_parameters():
        if is_adapter(name):
            parameter.data = parameter.data.to(device, torch.float32)
    report = _check_complete(model, others, adapter)
    if any(name.startswith("projector.") for name in map(our_name, report.matched) if name):
        layers = [int(name.split(_VISION_LAYERS)[1].split(".")[0]) for name in report.matched if _VISION_LAYERS in name]
        freeze(model, settings.vision.layers - min(layers, default=settings.vision.layers))
    else:
        freeze(model, None)
    return model.eval(), report


def save_published(folder: Path, model: MM2SG, base: str, vision: str | None, dtype: torch.dtype | None = None) -> None:
    """Write what is trainable in the published form; the weights come last, so a folder with all files is complete.

    Args:
        base, vision: what the model was trained on, folder or name on the hub.
        dtype: of floating-point weights; by default what they have in the model.

    Raises:
        UserError: the model has no adapter or another language model than the published one, or the folder cannot be
            written.
    """
    _published_language(model)
    lora = _lora_of(model)
    write_json(folder / CONFIG, _published_config(model, vision), indent=2)
    write_json(folder / ADAPTER_CONFIG, published_adapter_config(lora, base, targets(model)), indent=2)
    with ExitStack() as both:
        for name, state in ((OTHER_WEIGHTS, other_state(model)), (ADAPTER_WEIGHTS, adapter_state(model))):
            temporary = both.enter_context(atomic_path(folder / name))
            save_pickle(temporary, {key: _stored(tensor, dtype) for key, tensor in state.items()})
        # Each is renamed as its context ends, the last one first. A process that is killed in between leaves a folder
        # that lacks a file, never the new adapter beside what was trained with an older one.
        (folder / OTHER_WEIGHTS).unlink(missing_ok=True)


def save_trained(folder: Path, model: MM2SG, tokens: Tokens, base: str, vision: str | None) -> None:
    """Write what is trainable in our form: no pickle, no copy of the base. Arguments as of `save_published`."""
    lora = _lora_of(model)
    write_json(folder / CONFIG, to_mapping(model.settings), indent=1)
    write_json(folder / OWN_ADAPTER, {"base": base, "vision": vision, "lora": asdict(lora)}, indent=1)
    tokens.save(folder)
    write_safetensors(folder / OWN_WEIGHTS, {name: _stored(tensor, None) for name, tensor in _trained(model)})


def adapter_state(model: MM2SG) -> dict[str, Tensor]:
    """The entries of adapter_model.bin."""
    return {WRAPPED + _published_name(model, name): tensor for name, tensor in _trained(model) if is_adapter(name)}


def other_state(model: MM2SG) -> dict[str, Tensor]:
    """The entries of non_lora_trainables.bin: trainable parameters without the adapter, and every buffer."""
    trained = {
        WRAPPED + _published_name(model, name): tensor for name, tensor in _trained(model) if not is_adapter(name)
    }
    return trained | {WRAPPED + name: tensor for name, tensor in _computed_buffers(model)}


def _published_name(model: MM2SG, ours: str) -> str:
    return published_name(ours, model.settings.pooler.branches == "ego_exo")


def _trained(model: MM2SG) -> Iterator[tuple[str, Tensor]]:
    """Trainable parameters and stored buffers, under our names."""
    yield from ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
    stored = model.state_dict().keys()
    yield from ((name, buffer) for name, buffer in model.named_buffers() if name in stored)


def _computed_buffers(model: MM2SG) -> Iterator[tuple[str, Tensor]]:
    """Buffers that the published files hold and no reader needs: rotary tables, position and type ids."""
    language, vision, pooler = _published_language(model), model.settings.vision, model.settings.pooler
    width = language.width // language.heads
    frequencies = 1 / 10000 ** (torch.arange(0, width, 2).float() / width)
    angles = torch.outer(torch.arange(language.positions).float(), frequencies).repeat(1, 2)[None, None]
    for layer in range(language.layers):
        rotary = f"model.layers.{layer}.self_attn.rotary_emb"
        yield f"{rotary}.inv_freq", frequencies
        yield f"{rotary}.cos_cached", angles.cos()
        yield f"{rotary}.sin_cached", angles.sin()
    positions = torch.arange(vision.tokens * pooler.max_views)[None]
    yield "model.vision_tower.vision_tower.vision_model.embeddings.position_ids", torch.arange(vision.tokens + 1)[None]
    yield "model.image_pooler.bert.embeddings.position_ids", positions
    yield "model.image_pooler.bert.embeddings.token_type_ids", torch.zeros_like(positions)


def _check_complete(model: MM2SG, others: LoadReport, adapter: LoadReport) -> LoadReport:
    """One report of both; an adapter, pooler or projector that does not fit the model is an error.

    A folder may lack the pooler as a whole (a model that reads text only), and the projector, which the base has.
    """
    matched = {our_name(name) for name in (*others.matched, *adapter.matched)}
    parts = (
        "pooler.",
        "projector.",
        *(f"vision.clip.encoder.layers.{i}." for i in range(model.settings.vision.layers)),
    )
    given = [name for name, _ in model.named_parameters() if name in matched]
    begun = tuple(part for part in parts if any(name.startswith(part) for name in given))
    missing = [
        _published_name(model, name)
        for name in model.state_dict()
        if name not in matched and (is_adapter(name) or name.startswith(begun or ("-",)))
    ]
    report = LoadReport(
        others.path,
        others.matched + adapter.matched,
        missing,
        others.unexpected + adapter.unexpected,
        others.reshaped + adapter.reshaped,
    )
    lost = [name for name in report.unexpected if is_adapter(name) or "image_pooler" in name or is_built(name)]
    for names, what in ((report.reshaped, "has another shape"), (lost, "is unknown here"), (missing, "is missing")):
        if names:
            raise UserError(
                f"{report.path}: does not fit its base and config.json ({names[0]} {what}, {len(names)} in all); "
                "give the base it was trained on, or copy the folder again"
            )
    return report


def _either_form(folder: Path, name: str) -> Path:
    """A published file, which newer libraries write as safetensors.

    Raises:
        UserError: it is there in neither form, or in both with different weights.
    """
    newer = (folder / name).with_suffix(".safetensors")
    if newer.is_file():
        if (folder / name).is_file():
            here, there = read_tensors(newer), read_tensors(folder / name)
            if other := [key for key in here.keys() | there.keys() if not _is_same(here.get(key), there.get(key))]:
                told = f"has other weights than {name} beside it ({min(other)})"
                raise UserError(f"{newer}: {told}; move away the one that is not to be used")
        return newer
    if not (folder / name).is_file():
        raise UserError(f"{folder}: {name} (or {newer.name}) is missing; copy the whole published folder")
    return folder / name


def _is_same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and torch.equal(one, other)


def _check_rank(state: Mapping[str, Tensor], rank: int, folder: Path) -> None:
    """The adapter's matrices must have the rank of its settings.

    Raises:
        UserError: one has not.
    """
    for name, tensor in state.items():
        if is_adapter(name):
            found = tensor.shape[0 if "lora_A" in name else -1] if tensor.dim() == 2 else 0
            if found != rank:
                raise UserError(
                    f"{folder}: {name} is of {tuple(tensor.shape)}, not of rank {rank} as the settings beside it say; "
                    "copy the whole folder again"
                )


def _lora_of(model: MM2SG) -> LoraConfig:
    for _, layer in adapted_layers(model):
        dropout = getattr(layer.lora_dropout[ADAPTER], "p", 0.0)  # an identity if there is none
        return LoraConfig(layer.r[ADAPTER], layer.lora_alpha[ADAPTER], dropout)
    raise UserError("this model has no adapter; save it as a whole model instead")


def _published_language(model: MM2SG) -> LanguageConfig:
    language = model.settings.language
    if isinstance(language, OtherLanguage):
        raise UserError("the published form has no place for another language model than Llama 2; save it in our form")
    return language


def _published_config(model: MM2SG, vision: str | None) -> dict[str, Any]:
    settings, language = model.settings, _published_language(model)
    return {
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava",
        **language_values(language),
        "num_key_value_heads": language.heads,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "image_aspect_ratio": "pad",
        "mm_vision_tower": vision,
        "mm_hidden_size": settings.vision.width,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": settings.vision.feature_layer,
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "use_mm_proj": True,
        "mv_type": "learned",
        "tokenizer_model_max_length": settings.max_length,
        "tokenizer_padding_side": "right",
        OWN_SETTINGS: to_mapping(settings),
    }


def _stored(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    wanted = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to("cpu", wanted, copy=True).contiguous()
