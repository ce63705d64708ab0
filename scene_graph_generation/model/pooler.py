"""The image pooler: all modalities of a sample to one short sequence of tokens.

Stage-2 specification, section 1; with two branches as EgoExOR (arXiv 2505.24287).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import BertConfig, BertModel
from transformers.models.bert.modeling_bert import BertLayer

from scene_graph_generation.config.settings import MM2SGConfig
from scene_graph_generation.inputs.modalities import BRANCHES, MODALITIES
from scene_graph_generation.model.encoders import AudioProjection, BodyEncoder, MaskEncoder, stand_out
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

    def forward(
        self,
        views: Float[Tensor, "samples views tokens width"],
        others: Float[Tensor, "samples others width"] | None = None,
    ) -> Float[Tensor, "samples tokens width"]:
        """Pool samples that have the same number of views; the order of the views is the order of their slots.

        Of the last layer only the tokens of the first view are computed: they need the keys and values of all
        tokens, but no other token's query, residual or feed-forward part. `others` stand behind the views.

        Raises:
            ValueError: there are more tokens than positions.
        """
        tokens = views.flatten(1, 2)
        if others is not None:
            tokens = torch.cat([tokens, others], dim=1)
        if tokens.shape[1] > self.max_views * self.tokens_per_view:
            beside = "" if others is None else f" and {others.shape[1]} other tokens"
            raise ValueError(f"{views.shape[1]} views{beside}, but the pooler has positions for {self.max_views} views")
        hidden = self.bert.embeddings(inputs_embeds=tokens)
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
    """View pooler and the encoders of all that stands beside the views, and the order of their tokens.

    A model has an encoder for what it was made for and no other: without clouds no point encoder, without masks in its
    domain no mask encoder.
    """

    def __init__(self, config: MM2SGConfig) -> None:
        super().__init__()
        pooler, width, has = config.pooler, config.vision.width, config.modalities
        self.published_batching = config.batching == "published"
        self.two_branches = pooler.branches == "ego_exo"
        self.views = ViewPooler(config)
        self.point_encoder = PointEncoder(config.points, width, self.published_batching) if "cloud" in has else None
        self.project_audio = AudioProjection(pooler.audio_width, width)
        self.mask_encoder = MaskEncoder(config) if config.masks else None
        self.gaze_encoder = BodyEncoder((1.0, 1.0, pooler.max_depth), config) if "gaze" in has else None
        self.hand_encoder = BodyEncoder((1.0,) * 16, config) if "hands" in has else None

    def forward(
        self,
        views: Sequence[Float[Tensor, "_ tokens width"]],
        others: Sequence[Mapping[str, Tensor]],
        ego: Sequence[int],
    ) -> list[Float[Tensor, "_ width"]]:
        """Tokens of each sample: those of its first view, then those of `others` in the order of `MODALITIES`.

        Of two branches: the first `ego` views of a sample are those of glasses, and give as many tokens as one of
        them, then those of the room's cameras. A branch without views gives none.

        Raises:
            ValueError: there is something that the model has no encoder for, or too much of it.
        """
        if self.two_branches:
            found = self._encode(others)
            parts = [
                (tokens, [of_sample[name] for name in names if name in of_sample])
                for sample, of_sample, count in zip(views, found, ego)
                for tokens, names in ((sample[:count], BRANCHES["ego"]), (sample[count:], BRANCHES["exo"]))
            ]
            pooled = self._pool(parts)
            return [torch.cat(both) for both in zip(pooled[::2], pooled[1::2])]
        pooled = self._pool([(sample, []) for sample in views])
        return [torch.cat([tokens, *more.values()]) for tokens, more in zip(pooled, self._encode(others))]

    def _pool(self, parts: Sequence[tuple[Tensor, list[Tensor]]]) -> list[Tensor]:
        """Views with others behind them; those of the same length go together, so nothing is padded."""
        pooled: dict[int, Tensor] = {}
        sizes = [(len(views), sum(map(len, others))) for views, others in parts]
        for size in sorted(set(sizes)):
            members = [i for i, other in enumerate(sizes) if other == size]
            views = torch.stack([parts[i][0] for i in members])
            others = torch.stack([torch.cat(parts[i][1]) for i in members]) if size[1] else None
            # Without views there is nothing to keep: what is beside them is only seen through them.
            pooled.update(zip(members, self.views(views, others) if size[0] else views.flatten(1, 2)))
        return [pooled[i] for i in range(len(parts))]

    def _encode(self, others: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Float[Tensor, "_ width"]]]:
        """The tokens of each modality of each sample."""
        found: list[dict[str, Tensor]] = [{} for _ in others]
        for row in MODALITIES:
            wanted = [i for i, sample in enumerate(others) if row.name in sample]
            if not wanted:
                continue
            encoder = getattr(self, row.encoder)
            if encoder is None:
                raise ValueError(f"this model has no encoder for {row.name}, but a sample has it")
            if self.published_batching:
                wanted = list(range(len(others)))
            tokens = encoder.encode([others[i].get(row.name) for i in wanted])
            for i, of_sample in zip(wanted, tokens):
                found[i][row.name] = of_sample.to(self.project_audio.weight.dtype)  # the point encoder's are float32
        return found
