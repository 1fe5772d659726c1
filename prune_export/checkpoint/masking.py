"""A plan put into full-size weights as zeros: what every pruning method ends in, and what `--plan` does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from exporters.axes import map_leaves, mask, sizes_of
from exporters.encoder import Attention, Encoder, FeedForward, Layer
from prune_export.facts.plan import Indices, LayerPlan, Plan
from prune_export.families.names import Family
from prune_export.families.state_dict import write_part


def masked_tensors(
    tensors: Mapping[str, Tensor], family: Family, config: Any, encoder: Encoder, plan: Plan
) -> dict[str, Tensor]:
    """Returns the tensors that `plan` changes, under Hugging Face's names, with zeros where something goes.

    A head that goes has zero query, key and value rows and biases, and zero columns in the output projection; a head
    dimension likewise; a column has a zero row and bias in `up` and a zero column in `down`. `encoder` describes
    `tensors` (it says which heads the attention weights hold); `plan` fits it.
    """
    changed: dict[str, Tensor] = {}
    for path, layer, wanted in zip(family.layer_paths(config), encoder.layers, plan.layers, strict=True):
        kept = write_part(family.layers, _kept_weights(layer, wanted), f"{path}.")
        changed |= {name: tensors[name].masked_fill(~weights, 0) for name, weights in kept.items() if not weights.all()}
    return changed


def _kept_weights(layer: Layer, wanted: LayerPlan) -> Layer:
    """The layer with True in place of every weight that stays, and False in place of the others."""
    kept = map_leaves(
        layer, lambda value, _: torch.ones_like(value, dtype=torch.bool) if isinstance(value, Tensor) else value
    )
    if isinstance(kept.attention, Attention):
        for axis, dimensions in (("query_key", wanted.query_key_dimensions), ("value", wanted.value_dimensions)):
            stays = _kept_dimensions(kept.attention, sizes_of(layer.attention)[axis], wanted.heads, dimensions)
            kept = replace(kept, attention=mask(kept.attention, ("head", axis), stays))
    if isinstance(kept.feed_forward, FeedForward):
        stays = torch.zeros(kept.feed_forward.columns, dtype=torch.bool)
        stays[list(wanted.columns)] = True
        kept = replace(kept, feed_forward=mask(kept.feed_forward, ("intermediate",), stays))
    return kept


def _kept_dimensions(block: Attention, size: int, heads: Indices, dimensions: Mapping[int, Indices]) -> Tensor:
    """Which dimensions of which heads stay: bool `[heads, size]`."""
    stays = torch.zeros(len(block.heads), size, dtype=torch.bool)
    for position, head in enumerate(block.heads):
        if head in heads:
            stays[position, list(dimensions.get(head, range(size)))] = True
    return stays
