"""What a model file or folder is, how large, and what it needs to run; told from its content, never from its name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from computing.loading import told_by_names
from operating_room.errors import UserError
from operating_room.files.raw_files import visible

if TYPE_CHECKING:
    from torch import Tensor

# Entries that are no parameters: statistics of normalisation, weights of a loss, rotary and position tables.
_BUFFERS = (
    *("running_mean", "running_var", "num_batches_tracked", "empty_weight"),
    *("inv_freq", "cos_cached", "sin_cached", "position_ids", "token_type_ids"),
)
_SEGMENTER_FILES = (".pth", ".pkl", ".safetensors")


def inspect(path: Path) -> str:
    """A description in lines.

    Raises:
        UserError: there is no model, or it is damaged.
    """
    if not path.exists():
        raise UserError(f"{path}: not found; give a model file or folder")
    if path.is_file():
        if path.suffix not in _SEGMENTER_FILES:
            raise UserError(f"{path}: is no model file ({', '.join(_SEGMENTER_FILES)}); give one, or a model folder")
        return _segmenter(path)
    from scene_graph_generation.weights.adapter_config import ADAPTER_CONFIG
    from scene_graph_generation.weights.base_models import CONFIG
    from scene_graph_generation.weights.checkpoints import WEIGHTS
    from scene_graph_generation.weights.fine_tuned import OWN_ADAPTER

    own = (path / WEIGHTS).is_file() and (path / CONFIG).is_file()  # the loader's order: a whole model first
    if not own and ((path / OWN_ADAPTER).is_file() or (path / ADAPTER_CONFIG).is_file()):
        return _fine_tuned(path)
    if (path / CONFIG).is_file():
        return _whole(path)
    return _segmenter_folder(path)


def _segmenter_folder(path: Path) -> str:
    """The model in a folder that a segmenter training wrote, or that was downloaded."""
    from panoptic_segmentation.inference.predict import model_path

    try:
        inside = sorted(file for file in visible(path.iterdir()) if file.suffix in _SEGMENTER_FILES and file.is_file())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    if len(inside) == 1:
        return _segmenter(inside[0])
    try:
        return _segmenter(model_path(path))  # the one that predict takes
    except UserError:
        if any((path / name).is_file() for name in ("model.safetensors", "model_final.pth")):
            raise
    there = f"it holds {', '.join(file.name for file in inside[:5])}: give one of them" if inside else "no weights here"
    raise UserError(f"{path}: is no model folder ({there})")


def _segmenter(path: Path) -> str:
    from panoptic_segmentation.weights.checkpoint_files import read_checkpoint

    state = read_checkpoint(path)
    parts = Counter(name.split(".")[0] for name in state)
    needs = "a configuration of the same model (--config-file), such as "
    if "heads" in parts:
        what = "encoder-only segmenter (EoMT per frame, VidEoMT over time)"
        needs += "encoder_only_small.yaml"
    elif "encoder" in parts:
        what, needs = "vision transformer alone (DINOv2)", "a segmenter training that starts from it (MODEL.WEIGHTS)"
    elif "sem_seg_head" not in parts:
        if any(name.startswith("model.segmenter.") for name in state):
            what = "checkpoint of a segmenter training"
            needs = "`mmor panoptic train --resume`, which goes on from it; the models are the model_*.pth beside it"
        elif "backbone" in parts:
            what, needs = "backbone alone", "a segmenter training that starts from it (MODEL.WEIGHTS)"
        else:
            what, needs = f"{told_by_names(state)}, no segmenter", "its own folder: give that"
    elif "refiner" in parts:
        what, needs = "segmenter with tracker and refiner (DVIS++ offline)", needs + "DVIS_Plus_Offline_R50.yaml"
    elif "tracker" in parts:
        what, needs = "segmenter with tracker (DVIS++ online)", needs + "DVIS_Plus_Online_R50.yaml"
    else:
        what, needs = "segmenter of single frames (CTVIS or Mask2Former)", needs + "CTVIS_r50.yaml"
    classes = state.get("sem_seg_head.predictor.class_embed.weight", state.get("heads.class_predictor.weight"))
    lines = [f"{path}", f"kind: {what}", f"parameters: {_count(state)}"]
    if classes is not None and classes.dim():
        lines.append(f"classes: {len(classes) - 1}")
    if parts.keys() & {"sem_seg_head", "heads"}:
        if (domain := _domain(path)) is not None:
            lines.append(f"domain: {domain}")
        if path.suffix == ".safetensors" and _has_card(path):
            needs = "nothing: how it is built is inside"
        elif path.with_name("config.yaml").is_file():
            needs = "nothing: config.yaml beside it says how it is built"
    return "\n".join([*lines, f"needs: {needs}"])


def _has_card(path: Path) -> bool:
    from panoptic_segmentation.weights.checkpoints import read_card

    try:
        read_card(path)
    except UserError:
        return False
    return True


def _domain(path: Path) -> str | None:
    """The name of a segmenter's domain; None if it tells none, as those of MM-OR and of everyday pictures."""
    from operating_room.domain.stored import DOMAIN_FILE, stored_domain
    from panoptic_segmentation.weights.checkpoints import read_card

    if path.suffix == ".safetensors" and _has_card(path) and (note := read_card(path).domain) is not None:
        return note.name
    return stored_domain(path.parent).name if path.with_name(DOMAIN_FILE).is_file() else None


