"""What a base must say of itself to be what is built here: LLaVA 1.5's language model, and CLIP's vision tower.

Weights of another form have the same names: they would be loaded, and give other numbers without a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from operating_room.errors import UserError
from scene_graph_generation.inputs.views import MEAN, STD

LANGUAGE_BASE = "liuhaotian/llava-v1.5-7b"
VISION_BASE = "openai/clip-vit-large-patch14-336"
PICTURES = "preprocessor_config.json"

# What is built has one form: key of a config.json -> its only value. What is not said there, or null, is so.
_ROTARY_FORM = {"rope_theta": 10_000, "rope_type": "default", "partial_rotary_factor": 1}
_LANGUAGE_FORM = {
    **_ROTARY_FORM,
    "rope_scaling": None,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    **dict.fromkeys(("attention_bias", "mlp_bias", "attention_dropout", "tie_word_embeddings"), False),
    "mm_projector_type": "mlp2x_gelu",
    "mm_resampler_type": None,
    "mm_vision_select_feature": "patch",
    "mm_use_im_start_end": False,
    "image_aspect_ratio": "pad",
    "mv_type": "learned",
}
VISION_FORM = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "attention_dropout": 0, "num_channels": 3}
PICTURES_FORM = {"image_mean": list(MEAN), "image_std": list(STD), "resample": 3, "do_normalize": True}  # 3: bicubic


def require_language(values: Mapping[str, Any], form: Mapping[str, Any], seen: int | None, where: Path) -> None:
    """A LLaVA's config.json must describe what is built here.

    Args:
        values: of the file.
        form: what it must say besides.
        seen: width of the vision tower; None: nothing is seen.
        where: the file.

    Raises:
        UserError: it does not.
    """
    heads, width = (form.get(key, values.get(key)) for key in ("num_attention_heads", "hidden_size"))
    sizes = {"num_key_value_heads": heads, "head_dim": width // heads if heads else None}
    built = {**_LANGUAGE_FORM, **sizes, **form, **({} if seen is None else {"mm_hidden_size": seen})}
    require_built(values, built, where, LANGUAGE_BASE)
    rotary = values.get("rope_parameters")  # where newer libraries write what is about rotation, also for each kind
    if rotary is not None and not isinstance(rotary, dict):
        require_built(values, {"rope_parameters": None}, where, LANGUAGE_BASE)
    of_rotary = {**dict.fromkeys(rotary or {}), **_ROTARY_FORM, "type": "default"}
    require_built(rotary or {}, of_rotary, where, LANGUAGE_BASE)


def require_built(values: Mapping[str, Any], form: Mapping[str, Any], where: Path, usual: str) -> None:
    """The values of a settings file, as far as it says any, must be those of what is built here.

    Raises:
        UserError: another is said.
    """
    for key, value in form.items():
        if (said := values.get(key)) is not None and said != value:
            told = f"{where}: {key} is {str(said)[:60]}, the model that is built here has {value}"
            raise UserError(f"{told}; give a base like {usual}")
