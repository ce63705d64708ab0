"""What a model file or folder is, how large, and what it needs to run; told from its content, never from its name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from operating_room.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

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
    from scene_graph_generation.adapter_config import ADAPTER_CONFIG
    from scene_graph_generation.checkpoints import WEIGHTS
    from scene_graph_generation.fine_tuned import OWN_ADAPTER

    if (path / OWN_ADAPTER).is_file() or (path / ADAPTER_CONFIG).is_file():
        return _fine_tuned(path)
    if (path / "config.json").is_file():
        return _whole(path)
    inside = sorted(file.name for file in path.iterdir() if file.suffix in _SEGMENTER_FILES)
    if len(inside) == 1:
        return _segmenter(path / inside[0])
    hint = (
        f"it holds {', '.join(inside[:5])}: give one of them" if inside else f"neither {WEIGHTS} nor {ADAPTER_CONFIG}"
    )
    raise UserError(f"{path}: is no model folder ({hint})")


def _segmenter(path: Path) -> str:
    from panoptic_segmentation.checkpoint_files import read_checkpoint

    state = read_checkpoint(path)
    parts = Counter(name.split(".")[0] for name in state)
    if "sem_seg_head" not in parts:
        if "backbone" in parts:
            what, needs = "backbone alone", "a segmenter training that starts from it (MODEL.WEIGHTS)"
        else:
            what, needs = (
                "no model of this program",
                f"nothing here; its entries begin with {', '.join(list(parts)[:3])}",
            )
    elif "refiner" in parts:
        what, needs = "segmenter with tracker and refiner (DVIS++ offline)", "a DVIS_Plus_Offline configuration"
    elif "tracker" in parts:
        what, needs = "segmenter with tracker (DVIS++ online)", "a DVIS_Plus_Online configuration"
    else:
        what, needs = "segmenter of single frames (CTVIS or Mask2Former)", "a CTVIS configuration"
    classes = state.get("sem_seg_head.predictor.class_embed.weight")
    lines = [f"{path}", f"kind: {what}", f"parameters: {_count(state)}"]
    if classes is not None:
        lines.append(f"classes: {len(classes) - 1}")
    if path.suffix == ".safetensors" and "sem_seg_head" in parts:
        needs = "nothing: how it is built is inside" if _has_card(path) else needs
    return "\n".join([*lines, f"needs: {needs}"])


def _has_card(path: Path) -> bool:
    from panoptic_segmentation.checkpoints import read_card

    try:
        read_card(path)
    except UserError:
        return False
    return True


def _fine_tuned(folder: Path) -> str:
    from scene_graph_generation.adapters import is_adapter
    from scene_graph_generation.fine_tuned import OWN_ADAPTER, read_fine_tuned
    from scene_graph_generation.parameter_names import our_name

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
    from scene_graph_generation.base_models import read_config, read_weights

    values = read_config(folder)
    state = {name: tensor for _, part in read_weights(folder) for name, tensor in part.items()}
    reads = []
    if "language" in values:
        kind = "scene-graph model, whole"
        reads = [f"reads: {', '.join(values.get('modalities', ()))}"]
    elif any(name.startswith("model.layers.") for name in state):
        kind = "base of scene-graph models: language model"
    elif any(name.startswith("vision_model.") for name in state):
        kind = "base of scene-graph models: vision tower"
    else:
        kind = f"another model ({values.get('model_type', 'of unknown type')})"
    return "\n".join([f"{folder}", f"kind: {kind}", f"parameters: {_count(state)}", *reads, "needs: nothing"])


def _count(state: Mapping[str, Tensor]) -> str:
    return f"{sum(tensor.numel() for tensor in state.values()):,}"
