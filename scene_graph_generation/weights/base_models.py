"""The models that fine-tuning starts from: LLaVA 1.5 or another language model, and CLIP, as the model hub has them.

A base is a folder or a name on the hub: config.json, safetensors or `.bin` weights in one file or in shards with an
index, and a tokenizer (stage-2 specification, section 4). Weights are mapped into memory, so that loading in few bits
never holds them twice.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPVisionConfig

from computing.hub import hub_errors
from computing.loading import LoadReport
from operating_room.errors import UserError
from operating_room.files.readers import read_json
from operating_room.files.tensors import read_tensors
from operating_room.work.processes import is_first
from scene_graph_generation.config.language import OtherLanguage
from scene_graph_generation.config.setting_checks import can_be_a_path
from scene_graph_generation.config.settings import (
    LanguageConfig,
    MM2SGConfig,
    PoolerConfig,
    VisionConfig,
    from_mapping,
    to_mapping,
)
from scene_graph_generation.inputs.tokenizer_files import is_other_language
from scene_graph_generation.model.mm2sg import MM2SG, new_projector
from scene_graph_generation.weights.base_form import (
    LANGUAGE_BASE,
    PICTURES,
    PICTURES_FORM,
    VISION_BASE,
    VISION_FORM,
    require_built,
    require_language,
)
from scene_graph_generation.weights.language_base import language_name, read_by_library
from scene_graph_generation.weights.parameter_names import our_name, published_name
from scene_graph_generation.weights.precision import build_empty

CONFIG = "config.json"
_WANTED = ("*.json", "*.safetensors", "*.bin", "tokenizer.model", "*.jinja")  # of a repository
_UNWANTED = ("*/*", "consolidated*")  # the same weights once more, in other forms
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
_VISION_KEYS = {  # ours -> CLIP's config.json
    "image_size": "image_size",
    "patch_size": "patch_size",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "mlp": "intermediate_size",
}
_VISION = "vision_model."
# The second form: a vision tower that transformers 5.24 has saved alone.
_OF_CLIP = (_VISION, "embeddings.", "pre_layrnorm.", "encoder.", "post_layernorm.")
# Of a language model's config.json: what says nothing of how it is built.
_NO_SIZES = (
    *("_name_or_path", "architectures", "transformers_version", "dtype", "torch_dtype", "use_cache"),
    *("bos_token_id", "eos_token_id"),  # which its tokenizer's files know better
)
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def load_base(
    base: str | Path, vision: str | Path | None, settings: MM2SGConfig | None = None, pictures: bool | None = None
) -> MM2SG:
    """A model with the weights of its bases as they are stored; what no base has is freshly initialised.

    That is the pooler, and around a language model that is no LLaVA the projector.

    Args:
        base: language model and projector; folder or name on the hub. A model folder of ours is a base, too.
        vision: CLIP; folder or name on the hub. None: its weights are among the base's, or nobody needs them.
        settings: of a published model that is to be put on these bases; by default the bases' own sizes.
        pictures: False: the model reads text only and has nothing for pictures; None: that if there is no `vision`.

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
    model = build_empty(settings or found, folder / CONFIG, tower is not None if pictures is None else pictures)
    values, translate = read_config(folder), our_name
    if is_other_language(values):
        translate = language_name(model)
        if model.projector is not None:
            model.projector = new_projector(model.settings)
    for read in (folder, tower):
        if read is not None and is_first():
            _tell_other_weights(read)
    reports = []
    for path, state in read_weights(folder):
        named = {published_name(name): tensor for name, tensor in state.items()} if is_ours(values) else state
        reports.append(assign(model, named, path, translate))
    if tower is not None:
        reports += [assign(model, _of_clip(state), path) for path, state in read_weights(tower)]
    if wrong := next((report for report in reports if report.reshaped), None):
        raise UserError(f"{wrong.path}: {wrong.reshaped[0]} has another shape than config.json says; copy it again")
    if translate is our_name and (odd := [(r.path, name) for r in reports for name in r.unexpected if is_built(name)]):
        told = f"{odd[0][0]}: {odd[0][1]} has no place in a model as its config.json describes it ({len(odd)} in all)"
        raise UserError(f"{told}; copy the folder again, or give a base like {LANGUAGE_BASE} and {VISION_BASE}")
    if translate is not our_name and any(name.startswith("language.") for name in _without_weights(model)):
        reports.append(assign(model, read_by_library(folder), folder, translate))
    if empty := _without_weights(model):
        of_vision = empty[0].startswith("vision.")
        right = VISION_BASE if of_vision else LANGUAGE_BASE if translate is our_name else str(base)
        where = tower or folder if of_vision else folder
        raise UserError(
            f"{where}: {len(empty)} weights are missing, the first is {published_name(empty[0])}; "
            f"give a whole copy of {right}"
        )
    return model


