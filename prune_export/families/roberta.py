"""RoBERTa (Liu et al. 2019): positions counted from the padding, a classification head without a pooler."""

from __future__ import annotations

from prune_export.families.common import bert_like_dimensions, heads, own_layer
from prune_export.families.names import Family, masked_language_head

ROBERTA = Family(
    model_type="roberta",
    architecture="Roberta",
    prefix="roberta",
    dimensions=bert_like_dimensions,
    layer=own_layer("encoder.layer"),
    heads=heads(
        dense="classifier.dense",
        output="classifier.out_proj",
        fill_mask=masked_language_head("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head.bias"),
    ),
    activations={"text-classification": "tanh", "fill-mask": "gelu"},
    positions="from_padding",
)
