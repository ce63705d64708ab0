"""Sizes of the MM2SG model and settings of its training, as frozen dataclasses read from YAML or JSON.

The defaults of `MM2SGConfig` are the published model: CLIP ViT-L/14-336, a two-layer view pooler and Vicuna 7B
(stage-2 specification, section 1).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from operating_room.domain.labels import Labels
from operating_room.errors import UserError
from operating_room.files.readers import parse_yaml, read_bytes
from scene_graph_generation.config.language import OtherLanguage
from scene_graph_generation.config.mapping import from_mapping
from scene_graph_generation.config.setting_checks import (
    LARGEST,
    above_zero,
    at_least,
    below_one,
    check,
    divides,
)

MODALITIES = ("views", "cloud", "audio", "masks", "robot", "tracker", "speech")  # of MM-OR's model
TEXT_MODALITIES = MODALITIES[-3:]  # blocks of the prompt, in its order
ALL_MODALITIES = (*MODALITIES, "gaze", "hands", "robot_log")
MASK_STEPS = 5  # convolutions that halve a label map of 32x32 down to one pixel
SMALLEST_VOXEL = 0.01  # m; clouds of up to 600 m are read, and a curve has 2^16 voxels a side
SMALLEST_VOCABULARY = 300  # 256 bytes, and the phrases that are one token
_SHARES = ("modality_dropout", "memory_dropout", "pictures_only", "memory_noise")


@dataclass(frozen=True)
class VisionConfig:
    """The CLIP vision tower. `feature_layer` counts hidden states from the end as published: -1 is the last layer."""

    image_size: int = 336  # px
    patch_size: int = 14  # px
    width: int = 1024
    layers: int = 24
    heads: int = 16
    mlp: int = 4096
    feature_layer: int = -2

    def __post_init__(self) -> None:
        at_least(self, 1, "image_size", "patch_size", "width", "layers", "heads", "mlp")
        divides(self.heads, self.width, "width", "heads")
        if self.image_size < self.patch_size:
            raise UserError(f"image_size is {self.image_size}, smaller than patch_size {self.patch_size}")
        if not -self.layers - 1 <= self.feature_layer <= -1:
            raise UserError(
                f"feature_layer is {str(self.feature_layer)[:60]}; it counts from the end: -1 to {-self.layers - 1}"
            )

    @property
    def tokens(self) -> int:
        """Patches of one view."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True)
class PoolerConfig:
    """The view pooler and the encoders beside it; everything is as wide as the vision tower.

    With the branches `ego_exo`, EgoExOR's (arXiv 2505.24287), what glasses see and what the room's cameras see is
    pooled apart, each with its gaze and hands or its sound and cloud, and each gives as many tokens as a view.
    """

    layers: int = 2
    heads: int = 8
    mlp: int = 4096
    max_views: int = 7
    dropout: float = 0.1
    audio_width: int = 512
    mask_embedding: int = 8
    mask_channels: tuple[int, ...] = (64, 128, 256, 512, 1024)  # the last one is the vision width
    branches: Literal["one", "ego_exo"] = "one"
    body_width: int = 512  # between the two layers that encode gaze and those that encode hands
    max_depth: float = 1.0  # m; what is looked at further away counts as so far

    def __post_init__(self) -> None:
        at_least(self, 1, "layers", "heads", "mlp", "max_views", "audio_width", "mask_embedding", "body_width")
        above_zero(self, "max_depth")
        below_one(self, "dropout")
        if len(self.mask_channels) != MASK_STEPS or min(self.mask_channels) < 1:
            raise UserError(f"mask_channels are {MASK_STEPS} numbers of at least 1, got {self.mask_channels}")


