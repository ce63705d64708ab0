"""Self-test of MM2SG: reading a timepoint, a training step, generation; small or at the published size."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from computing.machine import autocast, seeded, wait_for
from mmor.check.measure import Outcome
from scene_graph_generation.config.settings import LanguageConfig, MM2SGConfig, PointConfig, PoolerConfig, VisionConfig
from scene_graph_generation.inputs.example import IGNORED, IMAGE, Example
from scene_graph_generation.model.decoding import generate
from scene_graph_generation.model.draft_decoding import decode
from scene_graph_generation.model.drafts import Said
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.training.loss import answer_loss
from scene_graph_generation.training.starting_point import set_training_precision
from scene_graph_generation.weights.adapters import add_lora, freeze, parameter_groups
from scene_graph_generation.weights.base_models import build_empty
from scene_graph_generation.weights.precision import set_precision

SEED = 7
REGRET = 0.25  # standard deviations of the scores; a wrong token is 2 to 4 below the best one
NO_END = ()  # no token ends an answer, so that each has the length that is asked for


@dataclass(frozen=True)
class Size:
    """How large the model and a timepoint are."""

    config: MM2SGConfig
    views: int
    points: int  # of the cloud
    text: int  # tokens of the prompt
    answer: int  # tokens
    batch: int  # samples of a training step
    rank: int  # of the adapter


SMALL = Size(
    MM2SGConfig(
        vision=VisionConfig(image_size=56, patch_size=14, width=64, layers=3, heads=4, mlp=128),
        pooler=PoolerConfig(heads=4, mlp=128, dropout=0.0, mask_channels=(8, 16, 16, 32, 64)),
        points=PointConfig(depths=(1, 1), channels=(16, 32), heads=(1, 2), patch=64, voxel=0.05, drop_path=0.0),
        language=LanguageConfig(vocabulary=256, width=128, layers=2, heads=4, mlp=256),
    ),
    views=3,
    points=400,
    text=40,
    answer=16,
    batch=2,
    rank=4,
)
PUBLISHED = Size(MM2SGConfig(), views=7, points=20_000, text=324, answer=108, batch=4, rank=128)
TRAINING_VIEWS = 4  # of a sample of the published training in the mean


def make_model(size: Size, device: torch.device, bits: int) -> MM2SG:
    """A model with random weights, made on the device; small ones are drawn on the CPU, the same everywhere.

    Args:
        bits: 32, 16 (bfloat16), or 4 (its language model in NF4).
    """
    if size is SMALL:
        with seeded(SEED):
            model = MM2SG(size.config)
        set_precision(model, 4 if bits == 4 else 32, device)
        return model.float().eval() if bits != 4 else model.eval()
    with seeded(SEED, device):
        model = build_empty(size.config)
        for name, parameter in model.named_parameters():
            if parameter.is_meta:
                _replace(model, name, _random(name, parameter, device))
        set_precision(model, 4 if bits == 4 else 16, device)
    return model


def timepoint(size: Size, device: torch.device, views: int | None = None) -> Example:
    """A sample with all modalities; the last `answer` tokens are its answer."""
    draw, config = torch.Generator().manual_seed(SEED), size.config
    edge = config.vision.image_size
    ids = torch.randint(3, config.language.vocabulary, (size.text + size.answer,), generator=draw)
    ids[2] = IMAGE
    labels = ids.clone()
    labels[: size.text] = IGNORED
    cloud = torch.rand(size.points, 6, generator=draw)
    cloud[:, :3] *= torch.tensor([5.0, 5.0, 2.5])  # m
    return Example(
        ids=ids,
        labels=labels,
        views=torch.randn(size.views if views is None else views, 3, edge, edge, generator=draw),
        others={
            "cloud": cloud,
            "audio": torch.randn(config.pooler.audio_width, generator=draw),
            "masks": torch.randint(0, 24, (3, 32, 32), generator=draw).to(torch.uint8),
        },
    ).to(device)


def reading(model: MM2SG, size: Size, dtype: torch.dtype | None) -> Outcome:
    """The visual tokens of a timepoint and the scores of its answer."""
    example = timepoint(size, next(model.parameters()).device)
    model.eval()
    with torch.no_grad(), autocast(example.ids.device, dtype):
        return Outcome((model.visual_tokens([example])[0].float(), model.score_all([example]).logits.float()))


def generation(model: MM2SG, size: Size, dtype: torch.dtype | None, tokens: int) -> Outcome:
    """An answer of `tokens` tokens; the note has the time of each part.

    Raises:
        ArithmeticError: with its key-value cache the model chose other tokens than it does without.
    """
    device = next(model.parameters()).device
    example = timepoint(size, device)
    question = replace(example, ids=example.ids[: size.text], labels=None)
    model.eval()
    with torch.no_grad(), autocast(device, dtype):
        generate(model, [question], NO_END, 2)  # the first pass of a process sets things up
        seeing = _seconds(device, lambda: model.visual_tokens([question]))
        first = _seconds(device, lambda: generate(model, [question], NO_END, 1))
        whole = _seconds(device, lambda: generate(model, [question], NO_END, tokens))
        (said,) = generate(model, [question], NO_END, tokens)
        drafted = decode(model, [question], NO_END, tokens, [_nearly(said)])
        for ids, how in ((said, "with a key-value cache"), (drafted.ids[0], "by drafts")):
            if (loss := _regret(model, question, ids)) > REGRET:
                raise ArithmeticError(f"{how} other tokens are chosen than without ({loss:.2f})")
    token = (whole - first) / (tokens - 1)
    answer = first + (size.answer - 1) * token
    note = f"to see {seeing:.3f} s, to read the prompt {max(0.0, first - seeing):.3f} s, {token * 1000:.1f} ms a token"
    note = f"{note}; an answer of {size.answer} tokens: {answer:.2f} s"
    return Outcome(note=f"{note}; by drafts {tokens} tokens in {drafted.passes} passes", each=answer)


def _nearly(answer: list[int]) -> Said:
    """A draft that is wrong in the middle, so that something is rejected."""
    said = Said()
    said.add([*answer[: len(answer) // 2], *answer[len(answer) // 2 + 1 :]])
    return said


def prepare_training(model: MM2SG, size: Size, checkpointing: bool) -> None:
    """As the published training: an adapter, pooler, projector and the last vision layers are trained in float32."""
    with seeded(SEED):
        add_lora(model, size.rank, 2 * size.rank, dropout=0.0)
    freeze(model)
    set_training_precision(model, bf16=True)
    if checkpointing:
        model.language.activation_checkpointing_enable({"use_reentrant": False})


def training_step(model: MM2SG, size: Size, dtype: torch.dtype | None, update: bool = False) -> Outcome:
    """Forward and backward pass of a batch; the numbers are the loss and the norm of the gradient."""
    device = next(model.parameters()).device
    views = min(size.views, TRAINING_VIEWS)
    examples = [timepoint(size, device, views) for _ in range(size.batch)]
    model.train()
    optimizer = torch.optim.AdamW(parameter_groups(model, 2e-5)) if update else None
    with autocast(device, dtype):
        answers = model(examples)
        loss = answer_loss(answers.logits, answers.labels)
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = torch.stack([gradient.float().norm() for gradient in gradients]).norm()
    if optimizer is not None:
        optimizer.step()
    return Outcome((loss.detach(), norm), f"loss {loss.item():.3f}")


def _regret(model: MM2SG, question: Example, answer: list[int]) -> float:
    """By how much the tokens of an answer score less than the best ones in one pass without cache.

    In units of the spread of the scores, since two scores that are nearly equal may change places by rounding.
    """
    whole = replace(question, ids=torch.cat((question.ids, question.ids.new_tensor(answer[:-1]))))
    scores = model.language(inputs_embeds=model.embed([whole]).embeddings, use_cache=False).logits[0, -len(answer) :]
    scores = scores.float()
    chosen = scores.gather(1, question.ids.new_tensor(answer)[:, None])
    return float(((scores.amax(1, keepdim=True) - chosen) / scores.std(1, keepdim=True)).max())


def _seconds(device: torch.device, run: Callable[[], object]) -> float:
    wait_for(device)
    start = time.perf_counter()
    run()
    wait_for(device)
    return time.perf_counter() - start


def _random(name: str, like: nn.Parameter, device: torch.device) -> nn.Parameter:
    """Weights of a plausible size: 1 in norms, 0 in biases, N(0, 0.02) elsewhere, as the models are initialised."""
    tensor = torch.empty(like.shape, dtype=torch.bfloat16, device=device)
    if tensor.dim() == 1:
        tensor.fill_(0.0 if name.endswith("bias") else 1.0)
    else:
        tensor.normal_(0, 0.02)
    return nn.Parameter(tensor, requires_grad=like.requires_grad)


def _replace(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    where, _, last = name.rpartition(".")
    setattr(model.get_submodule(where), last, parameter)
