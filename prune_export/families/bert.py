"""BERT (Devlin et al. 2018), MiniLM and Bort-shaped networks among them."""

from __future__ import annotations

from prune_export.families.common import bert_like_dimensions, own_layer
from prune_export.families.names import Family, MaskedLanguageHeadNames, SequenceHeadNames

BERT = Family(
    model_type="bert",
    architecture="Bert",
    prefix="bert",
    dimensions=bert_like_dimensions,
    layer=own_layer("encoder.layer"),
    sequence_head=SequenceHeadNames(dense="pooler.dense", activation="tanh", output="classifier", dense_in_body=True),
    masked_language_head=MaskedLanguageHeadNames(
        dense="cls.predictions.transform.dense",
        norm="cls.predictions.transform.LayerNorm",
        decoder="cls.predictions.decoder",
        bias="cls.predictions.bias",
    ),
)
