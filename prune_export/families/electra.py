"""ELECTRA (Clark et al. 2020): embeddings that may be narrower than the encoder."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from prune_export.families.common import bert_like_dimensions, heads, own_layer
from prune_export.families.names import EMBEDDINGS, Dimensions, Family, masked_language_head
from prune_export.families.table import linear


def _dimensions(config: Any) -> Dimensions:
    return replace(bert_like_dimensions(config), embedding=config.embedding_size)


ELECTRA = Family(
    model_type="electra",
    architecture="Electra",
    prefix="electra",
    dimensions=_dimensions,
    layer=own_layer("encoder.layer"),
    heads=heads(
        dense="classifier.dense",
        output="classifier.out_proj",
        fill_mask=masked_language_head(
            dense="generator_predictions.dense",
            norm="generator_predictions.LayerNorm",
            decoder="generator_lm_head",
            bias="generator_lm_head.bias",
        ),
    ),
    activations={"text-classification": "gelu", "fill-mask": "gelu"},
    embeddings={**EMBEDDINGS, **linear("projection", "embeddings_project")},
)
