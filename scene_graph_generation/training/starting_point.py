"""The model as its training begins: from scratch, or an adapter and new modules around a published base.

Stage-2 specification, sections 5 and 8. What is trained is kept in float32, also where the published training keeps it
in bfloat16; only frozen language weights have 4 or 16 bits.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch

from computing.machine import choose_device, seeded
from operating_room.domain.language import Language
from operating_room.errors import UserError
from operating_room.recordings.dataset import Dataset
from operating_room.work.processes import is_first
from scene_graph_generation.config.language import OtherLanguage
from scene_graph_generation.config.settings import Experiment, MM2SGConfig, StartConfig, with_vocabulary
from scene_graph_generation.inputs.own_tokens import OwnTokens
from scene_graph_generation.inputs.tokenizer_files import read_tokens
from scene_graph_generation.inputs.tokens import Tokens, train_tokens
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.training.requirements import NO_PRESENCE, check_start
from scene_graph_generation.weights.adapters import add_lora, freeze
from scene_graph_generation.weights.base_models import CONFIG, LANGUAGE_BASE, base_settings, find_folder, load_base
from scene_graph_generation.weights.checkpoints import check_vocabulary, load_model
from scene_graph_generation.weights.fine_tuned import read_fine_tuned
from scene_graph_generation.weights.parameter_names import from_published, published_name
from scene_graph_generation.weights.precision import outline, published_pooler, set_precision


def new_tokens(experiment: Experiment, texts: Iterable[str], language: Language) -> Tokens | None:
    """The tokenizer of a model from scratch, made of all texts of its samples; others bring one with them."""
    if experiment.start.base is not None or experiment.start.curriculum is not None:
        return None
    return train_tokens(texts, experiment.vocabulary, language)


def begin(experiment: Experiment, tokens: Tokens | None = None) -> tuple[MM2SG, Tokens]:
    """The model and its tokenizer: without base the one that is given; a model from scratch needs it (`new_tokens`).

    Without base, the first stage of a curriculum is a model of ours, which goes on as `second_stage` says, with its own
    tokenizer if none is given.

    Raises:
        UserError: a base or the first stage cannot be loaded, or the settings contradict each other.
    """
    check_start(experiment)
    model, tokens = _begin(experiment, tokens)
    if experiment.train.gradient_checkpointing:
        if not model.language.supports_gradient_checkpointing:
            raise UserError("this language model cannot compute its layers again; add --gradient_checkpointing False")
        model.language.activation_checkpointing_enable({"use_reentrant": False})
    return model, tokens


def _begin(experiment: Experiment, tokens: Tokens | None) -> tuple[MM2SG, Tokens]:
    start, device = experiment.start, choose_device()
    with seeded(experiment.train.seed, device):  # adapters are drawn where their layers are
        if start.base is None and start.curriculum is not None:
            first, own = load_model(start.curriculum, bits=32)  # as it is trained; of a large one 16 would be taken
            if experiment.train.presence and isinstance(first.settings.language, OtherLanguage):
                raise UserError(f"{start.curriculum}: {NO_PRESENCE}")
            tokens = own if tokens is None else tokens
            check_vocabulary(tokens, first, start.curriculum)
            return as_second_stage(first, experiment.model), tokens
        if start.base is None:
            assert tokens is not None, "a model from scratch needs a tokenizer"
            return MM2SG(with_vocabulary(experiment.model, tokens.size)), tokens
        base = find_folder(start.base)
        tower = None if start.vision is None else find_folder(start.vision)
        tokens = read_tokens(base)
        if isinstance(tokens, OwnTokens) and tokens.template is None and is_first():
            print(f"{base}: has no chat template; questions are asked as those to Vicuna", file=sys.stderr)
        model = load_base(base, tower, sized_for(experiment.model, base_settings(base, tower)))
        check_vocabulary(tokens, model, base)
        set_precision(model, 32 if start.lora is None else start.bits, device, language_only=True)
        choose_trainable(model, start)
        set_training_precision(model, experiment.train.bf16)
        load_curriculum(model, start)
    return model, tokens


def second_stage(first: MM2SGConfig, wanted: MM2SGConfig) -> MM2SGConfig:
    """The settings of a first stage that goes on: sizes are its own, the point encoder's only if it had one."""
    points = first.points if "cloud" in first.modalities else wanted.points
    asked = {"modalities": wanted.modalities, "max_length": wanted.max_length, "batching": wanted.batching}
    return replace(first, points=points, **asked)


def as_second_stage(model: MM2SG, wanted: MM2SGConfig) -> MM2SG:
    """The model of a first stage with these settings; what it did not have starts anew."""
    grown = MM2SG(second_stage(model.settings, wanted))
    state = {**grown.state_dict(), **model.state_dict()}
    grown.load_state_dict({name: state[name] for name in grown.state_dict()})
    return grown


def sized_for(wanted: MM2SGConfig, base: MM2SGConfig) -> MM2SGConfig:
    """The settings with the sizes of the base, which has no say in what is built around it."""
    vision = replace(base.vision, feature_layer=wanted.vision.feature_layer)
    return replace(wanted, language=base.language, vision=vision)


