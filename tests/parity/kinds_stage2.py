"""Cases of stage 2: the scene-graph model (stage-2 specification)."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import TrainingArguments, get_scheduler

from scene_graph_generation.config.settings import LanguageConfig, MM2SGConfig, PointConfig, TrainConfig, VisionConfig
from scene_graph_generation.inputs.example import Example
from scene_graph_generation.inputs.modalities import MODALITIES
from scene_graph_generation.inputs.views import normalise_views, prepare_view
from scene_graph_generation.model.decoding import generate
from scene_graph_generation.model.encoders import VisionTower
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.model.point_serialization import CURVES
from scene_graph_generation.model.point_transformer import Block, PointEncoder, Points, Pooling
from scene_graph_generation.model.pooler import ImagePooler, attend
from scene_graph_generation.training.loss import token_weights, weighted_loss
from scene_graph_generation.weights.adapters import add_lora, freeze, parameter_groups
from scene_graph_generation.weights.base_models import assign, build_empty
from scene_graph_generation.weights.fine_tuned import adapter_state, other_state
from scene_graph_generation.weights.parameter_names import WRAPPED, our_name, published_name
from tests.parity.case import EXACT, Result, beside, compare, load_json
from tests.parity.fill import fill_array

TINY = MM2SGConfig(
    vision=VisionConfig(layers=4),
    language=LanguageConfig(vocabulary=320, width=64, layers=2, heads=4, mlp=128),
    batching="published",
)


def clip(case: Path) -> Iterator[Result]:
    """Vision tower: features of the next-to-last layer."""
    facts, stored = _read(case)
    pixels = _generated(facts["inputs"][0], facts["seed"])
    tower = VisionTower(TINY.vision)
    _fill(tower, "vision.", facts["seed"])
    yield compare("pixel_values", pixels.flatten()[:16], stored["pixel_values.head16"], EXACT)
    with torch.no_grad():
        embedded = tower.clip.pre_layrnorm(tower.clip.embeddings(pixels))
        features = tower(pixels)
    yield compare("hidden0.cls", embedded[:, 0], stored["hidden0.cls"], 1e-4)
    yield compare("hidden0", embedded[:, 1::12], stored["hidden0.every12"], 1e-4)
    yield compare("features", features[:, ::12], stored["features.every12"], 1e-4)
    yield compare("features.stats", _stats(features), stored["features.stats"], 1e-4)


def bert(case: Path) -> Iterator[Result]:
    """View pooler: batches of several view counts, and intermediates."""
    facts, stored = _read(case)
    samples = [_generated(entry, facts["seed"]) for entry in facts["inputs"]]
    pooler = ImagePooler(TINY).eval()
    _fill(pooler.views, "pooler.views.", facts["seed"])
    with torch.no_grad():
        mixed = torch.stack(pooler._pool([(sample, []) for sample in samples]))
        uniform = torch.stack([sample[:2] for sample in samples[1:]])
        embedded = pooler.views.bert.embeddings(inputs_embeds=uniform.flatten(1, 2))
        first, second = pooler.views.layers
        layer1 = attend(first, embedded, embedded)
        last = attend(second, layer1, layer1)
        pooled = pooler.views(uniform)
    tokens = [len(sample) * sample.shape[1] for sample in samples]
    yield compare("mixed.mask_sum", tokens, stored["mixed.mask_sum"].tolist(), EXACT)
    yield compare("mixed", mixed[:, ::16], stored["mixed.out.every16"], 5e-5)
    yield compare("mixed.stats", _stats(mixed), stored["mixed.out.stats"], 5e-5)
    yield compare("uniform", pooled[:, ::16], stored["uniform.out.every16"], 5e-5)
    yield compare("uniform.stats", _stats(pooled), stored["uniform.out.stats"], 5e-5)
    yield compare("embeddings", embedded[:, ::64], stored["uniform.embeddings.every64"], 5e-5)
    yield compare("layer1", layer1[:, ::64], stored["uniform.layer1.every64"], 5e-5)
    yield compare("last layer", last[:, 576::64], stored["uniform.full_last.second_view.every64"], 5e-5)


def segmasks(case: Path) -> Iterator[Result]:
    """Mask encoder, and zeros for missing masks."""
    facts, stored = _read(case)
    pooler = ImagePooler(TINY).eval()
    assert pooler.mask_encoder is not None
    _fill(pooler.mask_encoder, "pooler.mask_encoder.", facts["seed"])
    labels = stored["labels"]
    with torch.no_grad():
        encoded = pooler.mask_encoder(labels)
        batch = pooler.mask_encoder.encode([labels[:3], None, labels[3:4], labels[4:6]])
    yield compare("encoder", encoded, stored["encoder_out"], 1e-5)
    yield compare("batch", batch, stored["batch_out"], 1e-5)


def audio(case: Path) -> Iterator[Result]:
    """Audio projection; a missing vector is zero before it."""
    facts, stored = _read(case)
    pooler = ImagePooler(TINY).eval()
    _fill(pooler.project_audio, "pooler.project_audio.", facts["seed"])
    first, second, third = stored["audio"]
    with torch.no_grad():
        mixed = pooler.project_audio.encode([first, None, second, third])
        absent = pooler.project_audio.encode([None, None])
    yield compare("batch", mixed[:, 0], stored["out"], 1e-5)
    yield compare("all absent", absent[:, 0], stored["out_all_none"], 1e-5)


def ptv3(case: Path) -> Iterator[Result]:
    """Point encoder: voxels, curves, patches, features after each module, the result, and other orders of curves."""
    facts, stored = _read(case)
    encoder = PointEncoder(PointConfig(), TINY.vision.width)
    _fill(encoder, "pooler.point_encoder.", facts["seed"])
    present = [stored[key] for key in sorted(stored) if key.startswith("points_")]
    clouds = [present[0], None, *present[1:]]
    after: dict[str, Points] = {}
    for name, module in encoder.enc.named_modules():
        if isinstance(module, Pooling | Block):
            module.register_forward_hook(lambda _module, _inputs, points, name=name: after.__setitem__(name, points))
    fixed = torch.arange(CURVES).expand(len(encoder.enc), CURVES)
    with torch.no_grad():
        start = encoder.embed(present, shared_origin=True)
        pooled = encoder.pool(clouds, True, fixed)
        stages = dict(after)
        shuffled = encoder.pool(clouds, True, stored["perms"].long())
        yield compare("out", encoder(clouds, shared_origin=True), stored["out"], 1e-4)
        yield compare("permuted.out", encoder.project_pc(shuffled), stored["permuted.out"], 1e-4)
        yield compare("all_none.out", encoder([None, None], shared_origin=True), stored["all_none.out"], 1e-4)
    yield compare("pooled", pooled, stored["pooled"], 1e-4)
    yield compare("permuted.pooled", shuffled, stored["permuted.pooled"], 1e-4)
    yield compare("grid_coord", start.grid, stored["grid_coord"], EXACT)
    yield compare("depth", [start.bits], stored["depth"].tolist(), EXACT)
    yield compare("order", start.orders, stored["order"], EXACT)
    yield compare("code", start.codes[:, ::16], stored["code.every16"], EXACT)
    yield compare("embedding", start.features[::32], stored["embedding.every32"], 1e-4)
    boundaries = [0, *accumulate(start.patches.lengths)]
    yield compare("stage0.cu_seqlens", boundaries, stored["stage0.cu_seqlens"].tolist(), EXACT)
    yield compare("stage0.pad", start.patches.slots, stored["stage0.pad"], EXACT)
    yield compare("stage0.unpad", start.patches.places, stored["stage0.unpad"], EXACT)
    for key in sorted(key.removesuffix(".n") for key in stored if key.endswith(".n")):
        points = stages[key]
        yield compare(f"{key}.n", [len(points.grid)], stored[f"{key}.n"].tolist(), EXACT)
        stats = torch.stack((points.features.mean(0), points.features.std(0, unbiased=False)))
        yield compare(f"{key}.stats", stats, stored[f"{key}.stats"], 1e-4)
        if f"{key}.order" in stored:
            yield compare(f"{key}.order", points.orders, stored[f"{key}.order"], EXACT)
        if f"{key}.rows" in stored:
            rows = stored[f"{key}.rows"].long()
            yield compare(f"{key}.feat", points.features[rows], stored[f"{key}.feat"], 1e-4)
            yield compare(f"{key}.grid", points.grid[rows], stored[f"{key}.grid"], EXACT)
            yield compare(f"{key}.batch", points.cloud[rows], stored[f"{key}.batch"], EXACT)


def preprocess(case: Path) -> Iterator[Result]:
    """Picture to pixel values."""
    _, stored = _read(case)
    for name in sorted({key.split(".")[0] for key in stored}):
        view = prepare_view(stored[f"{name}.image"].numpy(), TINY.vision.image_size)
        pixels = normalise_views(view[None])[0]
        yield compare(f"{name}.resized", view, stored[f"{name}.resized_u8"], EXACT)
        yield compare(f"{name}.pixels", pixels[:, ::4, ::4], stored[f"{name}.pixel_values.every4"], 1e-5)


def merge(case: Path) -> Iterator[Result]:
    """Text and visual tokens to one batch, for several subsets of modalities."""
    facts, stored = _read(case)
    model = _tiny_model(facts)
    examples = _examples(facts, stored)
    for name, side, limit, parts in (
        ("A_right", "right", 2048, ("cloud", "audio", "masks")),
        ("A_right_truncated600", "right", 600, ("cloud", "audio", "masks")),
        ("A_right_truncated40", "right", 40, ("cloud", "audio", "masks")),
        ("L_left", "left", 2048, ("cloud", "audio", "masks")),
        ("B_segmasks_only", "right", 2048, ("masks",)),
        ("C_images_only", "right", 2048, ()),
        ("D_pc_only", "right", 2048, ("cloud",)),
    ):
        model.settings = dataclasses.replace(model.settings, max_length=limit)
        with torch.no_grad():
            merged = model.embed([_subset(example, parts) for example in examples], side)
        if f"{name}.inputs_embeds" in stored:
            yield compare(f"{name}.embeddings", merged.embeddings, stored[f"{name}.inputs_embeds"], 5e-5)
        else:
            yield compare(f"{name}.embeddings", merged.embeddings[:, ::8], stored[f"{name}.inputs_embeds.every8"], 5e-5)
        yield compare(f"{name}.stats", _stats(merged.embeddings), stored[f"{name}.stats"], 5e-5)
        yield compare(f"{name}.attention_mask", merged.attention_mask, stored[f"{name}.attention_mask"], EXACT)
        if f"{name}.labels" in stored:
            yield compare(f"{name}.labels", merged.labels, stored[f"{name}.labels"], EXACT)
        if f"{name}.position_ids" in stored:
            yield compare(f"{name}.position_ids", merged.position_ids, stored[f"{name}.position_ids"], EXACT)


def model(case: Path) -> Iterator[Result]:
    """The tiny model: loss and gradients of a batch, generation alone and in a batch."""
    facts, stored = _read(case)
    tiny = _tiny_model(facts)
    yield compare("parameter names", *_names(tiny, case), EXACT)
    examples = _examples(facts, stored)
    weights = token_weights(facts["token_frequencies"], {f"t{i}": i for i in range(320)}, 320)
    yield compare("token weights", weights, stored["weights"], 1e-7)
    yield compare("weight of other tokens", weights.min(), np.float32(facts["extra_token_weight"]), 1e-7)
    for name, members in (("single1", [1]), ("single2", [2]), ("batch", [0, 1, 2])):
        yield from _generation(tiny, name, [examples[i] for i in members], stored)
    output = tiny.score_all(examples)
    loss = weighted_loss(output.logits, output.labels, weights)
    loss.backward()
    yield compare("logits", output.logits[:, ::16].detach(), stored["logits.every16"], 1e-3)
    yield compare("logits.last64", output.logits[:, -64:].detach(), stored["logits.last64"], 1e-3)
    yield compare("logits.stats", _stats(output.logits.detach()), stored["logits.stats"], 1e-3)
    yield compare("labels", output.labels, stored["modified_labels"], EXACT)
    yield compare("loss", loss.detach(), stored["loss_weighted"][0], 1e-4)
    yield compare("plain loss", weighted_loss(output.logits, output.labels).detach(), stored["loss_plain"][0], 1e-4)
    yield from _gradients(tiny, facts, stored)


def param_groups(case: Path) -> Iterator[Result]:
    """What is trained, in which groups of the optimiser, at which rate, and under which names it is saved."""
    facts = load_json(case)
    with torch.device("meta"):
        tiny = MM2SG(TINY)
    add_lora(tiny)
    freeze(tiny, 2)
    upper = sorted(name for name in _wrapped(tiny) if "vision_tower" in name)
    yield compare("vision, last 2 of 4", upper, sorted(facts["vision_trainable_when_unfreezing_2_of_4"]), EXACT)
    freeze(tiny, 12)
    yield compare("trainable", sorted(_wrapped(tiny)), _without_adapter_name(facts["trainable"]), EXACT)
    yield compare("frozen", sorted(_wrapped(tiny, trainable=False)), _without_adapter_name(facts["frozen"]), EXACT)
    rate = facts["groups"][0]["lr"]
    optimizer = torch.optim.AdamW(parameter_groups(tiny, rate, projector_rate=facts["groups"][2]["lr"]), lr=rate)
    names = {id(parameter): name for name, parameter in _wrapped(tiny).items()}
    for i, (ours, theirs) in enumerate(zip(optimizer.param_groups, facts["groups"], strict=True)):
        members = sorted(names[id(parameter)] for parameter in ours["params"])
        yield compare(f"group {i}", members, _without_adapter_name(theirs["names"]), EXACT)
        yield compare(f"group {i} rates", [ours["lr"], ours["weight_decay"]], [theirs["lr"], theirs["weight_decay"]], 0)
    defaults = {key: value for key, value in facts["defaults"].items() if key in optimizer.defaults}
    ours = {key: optimizer.defaults[key] for key in defaults}
    yield compare("AdamW", ours | {"betas": list(ours["betas"])}, defaults, EXACT)
    yield compare("adapter_model.bin", sorted(adapter_state(tiny)), sorted(facts["adapter_model_keys"]), EXACT)
    others = sorted(other_state(tiny))
    yield compare("non_lora_trainables.bin", others, sorted(facts["non_lora_trainables_keys"]), EXACT)
    yield from _learning_rates(facts["lr_schedule"])


def _wrapped(tiny: MM2SG, trainable: bool = True) -> dict[str, nn.Parameter]:
    """Parameters under the names they have in the published training, but for peft's name of the adapter."""
    return {
        WRAPPED + published_name(name): parameter
        for name, parameter in tiny.named_parameters()
        if parameter.requires_grad == trainable
    }


