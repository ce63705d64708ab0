"""The models that fine-tuning starts from: LLaVA 1.5 and CLIP, in the layout of the model hub.

A base is a folder or a name on the hub: config.json, safetensors or `.bin` weights in one file or in shards with an
index, and a tokenizer (stage-2 specification, section 4). Weights are mapped into memory, so that loading in few bits
never holds them twice.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPVisionConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from operating_room.errors import UserError
from operating_room.hub import hub_errors
from operating_room.loading import LoadReport
from scene_graph_generation.config import LanguageConfig, MM2SGConfig, VisionConfig, from_mapping
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.model.pooler import ImagePooler
from scene_graph_generation.parameter_names import our_name, published_name
from scene_graph_generation.quantization import quantize

LANGUAGE_BASE = "liuhaotian/llava-v1.5-7b"
VISION_BASE = "openai/clip-vit-large-patch14-336"
Bits = Literal[4, 16, 32]

CONFIG = "config.json"
_WANTED = ("*.json", "*.safetensors", "*.bin", "tokenizer.model")  # of a repository
_SINGLE = ("model.safetensors", "pytorch_model.bin")
OWN_SETTINGS = "mm2sg"  # key of our settings in a config.json of the published form
_LANGUAGE_KEYS = {  # ours -> LLaVA's config.json
    "vocabulary": "vocab_size",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "mlp": "intermediate_size",
    "positions": "max_position_embeddings",
}


def load_base(base: str | Path, vision: str | Path | None, settings: MM2SGConfig | None = None) -> MM2SG:
    """A model with the weights of its bases as they are stored; the pooler, which no base has, is freshly initialised.

    Args:
        base: language model and projector; folder or name on the hub. A model folder of ours is a base, too.
        vision: CLIP; folder or name on the hub. None: the model reads text only, its vision tower is zero.
        settings: of a published model that is to be put on these bases; by default the bases' own sizes.

    Raises:
        UserError: a base cannot be fetched, is damaged, incomplete or of another architecture than `settings`.
    """
    folder = find_folder(base)
    tower = None if vision is None else find_folder(vision)
    found = base_settings(folder, tower)
    if settings is not None:
        check_sizes(settings.language, found.language, str(folder))
        if tower is not None:
            check_sizes(settings.vision, found.vision, str(tower))
    model = build_empty(settings or found)
    own = _is_ours(read_config(folder))
    reports = []
    for path, state in read_weights(folder):
        named = {published_name(name): tensor for name, tensor in state.items()} if own else state
        reports.append(assign(model, named, path))
    if tower is not None:
        reports += [assign(model, _of_clip(state), path) for path, state in read_weights(tower)]
    if wrong := next((report for report in reports if report.reshaped), None):
        raise UserError(f"{wrong.path}: {wrong.reshaped[0]} has another shape than config.json says; copy it again")
    empty = {name: tensor for name, tensor in model.state_dict().items() if tensor.is_meta}
    if tower is None:
        blank = {name: tensor for name, tensor in empty.items() if name.startswith("vision.")}
        model.load_state_dict(
            {name: torch.zeros(tensor.shape, dtype=torch.bfloat16) for name, tensor in blank.items()},
            strict=False,
            assign=True,
        )
        empty = {name: tensor for name, tensor in empty.items() if name not in blank}
    if empty:
        first = next(iter(empty))
        where, right = (tower, VISION_BASE) if first.startswith("vision.") else (folder, LANGUAGE_BASE)
        raise UserError(
            f"{where}: {len(empty)} weights are missing, the first is {published_name(first)}; "
            f"give a whole copy of {right}"
        )
    return model


def set_precision(model: MM2SG, bits: Bits, device: torch.device | str = "cpu") -> None:
    """Bring a model to `device` in float32, bfloat16, or with its language model in 4 bits and the rest in bfloat16.

    The point encoder and all buffers stay float32 (stage-2 specification, section 11).
    """
    dtype = torch.float32 if bits == 32 else torch.bfloat16
    if bits == 4:
        quantize(model, device)
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point():
            wanted = torch.float32 if name.startswith("pooler.point_encoder.") else dtype
            parameter.data = parameter.data.to(device, wanted)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = buffer.to(device, torch.float32 if buffer.is_floating_point() else None)


def find_folder(name: str | Path) -> Path:
    """The folder of a base: `name` itself, or the hub's copy in the local cache, fetched if needed.

    Raises:
        UserError: it is neither here nor can be fetched.
    """
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    with hub_errors(str(name)):
        return Path(snapshot_download(str(name), allow_patterns=list(_WANTED)))


def base_settings(folder: Path, vision: Path | None) -> MM2SGConfig:
    """Sizes of a model on these bases, from their config.json; without `vision` the published tower's.

    Raises:
        UserError: a config.json is missing, damaged, or of another kind of model.
    """
    values = read_config(folder)
    if _is_ours(values):
        return from_mapping(MM2SGConfig, values, str(folder / CONFIG))
    if OWN_SETTINGS in values:
        return from_mapping(MM2SGConfig, values[OWN_SETTINGS], f"{folder / CONFIG}: {OWN_SETTINGS}")
    if missing := [key for key in _LANGUAGE_KEYS.values() if not isinstance(values.get(key), int)]:
        raise UserError(f"{folder / CONFIG}: has no {missing[0]}; this is no LLaVA model, give {LANGUAGE_BASE}")
    return MM2SGConfig(
        vision=_vision_sizes(vision, values.get("mm_vision_select_layer", VisionConfig.feature_layer)),
        language=LanguageConfig(**{ours: values[theirs] for ours, theirs in _LANGUAGE_KEYS.items()}),
        max_length=values.get("tokenizer_model_max_length", MM2SGConfig.max_length),
    )


def language_values(config: LanguageConfig) -> dict[str, int]:
    """The sizes of a language model as LLaVA's config.json names them."""
    return {theirs: getattr(config, ours) for ours, theirs in _LANGUAGE_KEYS.items()}