@dataclass(frozen=True)
class PointConfig:
    """The point cloud encoder; one entry per stage."""

    depths: tuple[int, ...] = (2, 2, 2, 6, 2)
    channels: tuple[int, ...] = (32, 64, 128, 256, 512)
    heads: tuple[int, ...] = (2, 4, 8, 16, 32)
    mlp_ratio: int = 4
    patch: int = 1024  # points that attend to each other
    voxel: float = 0.01  # m
    drop_path: float = 0.3  # of the last block; rises linearly from 0

    def __post_init__(self) -> None:
        at_least(self, 1, "mlp_ratio", "patch")
        check(self, f"at least {SMALLEST_VOXEL} m", lambda value: value >= SMALLEST_VOXEL, "voxel")
        below_one(self, "drop_path")
        lists = (self.depths, self.channels, self.heads)
        if len({len(values) for values in lists}) != 1 or not self.depths or min(map(min, lists)) < 1:
            raise UserError(f"depths, channels and heads have one number of at least 1 for each stage, got {lists}")
        for channels, heads in zip(self.channels, self.heads):
            divides(heads, channels, "channels", "heads")


@dataclass(frozen=True)
class LanguageConfig:
    """The published language model, Llama 2, at any size."""

    vocabulary: int = 32000
    width: int = 4096
    layers: int = 32
    heads: int = 32
    mlp: int = 11008
    positions: int = 4096
    dropout: float = 0.0  # of attention probabilities; the published model has none

    def __post_init__(self) -> None:
        at_least(self, 1, "vocabulary", "width", "layers", "heads", "mlp", "positions")
        below_one(self, "dropout")
        divides(2 * self.heads, self.width, "width", "twice the heads (positions rotate pairs)")

    @property
    def key_width(self) -> int:
        """Numbers of a token's keys in one layer: every head has its own."""
        return self.width


