"""DistilBERT (Sanh et al. 2019): no token types, names of its own."""

from __future__ import annotations

from typing import Any

from prune_export.families.common import own_layer
from prune_export.families.names import (
    Dimensions,
    EmbeddingNames,
    Family,
    LayerNames,
    MaskedLanguageHeadNames,
    SequenceHeadNames,
)


def _dimensions(config: Any) -> Dimensions:
    return Dimensions(
        vocabulary=config.vocab_size,
        positions=config.max_position_embeddings,
        types=0,
        embedding=config.dim,
        hidden=config.dim,
        layers=config.n_layers,
        heads=config.n_heads,
        intermediate=config.hidden_dim,
        activation=config.activation,
        epsilon=1e-12,  # a constant in transformers' DistilBERT
        pad_token_id=config.pad_token_id or 0,
        labels=config.num_labels,
        hidden_dropout=config.dropout,
        attention_dropout=config.attention_dropout,
        classifier_dropout=config.seq_classif_dropout,
    )


DISTILBERT = Family(
    model_type="distilbert",
    architecture="DistilBert",
    prefix="distilbert",
    dimensions=_dimensions,
    layer=own_layer("transformer.layer"),
    embeddings=EmbeddingNames(token_type=None),
    layers=LayerNames(
        query="attention.q_lin",
        key="attention.k_lin",
        value="attention.v_lin",
        attention_output="attention.out_lin",
        attention_norm="sa_layer_norm",
        up="ffn.lin1",
        down="ffn.lin2",
        feed_forward_norm="output_layer_norm",
    ),
    sequence_head=SequenceHeadNames(dense="pre_classifier", activation="relu", output="classifier"),
    masked_language_head=MaskedLanguageHeadNames(
        dense="vocab_transform", norm="vocab_layer_norm", decoder="vocab_projector", bias="vocab_projector.bias"
    ),
)