def _without_weights(model: MM2SG) -> list[str]:
    """Names of what no file has given a value yet."""
    model.language.tie_weights()
    return [name for name, tensor in model.state_dict().items() if tensor.is_meta]


def find_folder(name: str | Path, wanted: Sequence[str] = _WANTED) -> Path:
    """The folder of a base: `name` itself, or the hub's copy in the local cache, fetched if needed.

    Args:
        name: folder, or name on the hub.
        wanted: patterns of the files to fetch.

    Raises:
        UserError: it is neither here nor can be fetched.
    """
    from huggingface_hub import snapshot_download

    if not can_be_a_path(name):
        raise UserError(f"{str(name)[:60]!r} is no name of a base; give a folder, or OWNER/NAME on the hub")
    with hub_errors(str(name)):
        if Path(name).is_dir():
            return Path(name)
        return Path(snapshot_download(str(name), allow_patterns=list(wanted), ignore_patterns=list(_UNWANTED)))


def base_settings(folder: Path, vision: Path | None) -> MM2SGConfig:
    """Sizes of a model on these bases, from their config.json; without `vision` the published tower's.

    Raises:
        UserError: a config.json is missing, damaged, or of another kind of model.
    """
    values = read_config(folder)
    where = folder / CONFIG
    if is_ours(values):
        return from_mapping(MM2SGConfig, values, str(where))
    if OWN_SETTINGS in values:
        own = from_mapping(MM2SGConfig, values[OWN_SETTINGS], f"{where}: {OWN_SETTINGS}")
        if isinstance(own.language, LanguageConfig):  # which the file says twice
            beside = {"mm_vision_select_layer": own.vision.feature_layer, "tokenizer_model_max_length": own.max_length}
            require_language(values, {**language_values(own.language), **beside}, own.vision.width, where)
        return own
    tower = _vision_sizes(vision, values.get("mm_vision_select_layer", VisionConfig.feature_layer))
    if is_other_language(values):
        language: dict[str, Any] = {"config": {key: value for key, value in values.items() if key not in _NO_SIZES}}
    elif missing := [key for key in _LANGUAGE_KEYS.values() if not isinstance(values.get(key), int)]:
        raise UserError(f"{where}: has no {missing[0]}; this is no LLaVA model, give {LANGUAGE_BASE}")
    else:
        require_language(values, {}, None if vision is None else tower.width, where)
        language = {ours: values[theirs] for ours, theirs in _LANGUAGE_KEYS.items()}
    channels = PoolerConfig().mask_channels
    sizes = {
        "language": language,
        "vision": to_mapping(tower),
        "pooler": {"mask_channels": (*channels[:-1], tower.width)},
        "max_length": values.get("tokenizer_model_max_length", MM2SGConfig.max_length),
    }
    return from_mapping(MM2SGConfig, sizes, str(where))


def language_values(config: LanguageConfig) -> dict[str, int]:
    """The sizes of a language model as LLaVA's config.json names them."""
    return {theirs: getattr(config, ours) for ours, theirs in _LANGUAGE_KEYS.items()}


def check_sizes(wanted: Any, found: Any, where: str) -> None:
    """Two settings of the same kind must agree, or `where` is the wrong base."""
    if OtherLanguage in (type(wanted), type(found)):
        if wanted != found:
            raise UserError(f"{where}: is another language model than this one was trained on; give the right one")
        return
    for name, value in vars(wanted).items():
        if name != "feature_layer" and value != getattr(found, name):
            raise UserError(
                f"{where}: is another base than the model was trained on ({name} is {getattr(found, name)} here, "
                f"{value} there); give the right one"
            )


def assign(
    model: MM2SG, state: Mapping[str, Tensor], source: Path, translate: Callable[[str], str | None] = our_name
) -> LoadReport:
    """Put tensors with published names into a model as they are; what does not fit is left out and reported.

    Args:
        translate: gives our name of one of theirs, None for what is computed here.

    Raises:
        UserError: weights are stored in another form than floating-point numbers, or one of them twice.
    """
    own = model.state_dict()
    report = LoadReport(source, [], [], [], [])
    fitting = {}
    for published, tensor in state.items():
        try:
            name = translate(published)
        except UserError:
            name = published
        if name is None or name in model.unwritten or _belongs_to_missing_part(model, name):
            continue
        if name not in own:
            report.unexpected.append(published)
        elif own[name].shape != tensor.shape:
            report.reshaped.append(published)
        elif name in fitting:
            raise UserError(f"{source}: {published} is there under another name, too; copy it again")
        else:
            fitting[name] = tensor
            report.matched.append(published)
    check_form(fitting, own, source)
    model.load_state_dict(fitting, strict=False, assign=True)
    return report


