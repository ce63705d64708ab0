"""The image pooler: all modalities of a sample to one short sequence of tokens (stage-2 specification, section 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from transformers import BertConfig, BertModel
from transformers.models.bert.modeling_bert import BertLayer

from scene_graph_generation.config.settings import MM2SGConfig
from scene_graph_generation.model.encoders import MaskEncoder, stand_out
from scene_graph_generation.model.point_transformer import PointEncoder


class ViewPooler(nn.Module):
    """A BERT over the patches of all views of a sample; what comes out are the tokens of the first view.

    `bert` also holds the parameters that the published files contain and nothing uses (word embedding, pooler).
    """

    def __init__(self, config: MM2SGConfig) -> None:
        super().__init__()
        pooler = config.pooler
        self.tokens_per_view = config.vision.tokens
        self.max_views = pooler.max_views
        self.bert = BertModel(
            BertConfig(
                vocab_size=1,
                hidden_size=config.vision.width,
                num_hidden_layers=pooler.layers,
                num_attention_heads=pooler.heads,
                intermediate_size=pooler.mlp,
                hidden_dropout_prob=pooler.dropout,
                attention_probs_dropout_prob=pooler.dropout,
                max_position_embeddings=config.vision.tokens * pooler.max_views,
                initializer_range=0.64 * config.vision.width**-0.5,  # the usual 0.02 at the published width
            )
        )
        stand_out(self.bert.embeddings.position_embeddings)

    def forward(self, views: Float[Tensor, "samples views tokens width"]) -> Float[Tensor, "samples tokens width"]:
        """Pool samples that have the same number of views; the order of the views is the order of their slots.

        Of the last layer only the tokens of the first view are computed: they need the keys and values of all
        tokens, but no other token's query, residual or feed-forward part.

        Raises:
            ValueError: there are more views than positions.
        """
        if views.shape[1] > self.max_views:
            raise ValueError(f"{views.shape[1]} views, but the pooler has positions for {self.max_views}")
        hidden = self.bert.embeddings(inputs_embeds=views.flatten(1, 2))
        for layer in self.layers[:-1]:
            hidden = attend(layer, hidden, hidden)
        return attend(self.layers[-1], hidden[:, : self.tokens_per_view], hidden)

    @property
    def layers(self) -> list[BertLayer]:
        """The encoder layers."""
        return cast("list[BertLayer]", list(self.bert.encoder.layer))


def attend(
    layer: BertLayer, queries: Float[Tensor, "samples queries width"], tokens: Float[Tensor, "samples tokens width"]
) -> Float[Tensor, "samples queries width"]:
    """One post-norm BERT layer for `queries`, which attend to `tokens`."""
    attention = layer.attention.self

    def heads(projected: Tensor) -> Tensor:
        return projected.unflatten(-1, (attention.num_attention_heads, -1)).transpose(1, 2)

    context = F.scaled_dot_product_attention(
        heads(attention.query(queries)),
        heads(attention.key(tokens)),
        heads(attention.value(tokens)),
        dropout_p=attention.dropout.p if layer.training else 0.0,
    )
    hidden = layer.attention.output(context.transpose(1, 2).flatten(2), queries)
    return layer.feed_forward_chunk(hidden)


class ImagePooler(nn.Module):
    """View pooler, cloud encoder, audio projection and mask encoder, and the order of their tokens.

    A model that was not made for clouds has no point encoder and takes none; one of a domain without masks has no mask
    encoder.
    """

    def __init__(self, config: MM2SGConfig) -> None:
        super().__init__()
        self.views = ViewPooler(config)
        self.point_encoder = PointEncoder(config.points, config.vision.width) if "cloud" in config.modalities else None
        self.project_audio = nn.Linear(config.pooler.audio_width, config.vision.width)
        self.mask_encoder = MaskEncoder(config) if config.masks else None
        self.masks = config.masks  # tokens
        self.published_batching = config.batching == "published"

    def forward(
        self,
        views: Sequence[Float[Tensor, "_ tokens width"]],
        clouds: Sequence[Float[Tensor, "_ 6"] | None],
        audio: Sequence[Float[Tensor, " audio"] | None],
        masks: Sequence[UInt8[Tensor, "_ 32 32"] | None],
    ) -> list[Float[Tensor, "_ width"]]:
        """Tokens of each sample: those of its first view, then [1 cloud], [1 audio], [`masks` of the settings].

        Raises:
            ValueError: there is a cloud but no point encoder, or there are more masks than tokens for them.
        """
        parts = [[tokens] for tokens in self._pool_views(views)]
        for values, encode in (
            (clouds, self._encode_clouds),
            (audio, self._encode_audio),
            (masks, self._encode_masks),
        ):
            wanted = [i for i, value in enumerate(values) if value is not None]
            if wanted and self.published_batching:
                wanted = list(range(len(values)))
            if wanted:
                for i, tokens in zip(wanted, encode([values[i] for i in wanted])):
                    parts[i].append(tokens)
        return [torch.cat(tokens) for tokens in parts]

    def _pool_views(self, views: Sequence[Tensor]) -> list[Tensor]:
        """Samples with the same number of views go through the pooler together, so nothing is padded."""
        pooled: dict[int, Tensor] = {}
        for count in {len(sample) for sample in views}:
            members = [i for i, sample in enumerate(views) if len(sample) == count]
            pooled.update(zip(members, self.views(torch.stack([views[i] for i in members]))))
        return [pooled[i] for i in range(len(views))]

    def _encode_clouds(self, clouds: list[Tensor | None]) -> Float[Tensor, "samples 1 width"]:
        if self.point_encoder is None:
            raise ValueError("this model has no point encoder, but a sample has a point cloud")
        tokens = self.point_encoder(clouds, self.published_batching).unsqueeze(1)
        return tokens.to(self.project_audio.weight.dtype)  # the point encoder is always float32

    def _encode_audio(self, audio: list[Tensor | None]) -> Float[Tensor, "samples 1 width"]:
        """A missing vector is zero and goes through the projection."""
        zero = self.project_audio.weight.new_zeros(self.project_audio.in_features)
        vectors = torch.stack([zero if vector is None else vector.to(zero.dtype) for vector in audio])
        return self.project_audio(vectors).unsqueeze(1)

    def _encode_masks(self, masks: list[Tensor | None]) -> Float[Tensor, "samples masks width"]:
        """Missing masks are zero vectors that do not go through the encoder."""
        counts = [0 if sample is None else len(sample) for sample in masks]
        if self.mask_encoder is None or max(counts) > self.masks:
            raise ValueError(f"a sample has {max(counts)} masks, but there are {self.masks} mask tokens")
        encoded = self.mask_encoder(torch.cat([sample for sample in masks if sample is not None])).split(
            [count for count, sample in zip(counts, masks) if sample is not None]
        )
        present = iter(encoded)
        empty = encoded[0].new_zeros(0, encoded[0].shape[1])
        return torch.stack(
            [
                F.pad(empty if sample is None else next(present), (0, 0, 0, self.masks - count))
                for sample, count in zip(masks, counts)
            ]
        )
