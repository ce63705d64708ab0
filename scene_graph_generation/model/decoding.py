"""Greedy generation with a key-value cache (stage-2 specification, sections 2 and 10)."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence

import torch
from transformers import LlamaForCausalLM

from operating_room.errors import UserError
from scene_graph_generation.config.settings import MM2SGConfig
from scene_graph_generation.inputs.example import Example
from scene_graph_generation.model.mm2sg import MM2SG

# transformers 5.24 has renamed the argument, and 5.40 will not know the old name any more.
CACHE = "cache" if "cache" in inspect.signature(LlamaForCausalLM.forward).parameters else "past_key_values"
MAX_NEW_TOKENS = 300  # data specification, section 4.2
NO_NUMBERS = (
    "the model's scores are no numbers: its weights are damaged, or too large for this number format; copy or train "
    "the model again, or try --bits 32"
)


@torch.no_grad()
def generate(
    model: MM2SG, examples: Sequence[Example], end_ids: Collection[int], max_new_tokens: int = MAX_NEW_TOKENS
) -> list[list[int]]:
    """The most likely token after the other, for each sample up to and without the first of `end_ids`.

    The plain way, one token a pass. The language model makes its cache itself: one that looks back over a window only
    keeps no more than that. Samples are padded on the left. With the model's batching `independent` a batch gives what
    its samples give alone.

    Raises:
        UserError: a score is no number.
    """
    merged = model.embed(examples, side="left")
    mask, lengths = merged.attention_mask, merged.attention_mask.sum(1, keepdim=True)
    output = model.language(
        inputs_embeds=merged.embeddings,
        attention_mask=mask,
        position_ids=merged.position_ids,
        use_cache=True,
        logits_to_keep=1,
    )
    generated: list[list[int]] = [[] for _ in examples]
    running = set(range(len(examples)))
    for step in range(max_new_tokens):
        scores = output.logits[:, -1]
        if not scores.isfinite().all():
            raise UserError(NO_NUMBERS)
        tokens = scores.argmax(-1)
        for i, token in enumerate(tokens.tolist()):
            if token in end_ids:
                running.discard(i)
            elif i in running:
                generated[i].append(token)
        if not running or step == max_new_tokens - 1:
            break
        mask = torch.cat((mask, mask.new_ones(len(mask), 1)), dim=1)
        output = model.language(
            input_ids=tokens[:, None],
            attention_mask=mask,
            position_ids=lengths + step,
            **{CACHE: output[CACHE]},
            use_cache=True,
        )
    return generated


def cache_bytes(config: MM2SGConfig, samples: int, new_tokens: int = MAX_NEW_TOKENS, itemsize: int = 2) -> int:
    """Of the keys and values of a batch whose prompts are as long as they may be (`itemsize` bytes a number)."""
    length = min(config.max_length + new_tokens, config.language.positions)
    return 2 * config.language.layers * config.language.key_width * itemsize * length * samples