def check_form(state: Mapping[str, Tensor], own: Mapping[str, Tensor], source: Path) -> None:
    """Weights must be floating-point numbers where the model's are, and whole ones where its are.

    Raises:
        UserError: `source` stores one in another form, quantised for instance.
    """
    for name, tensor in state.items():
        if tensor.dtype not in _FLOATS if own[name].is_floating_point() else tensor.is_floating_point():
            raise UserError(
                f"{source}: {name} is stored as {tensor.dtype}, which is no form of this model's weights; give a copy "
                "in 16 or 32 bits (fewer bits are chosen with --bits)"
            )


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
    values = read_json(path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: must hold an object of settings; copy it again")
    return values


def read_weights(folder: Path) -> Iterator[tuple[Path, dict[str, Tensor]]]:
    """The weight files of a folder, one after the other.

    Raises:
        UserError: there are none, one is missing or damaged, or two have a weight of the same name.
    """
    read: dict[str, Path] = {}
    for path in weight_files(folder):
        state = read_tensors(path)
        if twice := next((name for name in state if name in read), None):
            raise UserError(f"{path}: has {twice}, which {read[twice].name} has, too; copy the folder again")
        read |= dict.fromkeys(state, path)
        yield path, state


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a folder, those of its index whether they are there or not.

    Raises:
        UserError: there are none.
    """
    forms = _forms(folder)
    if not forms:
        raise UserError(f"{folder}: holds no weights ({' or '.join(_SINGLE)}, or shards with an index); copy it again")
    if forms[0] in _SINGLE:
        return [folder / forms[0]]
    index = folder / forms[0]
    files = read_settings(index).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
        raise UserError(f"{index}: is no list of weight files; copy it again")
    names = sorted(set(files.values()))
    if outside := [shard for shard in names if Path(shard).name != shard]:
        raise UserError(f"{index}: names a file outside its folder ({outside[0]}); do not trust this copy")
    return [folder / shard for shard in names]


def _forms(folder: Path) -> list[str]:
    """The files of a folder that each stand for all its weights; the first one is read."""
    return [name for single in _SINGLE for name in (f"{single}.index.json", single) if (folder / name).is_file()]


@cache  # said once, however many models are loaded on it
def _tell_other_weights(folder: Path) -> None:
    read = {path.name for path in weight_files(folder)}
    if others := [name for name in _forms(folder)[1:] if name not in read]:
        told = f"its weights are read from {_forms(folder)[0]}, not from {' and '.join(others)} beside it"
        print(f"note: {folder}: {told}; move away what is not to be used", file=sys.stderr)


def weights_digest(folder: Path) -> str:
    """Of what a base's weights are: name, shape and some numbers of each, whatever files they are stored in.

    Raises:
        UserError: see `read_weights`.
    """
    known = {}
    for _, state in read_weights(folder):
        for name, tensor in state.items():
            step = max(1, tensor.numel() // 16)  # a page each: bases are as large as the memory
            known[name] = list(tensor.shape), tensor.reshape(-1)[::step].double().tolist()
    return sha256(json.dumps(sorted(known.items())).encode()).hexdigest()[:16]


def is_built(published: str) -> bool:
    """Whether a weight of this name is of a part that a base has, and not of something beside it."""
    try:
        return (our_name(published) or "").startswith(("language.", "vision.", "projector."))
    except UserError:
        return False


def _vision_sizes(folder: Path | None, feature_layer: Any) -> VisionConfig:
    if folder is None:
        return from_mapping(VisionConfig, {"feature_layer": feature_layer}, CONFIG)
    values, where = read_config(folder), folder / CONFIG
    newer, older = values.get("vision_config"), values.get("vision_config_dict") or {}
    values = newer or values  # of all of CLIP, or of its vision tower
    if not isinstance(values, dict) or not isinstance(older, dict):
        raise UserError(f"{where}: vision_config must hold settings; give {VISION_BASE}")
    values = {**values, **older}  # as the library reads them
    require_built(values, VISION_FORM, where, VISION_BASE)
    if (folder / PICTURES).is_file():
        require_built(read_settings(folder / PICTURES), PICTURES_FORM, folder / PICTURES, VISION_BASE)
    usual = CLIPVisionConfig()  # what is not said is as in the library
    sizes = {ours: values.get(theirs, getattr(usual, theirs)) for ours, theirs in _VISION_KEYS.items()}
    return from_mapping(VisionConfig, {**sizes, "feature_layer": feature_layer}, str(where))


def _belongs_to_missing_part(model: MM2SG, name: str) -> bool:
    """Whether a weight is of what a model that reads text only does not have."""
    return getattr(model, name.partition(".")[0], model) is None


def is_ours(values: Mapping[str, Any]) -> bool:
    """Whether a config.json is one of our model folders."""
    return "language" in values


def _of_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """CLIP's vision part under the names it has in the published model; its text part is not used."""
    tower = "model.vision_tower.vision_tower."
    whole = {name if name.startswith(_VISION) else _VISION + name: name for name in state if name.startswith(_OF_CLIP)}
    return {tower + name: state[there] for name, there in whole.items()}
