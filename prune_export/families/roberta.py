"""RoBERTa (Liu et al. 2019): positions counted from the padding, a classification head without a pooler."""

from __future__ import annotations

from prune_export.families.common import bert_like_dimensions, own_layer
from prune_export.families.names import Family, MaskedLanguageHeadNames, SequenceHeadNames

ROBERTA = Family(
    model_type="roberta",
    architecture="Roberta",
    prefix="roberta",
    dimensions=bert_like_dimensions,
    layer=own_layer("encoder.layer"),
    sequence_head=SequenceHeadNames(dense="classifier.dense", activation="tanh", output="classifier.out_proj"),
    masked_language_head=MaskedLanguageHeadNames(
        dense="lm_head.dense",
        norm="lm_head.layer_norm",
        decoder="lm_head.decoder",
        bias="lm_head.bias",
        activation="gelu",
    ),
    positions_from_padding=True,
)