def _fine_tuned(folder: Path) -> str:
    from scene_graph_generation.weights.adapters import is_adapter
    from scene_graph_generation.weights.fine_tuned import OWN_ADAPTER, read_fine_tuned
    from scene_graph_generation.weights.parameter_names import our_name

    tuned = read_fine_tuned(folder)
    form = "our form" if (folder / OWN_ADAPTER).is_file() else "published form"
    adapter = {name: tensor for name, tensor in tuned.state.items() if is_adapter(name)}
    parts: dict[str, dict[str, Tensor]] = {}
    unknown = []
    for name, tensor in tuned.state.items():
        try:
            ours = our_name(name)
        except UserError:
            unknown.append(name)
            continue
        if ours is not None and name not in adapter:
            parts.setdefault(ours.split(".")[0], {})[name] = tensor
    lines = [
        f"{folder}",
        f"kind: scene-graph model, fine-tuned beside a base ({form})",
        f"adapter: {_count(adapter)} parameters, rank {tuned.lora.rank}, alpha {tuned.lora.alpha}",
        *(f"{part}: {_count(state)} parameters" for part, state in sorted(parts.items())),
    ]
    if unknown:
        lines.append(f"unknown: {len(unknown)} entries, the first is {unknown[0]}")
    if "pooler" not in parts:
        lines.append("reads: text only")
    named = [name for name in (tuned.base, tuned.vision) if name]
    bases = ", ".join(name if Path(name).is_dir() else f"{name} (from the hub)" for name in named)
    return "\n".join([*lines, f"needs: {bases}; 4-bit loading: the extra quant"])


def _whole(folder: Path) -> str:
    from scene_graph_generation.inputs.llama_tokens import LLAMA_FILE
    from scene_graph_generation.inputs.tokens import FILE
    from scene_graph_generation.weights.base_models import VISION_BASE, is_ours, read_config, read_weights

    values = read_config(folder)
    state = {name: tensor for _, part in read_weights(folder) for name, tensor in part.items()}
    reads, needs = [], "nothing"
    if is_ours(values):
        kind = "scene-graph model, whole"
        modalities = values.get("modalities")
        reads = [f"reads: {', '.join(map(str, modalities))}"] if isinstance(modalities, list) else []
        if not any((folder / name).is_file() for name in (FILE, LLAMA_FILE)):
            needs = f"{FILE}, which is not here: copy it from where the model came"
    elif any(name.startswith("model.layers.") for name in state):
        kind = "base of scene-graph models: language model"
        vision = values.get("mm_vision_tower") or VISION_BASE
        seeing = any("vision_tower" in name for name in state)
        needs = "what is trained beside it (a scene-graph folder)"
        needs += "; its vision tower is inside" if seeing else f", and {vision} as its vision tower"
    elif any(name.startswith("vision_model.") for name in state):
        kind = "base of scene-graph models: vision tower"
        needs = "a language model and what is trained beside it (a scene-graph folder)"
    else:
        kind = f"another model ({values.get('model_type', 'of unknown type')}; its entries: {told_by_names(state)})"
    return "\n".join([f"{folder}", f"kind: {kind}", f"parameters: {_count(state)}", *reads, f"needs: {needs}"])


def _count(state: Mapping[str, Tensor]) -> str:
    """The number of values that are trained: no statistics, counters, or tables that are computed."""
    return f"{sum(tensor.numel() for name, tensor in state.items() if not name.endswith(_BUFFERS)):,}"
