"""The scene-graph model: batches, modalities, generation, model folders."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from operating_room.domain.domain import mmor
from operating_room.domain.labels import Category, Labels
from operating_room.errors import UserError
from scene_graph_generation.config.settings import (
    LanguageConfig,
    MM2SGConfig,
    PointConfig,
    PoolerConfig,
    VisionConfig,
    with_labels,
)
from scene_graph_generation.inputs.example import IGNORED, IMAGE, Example
from scene_graph_generation.model.decoding import generate
from scene_graph_generation.model.mm2sg import MM2SG
from scene_graph_generation.training.loss import answer_loss, token_weights, weighted_loss
from scene_graph_generation.weights.parameter_names import from_published, our_name, published_name

VOCABULARY = 40
TINY = MM2SGConfig(
    vision=VisionConfig(image_size=28, patch_size=14, width=16, layers=3, heads=2, mlp=32),
    pooler=PoolerConfig(heads=2, mlp=32, audio_width=12, mask_channels=(8, 8, 8, 8, 16)),
    points=PointConfig(depths=(1, 1), channels=(8, 16), heads=(1, 2), patch=16, voxel=0.05),
    language=LanguageConfig(vocabulary=VOCABULARY, width=16, layers=2, heads=2, mlp=32),
)


def make_model(config: MM2SGConfig = TINY) -> MM2SG:
    draw = torch.Generator().manual_seed(0)
    model = MM2SG(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # the initialisation is too tame to tell outputs apart
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.3)
    return model


def make_examples() -> list[Example]:
    """Samples with different views, texts and modalities."""
    draw = torch.Generator().manual_seed(1)

    def sample(views: int, text: int, masks: int | None, audio: bool, cloud: bool) -> Example:
        ids = torch.randint(3, VOCABULARY, (text,), generator=draw)
        ids[2] = IMAGE
        return Example(
            ids=ids,
            views=torch.randn(views, 3, 28, 28, generator=draw),
            others={
                **({"audio": torch.randn(12, generator=draw)} if audio else {}),
                **({"masks": torch.randint(0, 30, (masks, 32, 32), generator=draw).to(torch.uint8)} if masks else {}),
                **({"cloud": torch.rand(50, 6, generator=draw)} if cloud else {}),
            },
        )

    return [
        sample(1, 9, None, False, False),
        sample(3, 14, 2, True, False),
        sample(7, 5, 3, False, True),
        sample(3, 11, 1, True, True),
    ]


def test_a_batch_gives_what_its_samples_give_alone() -> None:
    model = make_model()
    examples = make_examples()
    together = generate(model, examples, end_ids=[2], max_new_tokens=12)
    alone = [generate(model, [example], end_ids=[2], max_new_tokens=12)[0] for example in examples]
    assert together == alone
    assert len({tuple(ids) for ids in alone}) > 1


def test_generation_with_cache_equals_scoring_everything_again() -> None:
    model = make_model()
    example = make_examples()[1].without("cloud")
    ids = example.ids
    for _ in range(8):
        with torch.no_grad():
            logits = model.score_all([replace(example, ids=ids)]).logits
        ids = torch.cat((ids, logits[0, -1].argmax().view(1)))
    assert generate(model, [example], end_ids=[-1], max_new_tokens=8) == [ids[len(example.ids) :].tolist()]


def test_generation_stops_at_the_end_token() -> None:
    model = make_model()
    example = make_examples()[0]
    free = generate(model, [example], end_ids=[-1], max_new_tokens=10)[0]
    assert generate(model, [example], end_ids=[free[4]], max_new_tokens=10)[0] == free[: free.index(free[4])]


@pytest.mark.parametrize("batching", ["independent", "published"])
def test_tokens_of_absent_modalities(batching: str) -> None:
    model = make_model(replace(TINY, batching=batching))
    lengths = [len(tokens) for tokens in model.visual_tokens(make_examples())]
    assert lengths == {"independent": [4, 4 + 1 + 3, 4 + 1 + 3, 4 + 1 + 1 + 3], "published": [9, 9, 9, 9]}[batching]


def test_the_pooler_of_the_first_view_sees_all_views() -> None:
    model = make_model()
    example = make_examples()[2].without("cloud")
    other = replace(example, views=torch.cat((example.views[:1], -5 * example.views[1:])))
    first, second = model.visual_tokens([example])[0], model.visual_tokens([other])[0]
    assert (first[:4] - second[:4]).abs().max() > 1e-3


def test_layers_behind_the_feature_layer_do_not_matter() -> None:
    model = make_model()
    before = model.visual_tokens(make_examples()[:1])[0]
    for parameter in model.vision.clip.encoder.layers[2].parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(model.visual_tokens(make_examples()[:1])[0], before)


def test_a_cloud_without_point_encoder_is_refused() -> None:
    with pytest.raises(ValueError, match="no encoder for cloud"):
        make_model(replace(TINY, modalities=("views", "audio", "masks"))).visual_tokens(make_examples()[2:3])


def test_masks_are_those_of_the_domain() -> None:
    """Another room: labels up to 40, two masks a timepoint; and one without masks, which needs no encoder for them."""
    masks = torch.full((2, 32, 32), 40, dtype=torch.uint8)
    example = replace(make_examples()[0], others={"masks": masks})
    category = Category("ultrasound", (1, 2, 3), 40, 0, "ultrasound")
    other = make_model(with_labels(TINY, Labels((category,), count=41, masks=2)))
    assert len(other.visual_tokens([example])[0]) == 4 + 2
    with pytest.raises(ValueError, match="3 masks, but there are 2 mask tokens"):
        other.visual_tokens([replace(example, others={"masks": masks[[0, 0, 0]]})])
    assert with_labels(TINY, mmor().labels) == TINY  # the published shapes
    without = make_model(with_labels(TINY, Labels()))
    assert without.pooler is not None
    assert without.pooler.mask_encoder is None
    assert len(without.visual_tokens([example.without("masks")])[0]) == 4
    with pytest.raises(ValueError, match="no encoder for masks"):
        without.visual_tokens([example])


def test_too_many_views_are_refused() -> None:
    example = replace(make_examples()[0], views=torch.zeros(8, 3, 28, 28))
    with pytest.raises(ValueError, match="8 views"):
        make_model().visual_tokens([example])


def test_published_names_go_both_ways() -> None:
    names = list(make_model().state_dict())
    published = [published_name(name) for name in names]
    assert [our_name(name) for name in published] == names
    assert our_name("base_model.model.model.mm_projector.0.weight") == "projector.0.weight"
    assert "model.image_pooler.point_transformer.project_pc.weight" in published
    assert "model.vision_tower.vision_tower.vision_model.pre_layrnorm.weight" in published
    assert "model.image_pooler.segmasks_encoder.conv5.bias" in published
    assert "lm_head.weight" in published


def test_computed_buffers_of_published_files_are_left_out() -> None:
    tensor = torch.zeros(1)
    names = ("model.layers.0.self_attn.rotary_emb.inv_freq", "model.image_pooler.bert.embeddings.position_ids")
    assert from_published(dict.fromkeys(names, tensor)) == {}
    with pytest.raises(UserError, match="another model"):
        our_name("transformer.h.0.weight")


def test_the_loss_is_the_weighted_mean_over_supervised_tokens() -> None:
    logits, labels = torch.randn(2, 5, VOCABULARY), torch.randint(0, VOCABULARY, (2, 5))
    labels[0, :3] = -100
    weights = torch.rand(VOCABULARY)
    losses, total = torch.tensor(0.0), torch.tensor(0.0)
    for row in range(2):
        for place in range(1, 5):
            label = labels[row, place]
            if label >= 0:
                losses = losses - weights[label] * logits[row, place - 1].log_softmax(-1)[label]
                total = total + weights[label]
    assert torch.allclose(weighted_loss(logits, labels, weights), losses / total, atol=1e-6)


def test_token_weights_fall_with_frequency() -> None:
    weights = token_weights({"a": 50, "b": 13_268_300, "not a token": 7}, {"a": 3, "b": 4, "c": 5}, 6)
    assert weights[3] == pytest.approx(1 / (torch.tensor(50.0).log().item() + 1))
    assert weights[3] > weights[4]
    assert weights[5] == pytest.approx(weights[4] / 100)


def test_answers_alone_have_the_loss_and_gradients_of_all_positions() -> None:
    examples = [
        replace(example, labels=torch.where(torch.arange(len(example.ids)) > 2, example.ids, IGNORED))
        for example in make_examples()
    ]
    weights = torch.linspace(0.1, 1, VOCABULARY)
    found = []
    for loss_of in (weighted_loss, answer_loss):
        model = make_model()
        output = model.score_all(examples) if loss_of is weighted_loss else model(examples)
        loss = loss_of(output.logits, output.labels, weights)
        loss.backward()
        found.append((loss, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
    answers = sum(len(example.ids) - 3 for example in examples)
    assert output.logits.shape == (answers, TINY.language.vocabulary)
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-6, atol=0)
    assert found[0][1].keys() == found[1][1].keys()
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], gradient, rtol=1e-4, atol=1e-7)


def test_text_alone_is_read_in_the_format_of_the_language_model() -> None:
    model = make_model()
    model.language.to(torch.bfloat16)  # frozen, as in a training of an adapter; projector and vision stay float32
    text = Example(ids=torch.tensor([1, 2, 3]), views=torch.zeros(0, 3, 8, 8), labels=torch.tensor([IGNORED, 2, 3]))
    assert model.embed([text]).embeddings.dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert model([text]).logits.dtype == torch.bfloat16