@dataclass(frozen=True)
class MM2SGConfig:
    """The whole model.

    `batching` decides what a sample without a modality gets (stage-2 specification, section 1, presence rule):
    `independent`: no token, so that a sample never depends on its batch mates; `published`: a filler token whenever
    a batch mate has the modality. `modalities` names what the model was trained to read; the others are not loaded,
    and a model without "cloud" has no point encoder. `labels` and `masks` are those of its domain (`with_labels`).
    """

    vision: VisionConfig = field(default_factory=VisionConfig)
    pooler: PoolerConfig = field(default_factory=PoolerConfig)
    points: PointConfig = field(default_factory=PointConfig)
    language: LanguageConfig | OtherLanguage = field(default_factory=LanguageConfig)
    max_length: int = 2048  # tokens of a sample, text and visual tokens together
    batching: Literal["independent", "published"] = "independent"
    modalities: tuple[str, ...] = MODALITIES
    labels: int = 30  # of masks are below this number
    masks: int = 3  # for each timepoint; 0: the model has no mask encoder

    def __post_init__(self) -> None:
        at_least(self, 1, "max_length")
        if unknown := [name for name in self.modalities if name not in ALL_MODALITIES]:
            raise UserError(f"modality {unknown[0]!r} does not exist; choose from {', '.join(ALL_MODALITIES)}")
        if self.batching == "published" and (self.pooler.branches != "one" or {"gaze", "hands"} & {*self.modalities}):
            raise UserError("batching: published is that of MM-OR's model; leave it out with branches, gaze or hands")
        at_least(self, 1, "labels")
        at_least(self, 0, "masks")
        divides(self.pooler.heads, self.vision.width, "vision.width", "pooler.heads")
        if self.pooler.mask_channels[-1] != self.vision.width:
            raise UserError(f"the last of pooler.mask_channels must be vision.width, {self.vision.width}")


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained (stage-2 specification, sections 5 and 6); configs/scene_graph/base.yaml is as published.

    `order` of the samples in an epoch: `similar` lengths share a batch, batches come in random order; `balanced`: the
    micro-batches of a step (of all processes) have the same length in sum, as the published grouping was meant;
    `published`: as it came out, shortest first within a step; `random`.
    """

    epochs: float = 1.0
    max_steps: int = -1  # ends the training earlier; -1: after `epochs`
    batch_size: int = 4
    accumulation: int = 4
    learning_rate: float = 2e-5
    weight_decay: float = 0.0
    warmup: float = 0.03  # share of the steps
    max_grad_norm: float = 0.1
    visual_learning_rate: float | None = None  # of all in front of the language model; None: as all others
    # Of the matrices inside of a model from scratch, which then learn by Muon, in front of the language model in the
    # proportion of `visual_learning_rate`; None: AdamW for all.
    matrix_learning_rate: float | None = None
    vision_rests: bool = False  # a tower that was taught before is not trained with language
    modality_dropout: float = 0.5
    shuffle_views: bool = True
    token_weights: bool = True
    canonical_order: bool = False  # train on sorted triplets instead of the order in the sample file
    memory_dropout: float = 0.0  # share of samples that lose their memory
    pictures_only: float = 0.0  # share of samples with pictures that lose all but views and masks, so that seeing pays
    memory_noise: float = 0.0  # largest share of memory entries that are dropped or altered, fresh at every access
    augment: bool = False  # mirror, shift and recolour the views of a sample (and mirror its masks) at random
    # How much it counts, beside the words of the answer, which triplets hold as the state before it tells: a word that
    # decides a seldom deed is one of some sixty, and what tells it is found sooner. Of a model from scratch.
    presence: float = 0.0
    order: Literal["similar", "balanced", "published", "random"] = "similar"
    projector_learning_rate: float | None = None  # None: as all others
    bf16: bool = False  # bfloat16 arithmetic; what is trained stays float32
    tf32: bool = False
    gradient_checkpointing: bool = False  # of the language model's layers
    deepspeed: Path | None = None  # DeepSpeed's configuration
    workers: int = 0  # processes per GPU that read samples
    skip_bad_samples: bool = False  # else the first bad sample ends the training
    report_to: Literal["none", "wandb"] = "none"
    run_name: str | None = None
    save_steps: int = 500
    save_total_limit: int = 2  # so many checkpoints are kept, the newest
    log_steps: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(self, 1, "batch_size", "accumulation", "save_steps", "save_total_limit", "log_steps")
        at_least(self, 0, "workers", "seed")
        above_zero(self, "epochs", "learning_rate")
        above_zero(self, "visual_learning_rate", "projector_learning_rate", "matrix_learning_rate")
        check(self, "0 or more", lambda value: value >= 0, "weight_decay", "max_grad_norm", "presence")
        check(self, "a share, 0 to 1", lambda value: 0 <= value <= 1, *_SHARES)
        below_one(self, "warmup")
        if self.max_steps != -1:
            check(
                self, "1 or more, or -1 for no limit but the epochs", lambda value: 1 <= value <= LARGEST, "max_steps"
            )


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters on the seven linear layers of every decoder layer (Hu et al. 2021)."""

    rank: int = 128
    alpha: int = 256
    dropout: float = 0.05

    def __post_init__(self) -> None:
        at_least(self, 1, "rank", "alpha")
        below_one(self, "dropout")


@dataclass(frozen=True)
class PretrainConfig:
    """Training of everything in front of the language model, before all else (`pretrain.py`; not a published step).

    Its phases: patches, hands, triplets; 0 steps leave one out.
    """

    steps: int = 1000  # which triplets hold
    batch_size: int = 16
    learning_rate: float = 1e-3
    hand_learning_rate: float | None = None  # of that phase, which at 2e-3 learns nothing; None: `learning_rate`
    matrix_learning_rate: float | None = None  # of matrices, which then learn by Muon (hands: less in proportion)
    weight_decay: float = 0.01
    patch_steps: int = 0  # what each patch of each view shows, from annotated masks, and its depth where it is known
    patch_domain: Path | None = None  # domain file, in the data folder, of the masks for it; None: as all else
    hand_steps: int = 0  # who holds what, from all views together
    # Share of batches of triplets with views, of a model that gets masks or sound, too: batches without keep it from
    # leaving to the views what the masks tell.
    views_share: float = 0.5
    held_out: float = 0.0  # share of takes that are not learnt from here, but tell how well the model sees

    def __post_init__(self) -> None:
        at_least(self, 0, "steps", "patch_steps", "hand_steps")
        at_least(self, 1, "batch_size")
        below_one(self, "held_out")
        above_zero(self, "learning_rate", "hand_learning_rate", "matrix_learning_rate")
        check(self, "a share, 0 to 1", lambda value: 0 <= value <= 1, "views_share")
        check(self, "0 or more", lambda value: value >= 0, "weight_decay")