def _without_adapter_name(names: list[str]) -> list[str]:
    return sorted(name.replace(".default.", ".") for name in names)


def _learning_rates(facts: dict[str, Any]) -> Iterator[Result]:
    """The schedule of a training with the published settings."""
    settings = TrainConfig()
    total, rate = facts["total_steps"], facts["base_lr"]
    warmup = TrainingArguments(warmup_steps=settings.warmup, report_to="none").get_warmup_steps(total)
    yield compare("warm-up steps", [warmup], [facts["warmup_steps"]], EXACT)
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=settings.learning_rate)
    schedule = get_scheduler("cosine", optimizer, warmup, total)
    rates = []
    for _ in range(total):
        rates.append(schedule.get_last_lr()[0] / rate)
        optimizer.step()
        schedule.step()
    stored = {int(step): value / rate for step, value in facts["lr_at_optimizer_step"].items()}
    yield compare("learning rate, relative", [rates[step] for step in stored], list(stored.values()), 1e-9)


def _generation(tiny: MM2SG, name: str, examples: Sequence[Example], stored: dict[str, Tensor]) -> Iterator[Result]:
    prompts = [_prompt_only(example) for example in examples]
    steps = stored[f"gen.{name}.new_tokens"].shape[1]
    theirs = [_until(row.tolist(), end=2) for row in stored[f"gen.{name}.new_tokens"]]
    yield compare(f"gen.{name}", generate(tiny, prompts, end_ids=[2], max_new_tokens=steps), theirs, EXACT)
    with torch.no_grad():
        merged = tiny.embed(prompts, "left")
        scores = tiny.language(
            inputs_embeds=merged.embeddings, attention_mask=merged.attention_mask, position_ids=merged.position_ids
        ).logits[:, -1]
    yield compare(f"gen.{name}.first_scores", scores, stored[f"gen.{name}.first_scores"], 1e-3)


