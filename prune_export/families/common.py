"""What several families have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prune_export.families.names import Dimensions


def bert_like_dimensions(config: Any) -> Dimensions:
    """The numbers of a configuration that uses BERT's names."""
    dropout = getattr(config, "classifier_dropout", None)
    return Dimensions(
        vocabulary=config.vocab_size,
        positions=config.max_position_embeddings,
        types=config.type_vocab_size,
        embedding=config.hidden_size,  # whatever else config.json holds: the class does not look at it
        hidden=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        intermediate=config.intermediate_size,
        activation=config.hidden_act,
        epsilon=config.layer_norm_eps,
        pad_token_id=config.pad_token_id or 0,
        labels=config.num_labels,
        hidden_dropout=config.hidden_dropout_prob,
        attention_dropout=config.attention_probs_dropout_prob,
        classifier_dropout=config.hidden_dropout_prob if dropout is None else dropout,
    )


def own_layer(folder: str) -> Callable[[object, int], str]:
    """Every layer has weights of its own: `folder.0`, `folder.1`, …"""
    return lambda _, index: f"{folder}.{index}"
