"""How much memory a training takes on one GPU: the formula of docs/training.md."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from operating_room.graphs.prompts import IMAGE_MARK
from scene_graph_generation.config.settings import Experiment, PointConfig
from scene_graph_generation.inputs.evidence import USUAL_POINTS
from scene_graph_generation.inputs.modalities import most_visual_tokens
from scene_graph_generation.model.decoding import MAX_NEW_TOKENS
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.samples.records import Record
from scene_graph_generation.training.deepspeed_settings import zero_stage
from scene_graph_generation.weights.quantization import NF4_BYTES, quantizable

# What one layer keeps for its backward pass in bfloat16 arithmetic, in bytes per token and unit of width; measured with
# saved-tensor hooks on layers of the published form.
KEPT_VISION, KEPT_POOLER, KEPT_LANGUAGE = 53, 143, 86
LLAMA_OUTPUTS = 5 + 2 * 11008 / 4096  # numbers from the linear layers of a published decoder layer, a unit of width
KEPT_POINT = 111_000  # bytes per point in the whole published point encoder
KEPT_SCORE = 14  # bytes per answer token and vocabulary entry at the peak of loss and gradient; measured
CHARACTERS = 2.7  # of a prompt for each token of a vocabulary of 32,000


@dataclass(frozen=True)
class Load:
    """What a sample of a batch holds."""

    tokens: float  # text and visual tokens
    answer: float  # tokens that are scored
    views: float
    points: float


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU (formula: docs/training.md)."""

    frozen: float  # weights that are not trained
    weights: float  # trained ones, and their copies in bfloat16 during a step
    gradients: float
    optimiser: float
    activations: float

    @property
    def total(self) -> float:
        """All of it; PyTorch itself takes about 1 GB more."""
        return self.frozen + self.weights + self.gradients + self.optimiser + self.activations


def usual_and_worst_load(experiment: Experiment, model: MM2SG, records: Iterable[Record] = ()) -> tuple[Load, Load]:
    """What samples hold on average and at most.

    Without records the text of both fills the context. A usual sample has the mean number of views of those that
    training draws; clouds of both are as large as those of the datasets usually are.
    """
    settings = model.settings
    sizes: list[tuple[float, float]] = []
    sees = False
    for record in records:
        question, answer = (turn["value"] for turn in record["conversations"])
        sizes.append((float(len(question) + len(answer)), float(len(answer))))
        sees = sees or IMAGE_MARK in question
    sees = model.vision is not None and (sees or not sizes)
    visual = most_visual_tokens(settings) if sees else 0
    views = float(settings.pooler.max_views if sees else 0)
    mean_views = (1 + views) / 2 if sees and experiment.train.shuffle_views else views
    points = float(USUAL_POINTS if sees and "cloud" in settings.modalities else 0)
    if not sizes:
        full = Load(float(settings.max_length), float(MAX_NEW_TOKENS), views, points)
        return replace(full, views=mean_views), full
    mean_text, mean_answer = (sum(column) / len(sizes) for column in zip(*sizes))
    longest, longest_answer = (max(column) for column in zip(*sizes))

    def load(text: float, answer: float, views: float) -> Load:
        tokens = min(visual + text / CHARACTERS, float(settings.max_length))
        return Load(tokens, answer / CHARACTERS, views, points)

    return load(mean_text, mean_answer, mean_views), load(longest, longest_answer, views)


def frozen_bytes(experiment: Experiment, model: MM2SG) -> float:
    """Of all weights that are not trained."""
    start = experiment.start
    language_bytes = 2 if start.bits != 32 and experiment.train.bf16 else 4
    frozen, linear = 0.0, {f"language.{name}.weight" for name, _ in quantizable(model)}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            few_bits = NF4_BYTES if name in linear and start.bits == 4 else language_bytes
            frozen += parameter.numel() * (few_bits if name.startswith("language.") else 4)
    return frozen


def memory_per_gpu(experiment: Experiment, model: MM2SG, gpus: int, load: Load) -> Memory:
    """An estimate for a batch of samples that all hold `load`."""
    stage = zero_stage(experiment.train.deepspeed)
    trained = float(sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad))
    copies = 2 if experiment.train.bf16 else 0  # autocast keeps what it has cast to the end of a forward pass
    own = 4 if stage else 0  # ZeRO steps on a copy of the weights
    summed = 4 if gpus > 1 and not stage else 0  # copies of gradients, which processes sum without it
    return Memory(
        frozen=frozen_bytes(experiment, model),
        weights=trained * (4 + copies),
        gradients=trained * (4 + summed) / (gpus if stage >= 2 else 1),
        optimiser=trained * (8 + own) / (gpus if stage else 1),
        activations=_activations(experiment, model, load),
    )


def _activations(experiment: Experiment, model: MM2SG, load: Load) -> float:
    settings, batch = model.settings, experiment.train.batch_size
    language, vision = settings.language, settings.vision
    scale = 1 if experiment.train.bf16 else 2
    tokens = batch * load.tokens
    layer = tokens * _outputs(model) / LLAMA_OUTPUTS * KEPT_LANGUAGE * scale
    scores = batch * load.answer * language.vocabulary * (KEPT_SCORE + (0 if experiment.train.bf16 else 4))
    if experiment.train.gradient_checkpointing:  # scores are gone when the first layer is computed again
        kept = max(layer, scores) + language.layers * tokens * language.width * 2 * scale
    else:
        kept = layer * language.layers + scores
    if model.pooler is not None and any(parameter.requires_grad for parameter in model.pooler.parameters()):
        views = batch * load.views
        layers = model.vision.clip.encoder.layers[: model.vision.computed_layers]
        trained = sum(any(parameter.requires_grad for parameter in layer.parameters()) for layer in layers)
        per_token = KEPT_VISION * trained + KEPT_POOLER * settings.pooler.layers
        kept += views * vision.tokens * vision.width * per_token * scale
        kept += batch * load.points * kept_per_point(settings.points)
    return kept


def _outputs(model: MM2SG) -> float:
    """Numbers that the linear layers of a decoder layer give for a token, without those of an adapter."""
    head = model.language.get_output_embeddings()
    outputs = sum(layer.out_features for _, layer in quantizable(model) if layer is not head)
    return outputs / model.settings.language.layers


def kept_per_point(points: PointConfig) -> float:
    """Bytes that the point encoder keeps of each point: in proportion to its first stage, where all points are."""
    published = PointConfig()
    return KEPT_POINT * points.channels[0] * points.depths[0] / (published.channels[0] * published.depths[0])


def checkpoint_bytes(experiment: Experiment, model: MM2SG) -> float:
    """Of a checkpoint on disk: the weights that are trained, and both moments of the optimiser.

    DeepSpeed writes the whole model beside the folder of it, and a copy of the weights that it steps on.
    """
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    if experiment.train.deepspeed is None:
        return 12.0 * trained
    return 20.0 * trained + frozen_bytes(experiment, model)
