"""ELECTRA (Clark et al. 2020): embeddings that may be narrower than the encoder."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from prune_export.families.common import bert_like_dimensions, own_layer
from prune_export.families.names import (
    Dimensions,
    EmbeddingNames,
    Family,
    MaskedLanguageHeadNames,
    SequenceHeadNames,
)


def _dimensions(config: Any) -> Dimensions:
    return replace(bert_like_dimensions(config), embedding=config.embedding_size)


ELECTRA = Family(
    model_type="electra",
    architecture="Electra",
    prefix="electra",
    dimensions=_dimensions,
    layer=own_layer("encoder.layer"),
    embeddings=EmbeddingNames(projection="embeddings_project"),
    sequence_head=SequenceHeadNames(dense="classifier.dense", activation="gelu", output="classifier.out_proj"),
    masked_language_head=MaskedLanguageHeadNames(
        dense="generator_predictions.dense",
        norm="generator_predictions.LayerNorm",
        decoder="generator_lm_head",
        bias="generator_lm_head.bias",
        activation="gelu",
    ),
)