@dataclass(frozen=True)
class StartConfig:
    """What a training starts from: a LLaVA base with new modules around it, or (without `base`) random weights.

    `curriculum` is a folder of the first stage whose weights go on being trained (stage-2 specification, section 8).
    They are loaded last; with `curriculum_order: published` point and mask encoder then start anew, as published.
    """

    base: str | None = None  # folder or name on the hub: liuhaotian/llava-v1.5-7b, or a language model of transformers
    vision: str | None = None  # folder or hub name of CLIP; None: text only, nothing but the language model is trained
    bits: Literal[4, 16, 32] = 16  # of the frozen language weights
    lora: LoraConfig | None = None  # None: the whole language model is trained
    vision_layers: int = 0  # so many last layers of the vision tower are trained
    curriculum: Path | None = None
    curriculum_order: Literal["last", "published"] = "last"

    def __post_init__(self) -> None:
        at_least(self, 0, "vision_layers")


@dataclass(frozen=True)
class FilesConfig:
    """What a training reads and writes."""

    samples: tuple[Path, ...] = ()  # training JSON
    data: Path = Path("data")  # paths in the samples start here
    domain: Path | None = None  # domain file; None: domain.yaml in `data`, else MM-OR with 4D-OR
    out: Path | None = None
    token_frequencies: Path | None = None  # token text -> count; None: counted in the samples


@dataclass(frozen=True)
class Experiment:
    """One YAML file of configs/scene_graph: the model, how it is trained, from what, and on which files."""

    model: MM2SGConfig = field(default_factory=MM2SGConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    pretrain: PretrainConfig | None = None
    start: StartConfig = field(default_factory=StartConfig)
    files: FilesConfig = field(default_factory=FilesConfig)
    vocabulary: int = 2048  # at most this many tokens in the closed-language tokenizer

    def __post_init__(self) -> None:
        at_least(self, SMALLEST_VOCABULARY, "vocabulary")


def read_experiment(path: Path) -> Experiment:
    """Read an experiment file.

    Raises:
        UserError: the file is missing, is no YAML, names an unknown setting or a value of the wrong type.
    """
    return from_mapping(Experiment, parse_yaml(read_bytes(path), str(path)) or {}, str(path))


def with_vocabulary(config: MM2SGConfig, size: int) -> MM2SGConfig:
    """The same model with `size` token ids."""
    if isinstance(config.language, OtherLanguage):  # the token that stood for padding may not be one of them
        return dataclasses.replace(
            config, language=OtherLanguage({**config.language.config, "vocab_size": size, "pad_token_id": None})
        )
    return dataclasses.replace(config, language=dataclasses.replace(config.language, vocabulary=size))


def with_labels(config: MM2SGConfig, labels: Labels) -> MM2SGConfig:
    """The same model for the masks of a domain; without categories there are none."""
    if not labels.categories:
        return dataclasses.replace(config, masks=0)
    return dataclasses.replace(config, labels=labels.count, masks=labels.masks)


def to_mapping(settings: Any) -> dict[str, Any]:
    """The inverse of `from_mapping`, ready for JSON or YAML; what only other domains need goes without saying.

    So the folders of its models are what they were before there were other domains, and any version reads them.
    """
    unsaid = [(name, getattr(MM2SGConfig, name)) for name in ("labels", "masks")]
    unsaid += [(name, getattr(PoolerConfig, name)) for name in ("branches", "body_width", "max_depth")]
    return dataclasses.asdict(settings, dict_factory=lambda pairs: dict(pair for pair in pairs if pair not in unsaid))