def _gradients(tiny: MM2SG, facts: dict[str, Any], stored: dict[str, Tensor]) -> Iterator[Result]:
    """Relative errors of gradient norms and stored gradients; a gradient that is zero in theory must be small."""
    gradients = {published_name(name): parameter.grad for name, parameter in tiny.named_parameters()}
    worst = 0.0
    for name, norm in facts["grad_norms"].items():
        gradient = gradients[name]
        if norm is None or gradient is None:
            reached = gradient is not None and bool(gradient.any())
            worst = worst if reached == (norm is not None) else math.inf
        elif norm < 1e-5:
            worst = max(worst, 0.0 if float(gradient.double().norm()) < 1e-5 else math.inf)
        else:
            worst = max(worst, abs(float(gradient.double().norm()) / norm - 1))
    yield Result("gradient norms, relative", worst, 2e-3)
    for key in sorted(key for key in stored if key.startswith("grad.")):
        theirs, ours = stored[key], gradients[key.removeprefix("grad.")]
        error = math.inf if ours is None else float((ours - theirs).norm() / theirs.norm())
        yield Result(f"{key}, relative", error, 2e-3)


def _read(case: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    return json.loads(case.read_text()), load_file(case.with_suffix(".safetensors"))


def _generated(entry: dict[str, Any], seed: int) -> Tensor:
    shape = tuple(entry["shape"])
    return torch.from_numpy(
        fill_array(entry["name"], shape, "float32", seed) * np.float32(math.sqrt(math.prod(shape[1:])))
    )


def _fill(module: nn.Module, prefix: str, seed: int) -> None:
    """Fill the parameters of `module`, which stands at `prefix` in our model, by their published names."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(_values(published_name(prefix + name), tensor.shape, seed))
    module.eval()


def _values(published: str, shape: torch.Size, seed: int, factor: float = 1.0) -> Tensor:
    return torch.from_numpy(fill_array(published, tuple(shape), "float32", seed) * np.float32(factor))


def _tiny_model(facts: dict[str, Any]) -> MM2SG:
    """The tiny model, filled through the loader of published files."""
    factors = facts.get("weight_overrides", {}).get("factors", {})
    tiny = build_empty(TINY)
    state = {
        name: _values(name, tensor.shape, facts["seed"], factors.get(name, 1.0))
        if tensor.is_floating_point()
        else tensor
        for name, tensor in ((published_name(ours), tensor) for ours, tensor in tiny.state_dict().items())
    }
    report = assign(tiny, {WRAPPED + name: tensor for name, tensor in state.items()}, Path(facts["case"]))
    assert len(report.matched) == len(state)
    return tiny


def _names(tiny: MM2SG, case: Path) -> tuple[list[str], list[str]]:
    """Published names of our parameters, and those of the manifest that are not computed."""
    manifest = load_json(beside(case, "stage2", "manifest_mm2sg_tiny.json.gz"))
    ours = [published_name(name) for name in tiny.state_dict()]
    theirs = [name for name in manifest if our_name(name)]
    return sorted(ours), sorted(theirs)


def _examples(facts: dict[str, Any], stored: dict[str, Tensor]) -> list[Example]:
    """The three samples of cases 6 and 7."""
    return [
        Example(
            ids=stored[f"in.{i}.input_ids"],
            labels=stored[f"in.{i}.labels"],
            views=_generated(entry, facts["seed"]),
            others={row.name: stored[key] for row in MODALITIES if (key := f"in.{i}.{row.key}") in stored},
        )
        for i, entry in enumerate(facts["inputs"])
    ]


def _subset(example: Example, parts: Sequence[str]) -> Example:
    return example.without(*({"cloud", "audio", "masks"} - {*parts}))


def _prompt_only(example: Example) -> Example:
    """The sample up to its first supervised token."""
    assert example.labels is not None
    length = int((example.labels >= 0).nonzero()[0, 0]) if bool((example.labels >= 0).any()) else len(example.ids)
    return dataclasses.replace(example, ids=example.ids[:length], labels=None)


def _until(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end)] if end in ids else ids


def _stats(tensor: Tensor) -> Tensor:
    return torch.stack((tensor.mean(-1), tensor.std(-1, unbiased=False)), dim=-1)


KINDS = {
    "clip": clip,
    "bert": bert,
    "segmasks": segmasks,
    "audio": audio,
    "ptv3": ptv3,
    "preprocess": preprocess,
    "merge": merge,
    "model": model,
    "param_groups": param_groups,
}
