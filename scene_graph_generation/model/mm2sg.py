"""MM2SG: everything known at one timepoint to the text of its scene graph.

MM-OR (CVPR 2025), section 4; stage-2 specification, sections 1 and 2. A CLIP vision tower, a pooler over all
modalities, a two-layer projector and a language model: Llama 2 as published, or any other of transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from operating_room.errors import UserError
from scene_graph_generation.config.language import OtherLanguage
from scene_graph_generation.config.settings import LanguageConfig, MM2SGConfig
from scene_graph_generation.inputs.example import Example, Merged, merge
from scene_graph_generation.model.encoders import VisionTower
from scene_graph_generation.model.pooler import ImagePooler


@dataclass(frozen=True)
class MM2SGOutput:
    """Scores of the next token at every position of the merged batch, and the labels in the same places."""

    logits: Float[Tensor, "samples length vocabulary"]
    labels: Int[Tensor, "samples length"]


@dataclass(frozen=True)
class AnswerScores:
    """Scores of each answer token of a batch, at the position before it, and which token it is."""

    logits: Float[Tensor, "answers vocabulary"]
    labels: Int[Tensor, " answers"]
    presence: Float[Tensor, "answered triplets"] | None = None  # which triplets hold, as the state before it tells
    answered: tuple[int, ...] = ()  # the samples of the batch that this is about: those that have an answer


class MM2SG(nn.Module):
    """The scene-graph model at any size.

    One that reads text only (downstream tasks) has None in place of vision tower, pooler and projector.
    """

    def __init__(self, config: MM2SGConfig) -> None:
        super().__init__()
        self.settings = config  # not `config`: Trainer would write into it
        self.vision = VisionTower(config.vision)
        self.pooler = ImagePooler(config)
        self.projector = new_projector(config)
        self.language = language_model(config.language)
        self.teacher: nn.Module | None = None  # asks which triplets hold while it is trained (training/presence.py)

    @property
    def unwritten(self) -> set[str]:
        """Names of weights that no model folder holds.

        Those that are others' once more, of a language model that scores with its embeddings, and the teacher's.
        """
        teacher = () if self.teacher is None else self.teacher.state_dict()
        return {f"language.{name}" for name in self.language.all_tied_weights_keys} | {f"teacher.{n}" for n in teacher}

    def visual_tokens(self, examples: Sequence[Example]) -> list[Float[Tensor, "_ width"]]:
        """Projected tokens of each sample: 576 of its first view (in the published size), [cloud], [audio], [3 masks].

        With two branches: 576 of the first view of glasses, 576 of the first of the room, and no others.

        All views of the batch go through the vision tower in one call. A sample without views is text only: no tokens.
        """
        device = next(self.language.parameters()).device
        nothing = torch.zeros(0, self.settings.language.width, device=device)
        seen = [example for example in examples if len(example.views)]
        if not seen:
            return [nothing] * len(examples)
        if self.vision is None:
            raise UserError("this model reads text only, it was trained without pictures; choose a scene-graph model")
        features = self.vision(torch.cat([example.views for example in seen]))
        pooled = self.pooler(
            features.split([len(example.views) for example in seen]),
            [example.others for example in seen],
            [example.ego for example in seen],
        )
        tokens = iter(self.projector(torch.cat(pooled)).split([len(tokens) for tokens in pooled]))
        return [next(tokens) if len(example.views) else nothing for example in examples]

    def embed(self, examples: Sequence[Example], side: Literal["left", "right"] = "right") -> Merged:
        """The batch as the language model sees it; `side` says where shorter samples are padded."""
        tokens = self.language.get_input_embeddings()
        return merge(examples, self.visual_tokens(examples), tokens, self.settings.max_length, side)

    def forward(self, examples: Sequence[Example]) -> AnswerScores:
        """Score the answers, which is all that training looks at (generation is in decoding.py).

        At published size the scores of a whole sample of 2048 tokens take 0.9 GB with what their gradient needs, those
        of its answer a tenth.
        """
        merged = self.embed(examples)
        learnt = merged.learnt[:, merged.learnt[1] > 0]  # what begins a sample follows nothing
        columns, found = (learnt[1] - 1).unique(return_inverse=True)

        def sent(places: Tensor) -> Tensor:
            return places.to(merged.labels.device, non_blocking=True)

        row, column = sent(torch.stack((learnt[0], learnt[1] - 1)))
        following = merged.labels[row, column + 1]
        if isinstance(self.settings.language, OtherLanguage):  # what it does with its scores only it knows
            return AnswerScores(self._scores(merged, sent(columns))[row, sent(found)], following)
        states = self.language.model(
            inputs_embeds=merged.embeddings, attention_mask=merged.attention_mask, use_cache=False
        ).last_hidden_state
        before = states[row, column]
        if self.teacher is None:
            return AnswerScores(self.language.lm_head(before), following)
        answered, words = learnt[0].unique_consecutive(return_counts=True)
        presence = self.teacher(before[sent(words.cumsum(0) - words)])
        return AnswerScores(self.language.lm_head(before), following, presence, tuple(answered.tolist()))

    def score_all(self, examples: Sequence[Example]) -> MM2SGOutput:
        """Score every position, not those before an answer's tokens alone."""
        merged = self.embed(examples)
        return MM2SGOutput(self._scores(merged), merged.labels)

    def _scores(
        self, merged: Merged, columns: Int[Tensor, " columns"] | Literal[0] = 0
    ) -> Float[Tensor, "samples _ vocabulary"]:
        """At these places of each sample (0: at all). Padding is on the right, so positions simply count on."""
        return self.language(
            inputs_embeds=merged.embeddings,
            attention_mask=merged.attention_mask,
            use_cache=False,
            logits_to_keep=columns,
        ).logits


def new_projector(config: MM2SGConfig) -> nn.Sequential:
    """From the width of the vision tower to that of the language model, freshly initialised."""
    width = config.language.width
    return nn.Sequential(nn.Linear(config.vision.width, width), nn.GELU(), nn.Linear(width, width))


def language_model(config: LanguageConfig | OtherLanguage) -> PreTrainedModel:
    """A freshly initialised causal language model of transformers."""
    if isinstance(config, OtherLanguage):
        return config.build()
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocabulary,
            hidden_size=config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            intermediate_size=config.mlp,
            max_position_embeddings=config.positions,
            rms_norm_eps=1e-5,
            attention_dropout=config.dropout,
        )
    )