def choose_trainable(model: MM2SG, start: StartConfig) -> None:
    """Add the adapter and freeze what is not trained; without vision tower nothing but the language model is."""
    if start.lora is not None:
        add_lora(model, start.lora.rank, start.lora.alpha, start.lora.dropout)
    freeze(model, None if start.vision is None else start.vision_layers)
    if start.lora is None:
        model.language.requires_grad_(True)


def load_curriculum(model: MM2SG, start: StartConfig) -> None:
    """Go on from the weights of the first stage.

    Published, the point and the mask encoder are initialised anew after that, so that these two start from scratch.

    Raises:
        UserError: the folder is none of a first stage on this base.
    """
    if start.curriculum is None:
        return
    load_trained(model, start.curriculum)
    if start.curriculum_order == "published" and model.pooler is not None:
        fresh = published_pooler(model.settings)
        for part in ("point_encoder", "mask_encoder"):
            if (encoder := getattr(fresh, part)) is not None:
                getattr(model.pooler, part).load_state_dict(encoder.state_dict())


def load_trained(model: MM2SG, folder: Path) -> None:
    """Fill everything trainable, and buffers, from a folder of either form that `fine_tuned` writes.

    Raises:
        UserError: the folder is incomplete, or of another base, adapter or choice of trained parts.
    """
    state = from_published(read_fine_tuned(folder).state)
    own = model.state_dict()
    if model.vision is None:  # text only: what the folder has for pictures has no place
        state = {name: tensor for name, tensor in state.items() if name.startswith("language.")}
    missing = [name for name, parameter in model.named_parameters() if parameter.requires_grad and name not in state]
    reshaped = [name for name in state if name not in own or own[name].shape != state[name].shape]
    for names, what in ((reshaped, "has another shape or is unknown here"), (missing, "is missing")):
        if names:
            raise UserError(
                f"{folder}: is of another base or adapter than this training's ({published_name(names[0])} {what}, "
                f"{len(names)} in all); give a model trained with the same base, LoRA rank and vision layers"
            )
    model.load_state_dict(state, strict=False)


def set_training_precision(model: MM2SG, bf16: bool) -> None:
    """Float32 for everything but frozen language weights, and for these, too, if arithmetic is not bfloat16."""
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and (parameter.requires_grad or not bf16 or not name.startswith("language.")):
            parameter.data = parameter.data.float()


def meta_model(experiment: Experiment, settings: MM2SGConfig) -> MM2SG:
    """The model with its adapter and frozen parts, as shapes only."""
    text_only = experiment.start.base is not None and experiment.start.vision is None
    model = outline(settings, "the experiment", pictures=not text_only)
    with torch.device("meta"):
        if experiment.start.base is not None:
            choose_trainable(model, experiment.start)
        if experiment.train.vision_rests and model.vision is not None:
            model.vision.requires_grad_(False)
    return model


def sizes_of(experiment: Experiment) -> MM2SGConfig:
    """Sizes: those of a base or a first stage of ours that is here, else of the experiment (default: as published)."""
    start = experiment.start
    if start.base is None and start.curriculum is not None and (start.curriculum / CONFIG).is_file():
        return second_stage(base_settings(start.curriculum, None), experiment.model)
    if start.base is None:
        return with_vocabulary(experiment.model, experiment.vocabulary)
    base, vision = found_base(start.base), found_base(start.vision)
    return experiment.model if base is None else sized_for(experiment.model, base_settings(base, vision))


def is_sized(start: StartConfig) -> bool:
    """Whether the sizes are those of its base: one that is still to be fetched may be much smaller or larger."""
    return start.base in (None, LANGUAGE_BASE) or found_base(start.base) is not None


def found_base(name: str | None) -> Path | None:
    """The folder of a base, or the hub's copy of it in the local cache, as far as its config.json tells."""
    if name is None or Path(name).is_dir():
        return None if name is None else Path(name)
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(name, CONFIG)
    except HFValidationError:
        return None
    return Path(config).parent if isinstance(config, str) else None


def check_places(experiment: Experiment, dataset: Dataset) -> None:
    """A model has places for so many pictures; training takes some of a room's, evaluation all that its slots name.

    Those of `also` are shown only where they recorded, which is for the reader of a timepoint to know.

    Told from the settings: to load the weights of a large base takes minutes.

    Raises:
        UserError: the room has more: such a model could be trained to its end, and would answer nothing.
    """
    start, settings = experiment.start, experiment.model
    if start.base is None and start.curriculum is not None and (start.curriculum / CONFIG).is_file():
        settings = second_stage(base_settings(start.curriculum, None), settings)
    sees = start.base is None or start.vision is not None
    if not sees or "views" not in settings.modalities or settings.pooler.branches != "one":
        return
    places = settings.pooler.max_views
    for collection in map(dataset.domain.collection, dataset.roots):
        slots = collection.slots
        if (shown := max(len(slots.evaluation), len(slots.instead))) > places:
            raise UserError(
                f"{dataset.root}: {collection.name} shows {shown} pictures of a timepoint, the model has places for "
                f"{places}; name fewer cameras in `slots` of its domain, or raise pooler.max_views"
            )
