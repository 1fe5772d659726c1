"""MPNet (Song et al. 2020): attention scores have a bias by distance, the same in all layers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from exporters.encoder import RelativeBias
from exporters.errors import UnsupportedError
from prune_export.families.common import bert_like_dimensions, heads, own_layer
from prune_export.families.names import EMBEDDINGS, LAYER, Dimensions, Family, masked_language_head
from prune_export.families.table import Stored, linear

# Constants in transformers' MPNet, whatever config.json says.
_PAD_TOKEN_ID = 1
_BUCKETS = 32
_MAX_DISTANCE = 128


def _dimensions(config: Any) -> Dimensions:
    if config.relative_attention_num_buckets < _BUCKETS:
        raise UnsupportedError(
            f"config.json: relative_attention_num_buckets is {config.relative_attention_num_buckets}; expected at least "
            f"{_BUCKETS}, because transformers reads that many rows"
        )
    return replace(
        bert_like_dimensions(config), pad_token_id=_PAD_TOKEN_ID, distance_rows=config.relative_attention_num_buckets
    )


def bidirectional_buckets(buckets: int, max_distance: int) -> Tensor:
    """Returns the row of each distance query - key from -max_distance to max_distance: int64, `[2 * max_distance + 1]`.

    Keys before the query have the first half of the rows, keys after it the second half. In each half the nearest distances
    have a row of their own, and those beyond share rows whose widths grow by a constant factor (Raffel et al. 2020, "T5",
    section 2.1). Logarithms are computed in float32, as transformers does.
    """
    distances = torch.arange(-max_distance, max_distance + 1)
    half = buckets // 2
    exact = half // 2
    size = distances.abs()
    growth = torch.log(size.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    far = (exact + (growth * (half - exact)).long()).clamp(max=half - 1)
    return (distances < 0).long() * half + torch.where(size < exact, size, far)


_ROW_OF_DISTANCE = bidirectional_buckets(_BUCKETS, _MAX_DISTANCE)


def _scores_values(_config: Any, _index: int) -> dict[str, Any]:
    return {"row_of_distance": _ROW_OF_DISTANCE}


MPNET = Family(
    model_type="mpnet",
    architecture="MPNet",
    prefix="mpnet",
    dimensions=_dimensions,
    layer=own_layer("encoder.layer"),
    heads=heads(
        dense="classifier.dense",
        output="classifier.out_proj",
        fill_mask=masked_language_head("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head.bias"),
    ),
    activations={"text-classification": "tanh", "fill-mask": "gelu"},
    embeddings={path: row for path, row in EMBEDDINGS.items() if path != "token_type"},
    layers={
        **LAYER,
        **linear("attention.query_", "attention.attn.q"),
        **linear("attention.key_", "attention.attn.k"),
        **linear("attention.value_", "attention.attn.v"),
        **linear("attention.output_", "attention.attn.o"),
        **linear("attention_norm", "attention.LayerNorm"),
    },
    positions="from_padding",
    scores_kind=RelativeBias,
    scores={"table": Stored("encoder.relative_attention_bias.weight")},
    scores_values=_scores_values,
    resizes_heads=False,
)
