"""ALBERT (Lan et al. 2019): layers share their weights in groups; embeddings are projected."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from prune_export.families.common import bert_like_dimensions
from prune_export.families.names import (
    Dimensions,
    EmbeddingNames,
    Family,
    LayerNames,
    MaskedLanguageHeadNames,
    SequenceHeadNames,
)


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
    embeddings=EmbeddingNames(projection="encoder.embedding_hidden_mapping_in", projection_always=True),
    layers=LayerNames(
        query="attention.query",
        key="attention.key",
        value="attention.value",
        attention_output="attention.dense",
        attention_norm="attention.LayerNorm",
        up="ffn",
        down="ffn_output",
        feed_forward_norm="full_layer_layer_norm",
    ),
    sequence_head=SequenceHeadNames(dense="pooler", activation="tanh", output="classifier", dense_in_body=True),
    masked_language_head=MaskedLanguageHeadNames(
        dense="predictions.dense",
        norm="predictions.LayerNorm",
        decoder="predictions.decoder",
        bias="predictions.bias",
    ),
)
