"""BERT (Devlin et al. 2018), MiniLM and Bort-shaped networks among them."""

from __future__ import annotations

from prune_export.families.common import bert_like_dimensions, heads, own_layer
from prune_export.families.names import Family, masked_language_head

BERT = Family(
    model_type="bert",
    architecture="Bert",
    prefix="bert",
    dimensions=bert_like_dimensions,
    layer=own_layer("encoder.layer"),
    heads=heads(
        dense="bert.pooler.dense",
        output="classifier",
        fill_mask=masked_language_head(
            dense="cls.predictions.transform.dense",
            norm="cls.predictions.transform.LayerNorm",
            decoder="cls.predictions.decoder",
            bias="cls.predictions.bias",
        ),
    ),
    activations={"text-classification": "tanh", "fill-mask": None},
)
