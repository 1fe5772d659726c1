"""DeBERTa (He et al. 2021): attention scores have terms by the distance of query and key; keys have no bias."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from exporters.distances import Distances
from prune_export.families.common import own_layer
from prune_export.families.disentangled import (
    check_task,
    disentangled_dimensions,
    disentangled_heads,
    disentangled_variant,
    distance_values,
    span_of,
    terms_of,
)
from prune_export.families.names import LAYER, Dimensions, Family
from prune_export.families.table import Stored, Table, linear

# Query, key and value rows of the first head, then those of the second.
_FUSED = "attention.self.in_proj.weight"
_LAYER: Table = {
    **{path: row for path, row in LAYER.items() if path != "attention.key_bias"},
    "attention.query_weight": Stored(_FUSED, part=0, parts=3, per_head=True),
    "attention.query_bias": Stored("attention.self.q_bias"),
    "attention.key_weight": Stored(_FUSED, part=1, parts=3, per_head=True),
    "attention.value_weight": Stored(_FUSED, part=2, parts=3, per_head=True),
    "attention.value_bias": Stored("attention.self.v_bias"),
}
_OWN: dict[str, Table] = {
    "c2p": {"attention.scores.key.weight": Stored("attention.self.pos_proj.weight")},
    "p2c": linear("attention.scores.query", "attention.self.pos_q_proj"),
}


def _dimensions(config: Any) -> Dimensions:
    return disentangled_dimensions(config, 2 * span_of(config))


@cache
def clamped_rows(span: int) -> Tensor:
    """Returns the row of each distance query - key from -span to span: int64, `[2 * span + 1]`."""
    return (torch.arange(-span, span + 1) + span).clamp(0, 2 * span - 1)


def _scores_values(config: Any, _index: int) -> dict[str, Any]:
    return distance_values(config, clamped_rows(span_of(config)))


def _variant(config: Any) -> dict[str, Any]:
    changes = disentangled_variant(config)
    if config.relative_attention:
        changes["layers"] = dict(_LAYER)
        for term in terms_of(config):
            changes["layers"] |= _OWN[term]
    return changes


DEBERTA = Family(
    model_type="deberta",
    architecture="Deberta",
    prefix="deberta",
    dimensions=_dimensions,
    layer=own_layer("encoder.layer"),
    heads=disentangled_heads(legacy=True),
    activations={"text-classification": "gelu"},
    layers=_LAYER,
    scores_values=_scores_values,
    resizes_heads=False,
    optional_types=True,
    masks_embeddings=True,
    scores_kind=Distances,
    variant=_variant,
    check=check_task,
)
