"""ALBERT (Lan et al. 2019): layers share their weights in groups; embeddings are projected."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from prune_export.families.common import bert_like_dimensions, heads
from prune_export.families.names import EMBEDDINGS, Dimensions, Family, masked_language_head
from prune_export.families.table import linear


def _dimensions(config: Any) -> Dimensions:
    # Each of the num_hidden_layers applications of a group runs all of its inner_group_num layers.
    dimensions = bert_like_dimensions(config)
    return replace(
        dimensions,
        embedding=config.embedding_size,
        layers=config.num_hidden_layers * config.inner_group_num,
        classifier_dropout=config.classifier_dropout_prob,
    )


def _layer(config: Any, index: int) -> str:
    application, inner = divmod(index, config.inner_group_num)
    group = int(application / (config.num_hidden_layers / config.num_hidden_groups))
    return f"encoder.albert_layer_groups.{group}.albert_layers.{inner}"


ALBERT = Family(
    model_type="albert",
    architecture="Albert",
    prefix="albert",
    dimensions=_dimensions,
    layer=_layer,
    heads=heads(
        dense="albert.pooler",
        output="classifier",
        fill_mask=masked_language_head(
            dense="predictions.dense",
            norm="predictions.LayerNorm",
            decoder="predictions.decoder",
            bias="predictions.bias",
        ),
    ),
    activations={"text-classification": "tanh", "fill-mask": None},
    embeddings={**EMBEDDINGS, **linear("projection", "encoder.embedding_hidden_mapping_in")},
    projects_always=True,
    layers={
        **linear("feed_forward.up", "ffn"),
        **linear("feed_forward.down", "ffn_output"),
        **linear("attention.query_", "attention.query"),
        **linear("attention.key_", "attention.key"),
        **linear("attention.value_", "attention.value"),
        **linear("attention.output_", "attention.dense"),
        **linear("attention_norm", "attention.LayerNorm"),
        **linear("feed_forward_norm", "full_layer_layer_norm"),
    },
)
