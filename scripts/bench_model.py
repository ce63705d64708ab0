"""Stage 2 in numbers: vision and pooler, point encoder, generation, training of the small model.

    python scripts/bench_model.py [vision] [points] [generation] [training]

CPU time of one thread, float32, random weights and inputs. "As published" computes what the published code computes:
all layers of the vision tower and all tokens of the pooler's last layer; the results are checked to be equal.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from timing import cpu_seconds
from torch import Tensor

from scene_graph_generation.config.settings import MM2SGConfig, PointConfig, VisionConfig, read_experiment
from scene_graph_generation.inputs.example import IMAGE, Example
from scene_graph_generation.model.decoding import generate
from scene_graph_generation.model.encoders import VisionTower
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.model.point_transformer import PointEncoder
from scene_graph_generation.model.pooler import ViewPooler
from scene_graph_generation.training.loss import answer_loss

SMALL = Path(__file__).parents[1] / "configs" / "scene_graph" / "small.yaml"
VIEWS = 7
NEW_TOKENS, TEXT_TOKENS = 100, 400
BATCH = 8
SIDE = 1.0  # m, of the box on whose faces the points lie


def compare(name: str, ours: tuple[float, Tensor], published: tuple[float, Tensor]) -> None:
    """Print both times after checking that the results are equal."""
    torch.testing.assert_close(ours[1], published[1], rtol=0, atol=1e-4 * float(published[1].abs().max()))
    print(f"  {name:32} published {published[0]:6.2f}  ours {ours[0]:6.2f} ({published[0] / ours[0]:.2f}x)", flush=True)


def bench_vision() -> None:
    """Vision tower and pooler for the views of one sample."""
    print(f"{VIEWS} views through CLIP ViT-L/14-336 and the pooler, CPU s")
    config = MM2SGConfig()
    torch.manual_seed(0)
    tower = VisionTower(config.vision).eval()
    views = torch.randn(VIEWS, 3, config.vision.image_size, config.vision.image_size)

    def all_layers() -> Tensor:
        states = tower.clip(views, output_hidden_states=True).hidden_states
        return states[config.vision.feature_layer][:, 1:]

    with torch.no_grad():
        compare("vision tower, forward", cpu_seconds(1, tower, views), cpu_seconds(1, all_layers))
    del tower
    pooler = ViewPooler(config).eval()
    tokens = torch.randn(1, VIEWS, config.vision.tokens, config.vision.width)

    def all_tokens(tokens: Tensor) -> Tensor:
        output = pooler.bert(inputs_embeds=tokens.flatten(1, 2)).last_hidden_state
        return output[:, : config.vision.tokens]

    def backward(pool: Callable[[Tensor], Tensor]) -> Tensor:
        inputs = tokens.clone().requires_grad_()
        pooler.zero_grad()
        pool(inputs).square().sum().backward()
        assert inputs.grad is not None
        return inputs.grad

    with torch.no_grad():
        compare("pooler, forward", cpu_seconds(2, pooler, tokens), cpu_seconds(2, all_tokens, tokens))
    compare("pooler, forward and backward", cpu_seconds(1, backward, pooler), cpu_seconds(1, backward, all_tokens))


def surface(points: int) -> Tensor:
    """Points on the six faces of a box, and colours."""
    generator = torch.Generator().manual_seed(0)
    places = SIDE * torch.rand(points, 3, generator=generator)
    face = torch.randint(6, (points,), generator=generator)
    places[torch.arange(points), face % 3] = SIDE * (face // 3)
    return torch.cat((places, torch.rand(points, 3, generator=generator)), dim=1)


def bench_points() -> None:
    """The published point encoder on clouds like surfaces."""
    print(
        f"point encoder, published size, points on the faces of a box of {SIDE:.0f} m, CPU s (aim at 20000: 0.9, 1.8)"
    )
    torch.manual_seed(0)
    encoder = PointEncoder(PointConfig(), VisionConfig().width).eval()
    for count in (6000, 20_000):
        cloud = surface(count)
        with torch.no_grad():
            inference, _ = cpu_seconds(3, encoder, [cloud])
        times = []
        for _ in range(2):
            forward, result = cpu_seconds(1, encoder, [cloud])
            times.append((cpu_seconds(1, result.square().sum().backward)[0], forward))
        backward, forward = min(times)
        print(
            f"  {count:6} points  inference {inference:5.2f}  forward {forward:5.2f}  backward {backward:5.2f}",
            flush=True,
        )


def small_examples(config: MM2SGConfig, count: int) -> list[Example]:
    """Samples with four views, three masks and a vector of sound; the second half of the text is to be learnt."""
    generator = torch.Generator().manual_seed(0)
    size = config.vision.image_size
    ids = torch.randint(3, config.language.vocabulary, (count, TEXT_TOKENS), generator=generator)
    ids[:, 2] = IMAGE
    labels = ids.clone()
    labels[:, : TEXT_TOKENS // 2] = -100
    return [
        Example(
            ids=ids[i],
            views=torch.randn(4, 3, size, size, generator=generator),
            labels=labels[i],
            others={
                "audio": torch.randn(config.pooler.audio_width, generator=generator),
                "masks": torch.randint(0, config.labels, (config.masks, 32, 32), generator=generator).to(torch.uint8),
            },
        )
        for i in range(count)
    ]


def small_model() -> MM2SG:
    """The model of configs/scene_graph/small.yaml."""
    torch.manual_seed(0)
    return MM2SG(read_experiment(SMALL).model)


def bench_generation() -> None:
    """Generation with and without cache, alone and in a batch."""
    print(f"small model, {NEW_TOKENS} new tokens after {TEXT_TOKENS} of text and the visual ones, CPU s per sample")
    model = small_model().eval()
    examples = small_examples(model.settings, BATCH)

    @torch.no_grad()
    def without_cache() -> list[list[int]]:
        embeddings = model.embed(examples[:1]).embeddings
        generated: list[int] = []
        for _ in range(NEW_TOKENS):
            token = model.language(inputs_embeds=embeddings, use_cache=False, logits_to_keep=1).logits[:, -1].argmax(-1)
            generated.append(int(token))
            embeddings = torch.cat((embeddings, model.language.get_input_embeddings()(token)[:, None]), dim=1)
        return [generated]

    plain, expected = cpu_seconds(1, without_cache)
    alone, first = cpu_seconds(2, generate, model, examples[:1], -1, NEW_TOKENS)
    together, all_of_them = cpu_seconds(1, generate, model, examples, -1, NEW_TOKENS)
    if not expected == first == all_of_them[:1]:
        raise SystemExit("the ways of generating disagree")
    together /= BATCH
    print(f"  without cache {plain:6.2f}  with {alone:5.2f} ({plain / alone:.1f}x)")
    print(f"  in a batch of {BATCH} {together:5.2f} ({alone / together:.1f}x of one at a time)", flush=True)


def bench_training() -> None:
    """Training steps of the small model."""
    print(f"small model, training in batches of {BATCH}: samples per CPU s")
    for name, bf16 in (("float32", False), ("bf16 autocast", True)):
        model = small_model().train()
        examples = small_examples(model.settings, BATCH)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        seconds, _ = cpu_seconds(3, train_step, model, optimizer, examples, bf16)
        print(f"  {name:14} {BATCH / seconds:5.2f}", flush=True)


def train_step(model: MM2SG, optimizer: torch.optim.Optimizer, examples: list[Example], bf16: bool) -> None:
    """Forward, backward, update."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        output = model(examples)
        loss = answer_loss(output.logits, output.labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def main() -> None:
    """Measure and print."""
    parts = {"vision": bench_vision, "points": bench_points, "generation": bench_generation, "training": bench_training}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", help=f"{', '.join(parts)}; default: all")
    torch.set_num_threads(1)
    for name in parser.parse_args().what or parts:
        parts[name]()


if __name__ == "__main__":
    main()
