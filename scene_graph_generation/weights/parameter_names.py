"""Published parameter names and ours, both ways (stage-2 specification, sections 0 and 4); nowhere else.

The published files put `base_model.model.` before every name. An adapter's matrices are `...q_proj.lora_A.weight`
there; in a model that has one they are `...q_proj.lora_A.default.weight` beside `...q_proj.base_layer.weight`.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from operating_room.errors import UserError

WRAPPED = "base_model.model."  # prefix of all names in adapter_model.bin and non_lora_trainables.bin

# Published prefix -> ours, more specific prefixes first.
_PREFIXES = (
    ("model.vision_tower.vision_tower.vision_model.", "vision.clip."),
    ("model.image_pooler.bert.", "pooler.views.bert."),
    ("model.image_pooler.point_transformer.", "pooler.point_encoder."),
    ("model.image_pooler.project_audio.", "pooler.project_audio."),
    ("model.image_pooler.gaze_encoder.", "pooler.gaze_encoder."),
    ("model.image_pooler.hand_encoder.", "pooler.hand_encoder."),
    ("model.image_pooler.segmasks_encoder.embedding.", "pooler.mask_encoder.embedding."),
    *(
        (f"model.image_pooler.segmasks_encoder.conv{i + 1}.", f"pooler.mask_encoder.convolutions.{i}.")
        for i in range(5)
    ),
    ("model.mm_projector.", "projector."),
    ("lm_head.", "language.lm_head."),
    ("model.", "language.model."),
    ("language.", "language."),  # of a language model whose parts have other names: as they are
)
# What EgoExOR's files call differently (two branches of the pooler, arXiv 2505.24287).
_TWO_BRANCHES = (("model.image_pooler.audio_projector.", "pooler.project_audio."), *_PREFIXES)
# Buffers of the published files that are computed here.
_COMPUTED = ("rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached", "position_ids", "token_type_ids")


def our_name(published: str) -> str | None:
    """Our name of a published parameter, wrapped or not; None for a buffer that is computed here.

    Raises:
        UserError: the name is none of this model's.
    """
    if published.endswith(_COMPUTED):
        return None
    bare = published.removeprefix(WRAPPED)
    name = _translate(bare.removeprefix("model.") if bare.startswith("model.model.") else bare, _TWO_BRANCHES)
    return name.replace(".lora_A.weight", ".lora_A.default.weight").replace(".lora_B.weight", ".lora_B.default.weight")


def published_name(ours: str, two_branches: bool = False) -> str:
    """The published name of one of our parameters, not wrapped, in MM-OR's files or in EgoExOR's."""
    bare = ours.replace(".base_layer.", ".").replace(".default.", ".")
    prefixes = _TWO_BRANCHES if two_branches else _PREFIXES
    return _translate(bare, tuple((own, published) for published, own in prefixes))


def from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in our names from one in published names."""
    return {name: tensor for published, tensor in state.items() if (name := our_name(published)) is not None}


def _translate(name: str, prefixes: tuple[tuple[str, str], ...]) -> str:
    for before, after in prefixes:
        if name.startswith(before):
            return after + name.removeprefix(before)
    raise UserError(f"parameter {name} is none of the scene-graph model's; is this checkpoint for another model?")