def check_sizes(wanted: Any, found: Any, where: str) -> None:
    """Two settings of the same kind must agree, or `where` is the wrong base."""
    for name, value in vars(wanted).items():
        if name != "feature_layer" and value != getattr(found, name):
            raise UserError(
                f"{where}: is another base than the model was trained on ({name} is {getattr(found, name)} here, "
                f"{value} there); give the right one"
            )


def build_empty(settings: MM2SGConfig) -> MM2SG:
    """A model whose parameters have shapes only, except the pooler; buffers that are computed are there."""
    with torch.device("meta"):
        model = MM2SG(settings)
    model.pooler = ImagePooler(settings)
    nn.init.normal_(model.pooler.project_audio.weight, std=0.02)
    nn.init.zeros_(model.pooler.project_audio.bias)
    model.language.model.rotary_emb = LlamaRotaryEmbedding(model.language.config)
    embeddings = model.vision.clip.embeddings
    embeddings.register_buffer("position_ids", torch.arange(embeddings.num_positions).expand(1, -1), persistent=False)
    return model.eval()


def assign(model: MM2SG, state: Mapping[str, Tensor], source: Path) -> LoadReport:
    """Put tensors with published names into a model as they are; what does not fit is left out and reported."""
    own = model.state_dict()
    report = LoadReport(source, [], [], [], [])
    fitting = {}
    for published, tensor in state.items():
        try:
            name = our_name(published)
        except UserError:
            name = published
        if name is None:
            continue
        if name not in own:
            report.unexpected.append(published)
        elif own[name].shape != tensor.shape:
            report.reshaped.append(published)
        else:
            fitting[name] = tensor
            report.matched.append(published)
    model.load_state_dict(fitting, strict=False, assign=True)
    return report


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a folder.

    Raises:
        UserError: it is missing or damaged.
    """
    return read_settings(folder / CONFIG)


def read_settings(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); copy the whole folder again") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: must hold an object of settings; copy it again")
    return values


def read_weights(folder: Path) -> Iterator[tuple[Path, dict[str, Tensor]]]:
    """The weight files of a folder, one after the other.

    Raises:
        UserError: there are none, or one is missing or damaged.
    """
    for name in _SINGLE:
        index = folder / f"{name}.index.json"
        if index.is_file():
            try:
                names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(f"{index}: is no list of weight files; copy it again") from error
            if outside := [shard for shard in names if Path(str(shard)).name != shard]:
                raise UserError(f"{index}: names a file outside its folder ({outside[0]}); do not trust this copy")
        elif (folder / name).is_file():
            names = [name]
        else:
            continue
        for shard in names:
            yield folder / shard, read_tensors(folder / shard)
        return
    raise UserError(f"{folder}: holds no weights ({' or '.join(_SINGLE)}, or shards with an index); copy it again")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors or `.bin` file, mapped into memory; nothing else is unpickled.

    Raises:
        UserError: the file is missing, damaged, or holds anything but named tensors.
    """
    if not path.is_file():
        raise UserError(f"{path}: is missing; copy the whole folder again")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (OSError, SafetensorError, UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise UserError(f"{path}: damaged, or not safe to read ({reason}); copy it again") from error
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise UserError(f"{path}: holds something else than named tensors; give a model's weights")
    return state


def _vision_sizes(folder: Path | None, feature_layer: int) -> VisionConfig:
    if folder is None:
        return VisionConfig(feature_layer=feature_layer)
    values = read_config(folder)
    clip: Any = CLIPVisionConfig(**values.get("vision_config") or values)  # of all of CLIP, or of its vision tower
    return VisionConfig(
        image_size=clip.image_size,
        patch_size=clip.patch_size,
        width=clip.hidden_size,
        layers=clip.num_hidden_layers,
        heads=clip.num_attention_heads,
        mlp=clip.intermediate_size,
        feature_layer=feature_layer,
    )


def _is_ours(values: Mapping[str, Any]) -> bool:
    """Whether a config.json is one of our model folders."""
    return "language" in values


def _of_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """CLIP's vision part under the names it has in the published model; its text part is not used."""
    start = "vision_model."
    tower = "model.vision_tower.vision_tower."
    return {tower + name: tensor for name, tensor in state.items() if name.startswith(start)}
