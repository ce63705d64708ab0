"""Which triplets hold: told from visual tokens, which teaches the visual path, or by the language model's state."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from operating_room.errors import UserError
from operating_room.files.tensors import check_numbers, read_tensors, write_safetensors
from operating_room.graphs.scene_graph import Triplet, parse
from scene_graph_generation.inputs.example import Example
from scene_graph_generation.samples.survey import Survey

TEACHER = "teacher.safetensors"  # in a checkpoint's folder
HEADS = 4  # or 2, as far as they divide the width
SMALLEST_SHARE = 1e-3  # of samples: how seldom a triplet may be to be asked for
MAX_RARITY = 8.0  # how much more a seldom triplet counts where it holds


class PresenceHead(nn.Module):
    """Which triplets hold, told from visual tokens: each triplet has a query that attends to all tokens."""

    def __init__(self, triplets: int, width: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(triplets, width) / math.sqrt(width))
        self.normalise = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, math.gcd(width, HEADS), batch_first=True)
        self.readout = nn.Parameter(torch.randn(triplets, width) / math.sqrt(width))
        self.bias = nn.Parameter(torch.full((triplets,), -2.0))

    def forward(self, tokens: Sequence[Float[Tensor, "_ width"]]) -> Float[Tensor, "samples triplets"]:
        """Logits; samples may have different numbers of tokens."""
        padded = self.normalise(nn.utils.rnn.pad_sequence(list(tokens), batch_first=True))
        counts = torch.tensor([len(sample) for sample in tokens]).to(padded.device, non_blocking=True)
        absent = torch.arange(padded.shape[1], device=padded.device) >= counts[:, None]
        queries = self.queries.expand(len(tokens), -1, -1)
        found, _ = self.attention(queries, padded, padded, key_padding_mask=absent, need_weights=False)
        return (found * self.readout).sum(-1) + self.bias


def f1_of(said: Bool[Tensor, "samples triplets"], true: Bool[Tensor, "samples triplets"]) -> dict[str, float]:
    """F1 over all triplets together, and the mean over those that hold somewhere."""
    both, either = (said & true).sum(0).double(), said.sum(0).double() + true.sum(0).double()
    there = true.any(0)
    each = (2 * both / either.clamp(min=1))[there]
    return {
        "f1": float(2 * both.sum() / either.sum().clamp(min=1)),
        "mean_f1": float(each.mean()) if len(each) else 0.0,
    }


class TripletTeacher(nn.Module):
    """Asks the language model's state before an answer which triplets hold, so that it learns to look for them.

    It is trained with the model and belongs to no model folder.

    Args:
        triplets: that are asked for.
        rarity: how much more each of them counts where it holds.
        width: of the language model.
    """

    rarity: Tensor

    def __init__(self, triplets: Sequence[Triplet], rarity: Float[Tensor, " triplets"], width: int) -> None:
        super().__init__()
        self.triplets = tuple(triplets)
        self.register_buffer("rarity", rarity)
        self.hidden = nn.Linear(width, 2 * width)
        self.readout = nn.Parameter(torch.randn(len(self.triplets), 2 * width) / math.sqrt(2 * width))
        self.bias = nn.Parameter(torch.full((len(self.triplets),), -2.0))

    def forward(self, states: Float[Tensor, "samples width"]) -> Float[Tensor, "samples triplets"]:
        """Logits."""
        return F.linear(F.gelu(self.hidden(states)), self.readout, self.bias)

    def loss(self, logits: Float[Tensor, "samples triplets"], examples: Sequence[Example]) -> Float[Tensor, ""]:
        """Binary cross entropy, summed over triplets, mean over samples."""
        truth = torch.stack([example.holds for example in examples if example.holds is not None]).float()
        summed = F.binary_cross_entropy_with_logits(logits.float(), truth, pos_weight=self.rarity, reduction="sum")
        return summed / len(truth)


def new_teacher(known: Survey, width: int) -> TripletTeacher:
    """A teacher of the triplets that samples hold often enough.

    Raises:
        UserError: they hold none.
    """
    different = [frozenset(parse(answer)) for answer in known.answers]
    triplets = frequent_triplets([different[number] for number in known.answer_numbers])
    if not triplets:
        raise UserError("no answer of the samples is a scene graph, which train.presence asks for; leave it out")
    held = np.array([[triplet in graph for triplet in triplets] for graph in different])
    times = np.bincount(known.answer_numbers, minlength=len(different))
    share = torch.from_numpy(times @ held / times.sum()).float()
    return TripletTeacher(triplets, rarity_of(share), width)


def save_teacher(teacher: nn.Module, folder: Path) -> None:
    """Write it to a checkpoint's folder.

    Raises:
        UserError: the file cannot be written.
    """
    write_safetensors(folder / TEACHER, {name: tensor.cpu() for name, tensor in teacher.state_dict().items()})


def load_teacher(teacher: nn.Module, folder: Path) -> None:
    """Fill it from a checkpoint's folder.

    Raises:
        UserError: the file is missing, damaged, or of other triplets.
    """
    path = folder / TEACHER
    state = read_tensors(path)
    own = teacher.state_dict()
    if own.keys() != state.keys() or any(own[name].shape != state[name].shape for name in own):
        raise UserError(f"{path}: is of other triplets; go on from an earlier checkpoint, or begin anew")
    check_numbers(state, path)
    teacher.load_state_dict(state)


def rarity_of(share: Float[Tensor, " triplets"]) -> Float[Tensor, " triplets"]:
    """How much more each triplet counts where it holds; `share` of the samples, above 0."""
    return ((1 - share) / share).sqrt().clamp(1.0, MAX_RARITY)


def frequent_triplets(graphs: Sequence[frozenset[Triplet]]) -> list[Triplet]:
    """All triplets that hold in a share of the graphs, sorted."""
    least = max(1.0, SMALLEST_SHARE * len(graphs))
    counts = Counter(triplet for graph in graphs for triplet in graph)
    return sorted(triplet for triplet, count in counts.items() if count >= least)
