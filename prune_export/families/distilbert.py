"""DistilBERT (Sanh et al. 2019): no token types, names of its own."""

from __future__ import annotations

from typing import Any

from prune_export.families.common import heads, own_layer
from prune_export.families.names import EMBEDDINGS, Dimensions, Family, masked_language_head
from prune_export.families.table import linear


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
    heads=heads(
        dense="pre_classifier",
        output="classifier",
        fill_mask=masked_language_head(
            "vocab_transform", "vocab_layer_norm", "vocab_projector", "vocab_projector.bias"
        ),
    ),
    activations={"text-classification": "relu", "fill-mask": None},
    embeddings={path: row for path, row in EMBEDDINGS.items() if path != "token_type"},
    layers={
        **linear("feed_forward.up", "ffn.lin1"),
        **linear("feed_forward.down", "ffn.lin2"),
        **linear("attention.query_", "attention.q_lin"),
        **linear("attention.key_", "attention.k_lin"),
        **linear("attention.value_", "attention.v_lin"),
        **linear("attention.output_", "attention.out_lin"),
        **linear("attention_norm", "sa_layer_norm"),
        **linear("feed_forward_norm", "output_layer_norm"),
    },
)
