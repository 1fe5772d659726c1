"""DeBERTa v2 and v3, mDeBERTa (He et al. 2021, 2023): attention scores have terms by the distance of query and key."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from exporters.errors import UnsupportedError
from prune_export.families.deberta import DEBERTA
from prune_export.families.disentangled import (
    disentangled_dimensions,
    disentangled_variant,
    distance_values,
    span_of,
    terms_of,
)
from prune_export.families.names import LAYER, Dimensions
from prune_export.families.table import Table, linear
from prune_export.files.reading import shown

_LAYER: Table = {
    **LAYER,
    **linear("attention.query_", "attention.self.query_proj"),
    **linear("attention.key_", "attention.self.key_proj"),
    **linear("attention.value_", "attention.self.value_proj"),
}
_OWN = {"c2p": ("key", "pos_key_proj"), "p2c": ("query", "pos_query_proj")}


def _buckets(config: Any) -> int:
    return int(getattr(config, "position_buckets", -1))


def _norms(config: Any) -> list[str]:
    return [word.strip() for word in getattr(config, "norm_rel_ebd", "none").lower().split("|")]


def _dimensions(config: Any) -> Dimensions:
    buckets, span = _buckets(config), span_of(config)
    dimensions = disentangled_dimensions(config, 2 * (buckets if buckets > 0 else span))
    if config.relative_attention and buckets > 0 and (buckets % 2 or span - 1 <= buckets // 2):
        raise UnsupportedError(
            f"config.json: position_buckets is {shown(buckets)} with distances up to {span}; expected an even number below "
            f"{2 * span - 2}; set it and max_relative_positions to what the network has"
        )
    _norms(config)
    return dimensions


@cache
def log_bucket_rows(buckets: int, span: int) -> Tensor:
    """Returns the row of each distance query - key from -reach to reach: int64, `[2 * reach + 1]`.

    Without `buckets` (0 or less), each distance below `span` has a row of its own, and `reach` is `span`. Otherwise
    distances up to half of `buckets` have one, and those beyond share rows whose widths grow by a constant factor up to
    `span` (the release of DeBERTa v2; the papers do not say); `reach` is `span + 1`, from where on the last rows hold.
    Logarithms are computed in float32, as transformers does.
    """
    if buckets <= 0:
        return (torch.arange(-span, span + 1) + span).clamp(0, 2 * span - 1)
    distances = torch.arange(-span - 1, span + 2)
    exact, size = buckets // 2, distances.abs()
    growth = torch.log(size.clamp(min=exact) / exact) / torch.log(torch.tensor((span - 1) / exact))
    far = torch.ceil(growth * (exact - 1)).long() + exact
    rows = torch.where(size <= exact, distances, far * distances.sign())
    return (rows + buckets).clamp(0, 2 * buckets - 1)


def _scores_values(config: Any, _index: int) -> dict[str, Any]:
    return distance_values(config, log_bucket_rows(_buckets(config), span_of(config)))


def _variant(config: Any) -> dict[str, Any]:
    changes = disentangled_variant(config)
    if "layer_norm" in _norms(config):  # without `relative_attention` transformers has it, too, and does not use it
        changes["scores"] |= linear("norm", "encoder.LayerNorm")
    if config.relative_attention and not getattr(config, "share_att_key", False):
        changes["layers"] = dict(_LAYER)
        for field, module in (_OWN[term] for term in terms_of(config)):
            changes["layers"] |= linear(f"attention.scores.{field}", f"attention.self.{module}")
    return changes


DEBERTA_V2 = replace(
    DEBERTA,
    model_type="deberta-v2",
    architecture="DebertaV2",
    dimensions=_dimensions,
    layers=_LAYER,
    scores_values=_scores_values,
    variant=_variant,
)
