"""Teach the visual path to see before the language model reads it.

The published model starts from a pretrained CLIP and from features of pretrained masks. A small model starts from
nothing, and the language loss alone, which falls by reading text, does not make it look within minutes. So its vision
tower, pooler, mask encoder, audio projection and projector are first trained to tell which triplets hold, from the very
tokens that the language model will get; what tells them is thrown away afterwards.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from computing.machine import seeded
from operating_room.errors import UserError
from operating_room.graphs.scene_graph import Triplet, parse
from operating_room.work.progress import track
from scene_graph_generation.config.settings import PretrainConfig, TrainConfig
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.samples.survey import Survey
from scene_graph_generation.samples.training_data import TrainingSamples

SEEING = ("vision.", "pooler.", "projector.")  # parameters in front of the language model
HEADS = 4
MAX_RARITY = 8.0  # how much more a seldom triplet counts where it holds
# Shares of batches with views (all, if there is nothing else) and with point clouds; masks and sound are always shown.
# Per sample masks and sound cost 4 CPU ms, views 8 more and a cloud 43 more. Batches without views also keep the model
# from leaving to the views what the masks tell.
WITH_VIEWS, WITH_CLOUD = 0.5, 0.2
SMALLEST_SHARE = 1e-3  # of samples: how seldom a triplet may be to be asked for


class PresenceHead(nn.Module):
    """Which triplets hold, told from visual tokens: each triplet has a query that attends to all tokens."""

    def __init__(self, triplets: int, width: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(triplets, width) / math.sqrt(width))
        self.normalise = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, HEADS, batch_first=True)
        self.readout = nn.Parameter(torch.randn(triplets, width) / math.sqrt(width))
        self.bias = nn.Parameter(torch.full((triplets,), -2.0))

    def forward(self, tokens: Sequence[Float[Tensor, "_ width"]]) -> Float[Tensor, "samples triplets"]:
        """Logits; samples may have different numbers of tokens."""
        padded = self.normalise(nn.utils.rnn.pad_sequence(list(tokens), batch_first=True))
        counts = torch.tensor([len(sample) for sample in tokens], device=padded.device)
        absent = torch.arange(padded.shape[1], device=padded.device) >= counts[:, None]
        queries = self.queries.expand(len(tokens), -1, -1)
        found, _ = self.attention(queries, padded, padded, key_padding_mask=absent, need_weights=False)
        return (found * self.readout).sum(-1) + self.bias


def pretrain(model: MM2SG, samples: TrainingSamples, known: Survey, config: PretrainConfig, seed: int) -> PresenceHead:
    """Train all that is trainable in front of the language model, in place, on the model's device.

    All that is drawn comes from `seed`, so that the same training gives the same weights; `known` is of the samples,
    with answers. The head is returned for those who want to look.

    Raises:
        UserError: no sample has a picture or masks, or the training diverges.
    """
    with seeded(seed, next(model.parameters()).device):
        return _pretrain(model, samples, known, config, seed)


def _pretrain(model: MM2SG, samples: TrainingSamples, known: Survey, config: PretrainConfig, seed: int) -> PresenceHead:
    device = next(model.parameters()).device
    different = [frozenset(parse(answer)) for answer in known.answers]
    graphs = [different[number] for number in known.answer_numbers.tolist()]
    visible = np.flatnonzero(known.shown).tolist()
    if not visible:
        raise UserError("no training sample has pictures or masks to learn to see from; leave `pretrain` out")
    vocabulary = frequent_triplets(graphs)
    held = torch.tensor([[triplet in graph for triplet in vocabulary] for graph in different]).float()
    truth = held[torch.from_numpy(known.answer_numbers)].to(device)
    share = truth.mean(0)
    rarity = ((1 - share) / share).sqrt().clamp(1.0, MAX_RARITY)
    head = PresenceHead(len(vocabulary), model.settings.language.width).to(device)
    seeing = [weight for name, weight in model.named_parameters() if name.startswith(SEEING) and weight.requires_grad]
    weights = [*seeing, *head.parameters()]
    optimizer = torch.optim.AdamW(weights, config.learning_rate, weight_decay=config.weight_decay)
    rise = 0.05 if config.steps > 20 else 0.3  # of all steps; of 20 a twentieth would be a rise of no step, and 0 / 0
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, config.steps, pct_start=rise)
    generator = Random(f"pretrain {seed}")
    views_share = WITH_VIEWS if {"masks", "audio"} & set(model.settings.modalities) else 1.0
    model.train()
    for step in track(range(config.steps), "learning to see"):
        chosen = generator.sample(visible, min(config.batch_size, len(visible)))
        views, cloud = (generator.random() < share for share in (views_share, WITH_CLOUD))
        examples = [samples.look(i, generator, views, cloud).to(device) for i in chosen]
        logits = head(model.visual_tokens(examples))
        loss = F.binary_cross_entropy_with_logits(logits, truth[chosen], pos_weight=rarity, reduction="sum")
        loss = loss / len(chosen)
        if not loss.isfinite():
            raise UserError(
                f"pretraining diverged: loss {loss:.3g} at step {step + 1}; lower the learning_rate of `pretrain`"
            )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
    return head


def groups_after_pretraining(model: MM2SG, config: TrainConfig) -> list[dict[str, Any]]:
    """Groups for a torch optimiser: what has learnt to see goes on at `visual_learning_rate`; only matrices decay."""
    groups = []
    for sees, rate in ((True, config.visual_learning_rate), (False, config.learning_rate)):
        for decays in (True, False):
            members = [
                weight
                for name, weight in model.named_parameters()
                if weight.requires_grad and name.startswith(SEEING) == sees and (weight.ndim > 1) == decays
            ]
            groups.append({"params": members, "lr": rate, "weight_decay": config.weight_decay if decays else 0.0})
    return [group for group in groups if group["params"]]


def frequent_triplets(graphs: Sequence[frozenset[Triplet]]) -> list[Triplet]:
    """All triplets that hold in a share of the graphs, sorted."""
    least = max(1.0, SMALLEST_SHARE * len(graphs))
    counts = Counter(triplet for graph in graphs for triplet in graph)
    return sorted(triplet for triplet, count in counts.items() if count >= least)
