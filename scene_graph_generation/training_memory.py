"""How much memory a training takes on one GPU: the formula of docs/training.md."""

from __future__ import annotations

from dataclasses import dataclass

from scene_graph_generation.config import Experiment
from scene_graph_generation.deepspeed_settings import zero_stage
from scene_graph_generation.model.mm2sg import MM2SG

NF4 = 0.5 + 1 / 64  # bytes of a weight in 4 bits, with its share of a quantisation constant of 8 bits for 64 weights
# What one layer keeps for its backward pass in bfloat16 arithmetic, in bytes per token and unit of width; measured with
# saved-tensor hooks on layers of the published form.
KEPT_VISION, KEPT_POOLER, KEPT_LANGUAGE = 53, 143, 86
KEPT_POINT = 111_000  # bytes per point in the whole point encoder
KEPT_SCORE = 10  # bytes per token and vocabulary entry: scores in bfloat16 and float32, and their gradient
POINTS = 10_000  # assumed of a cloud


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU (formula: docs/training.md)."""

    frozen: float  # weights that are not trained
    weights: float  # trained ones
    gradients: float
    optimiser: float
    activations: float

    @property
    def total(self) -> float:
        """All of it; PyTorch itself takes about 1 GB more."""
        return self.frozen + self.weights + self.gradients + self.optimiser + self.activations


def memory_per_gpu(experiment: Experiment, model: MM2SG, gpus: int) -> Memory:
    """An estimate for the longest samples: text up to the context's end, the mean number of views, all modalities."""
    start, stage = experiment.start, zero_stage(experiment.train.deepspeed)
    language_bytes = 2 if start.bits != 32 and experiment.train.bf16 else 4
    frozen = 0.0
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            linear = name.startswith("language.") and parameter.dim() == 2 and "embed_tokens" not in name
            few_bits = NF4 if linear and start.bits == 4 else language_bytes
            frozen += parameter.numel() * (few_bits if name.startswith("language.") else 4)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    mixed = stage > 0 and experiment.train.bf16  # DeepSpeed computes on a bfloat16 copy and keeps float32 for itself
    weights, gradients, optimiser = (2, 2, 12) if mixed else (4, 4, 8)
    return Memory(
        frozen=frozen,
        weights=trained * weights / (gpus if stage >= 3 else 1),
        gradients=trained * gradients / (gpus if stage >= 2 else 1),
        optimiser=trained * optimiser / (gpus if stage >= 1 else 1),
        activations=_activations(experiment, model),
    )


def _activations(experiment: Experiment, model: MM2SG) -> float:
    settings, batch = model.settings, experiment.train.batch_size
    language, vision = settings.language, settings.vision
    scale = 1 if experiment.train.bf16 else 2
    tokens = batch * settings.max_length
    layer = tokens * language.width * KEPT_LANGUAGE
    if experiment.train.gradient_checkpointing:
        kept = layer + language.layers * tokens * language.width * 2
    else:
        kept = layer * language.layers
    kept += tokens * language.vocabulary * KEPT_SCORE
    if model.pooler is not None and any(parameter.requires_grad for parameter in model.pooler.parameters()):
        views = batch * (1 + settings.pooler.max_views) / 2
        layers = model.vision.clip.encoder.layers[: model.vision.computed_layers]
        trained = sum(any(parameter.requires_grad for parameter in layer.parameters()) for layer in layers)
        kept += views * vision.tokens * vision.width * (KEPT_VISION * trained + KEPT_POOLER * settings.pooler.layers)
        kept += batch * POINTS * KEPT_POINT if model.pooler.point_encoder is not None else 0
    return kept * scale
