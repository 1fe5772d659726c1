"""What the zeros of a network allow to be removed: the plan that only uses exact rules."""

from __future__ import annotations

import torch
from torch import Tensor

from exporters.encoder import Attention, DotProduct, Encoder, FeedForward, Layer
from prune_export.facts.plan import Indices, LayerPlan, Plan


def plan_from_zeros(encoder: Encoder) -> Plan:
    """Returns the smallest plan that removes only what exact rules allow.

    "Zero" means that every weight is exactly 0. With softmax rows that sum to 1:

    - a value dimension goes if its row of the value weights or its column of the output weights is zero (what its bias
      contributes is a constant);
    - a head goes if all of its value dimensions go;
    - a query/key dimension goes if its key row is zero (a constant per query, which softmax ignores) or its query row
      is zero (with a bias, it is one score per key, which the surgeon keeps apart in one merged dimension); with other
      scores than dot products none goes;
    - a column goes if its row of `up` is zero (a constant) or its column of `down` is.
    """
    distinct = [_layer_plan(layer) for layer in encoder.distinct_layers]
    return Plan(tuple(distinct[place] for place in encoder.order))


def contributing_dimensions(block: Attention) -> Tensor:
    """Returns which value dimensions reach the output and depend on the input: bool `[heads, value]`."""
    return block.value_weight.ne(0).any(dim=2) & block.output_weight.ne(0).any(dim=0)


def scoring_dimensions(block: Attention) -> Tensor:
    """Returns which query/key dimensions have a query and a key row: bool `[heads, query_key]`."""
    return block.query_weight.ne(0).any(dim=2) & block.key_weight.ne(0).any(dim=2)


def _layer_plan(layer: Layer) -> LayerPlan:
    heads: Indices = ()
    dimensions: list[dict[int, Indices]] = [{}, {}]
    if isinstance(layer.attention, Attention):
        block = layer.attention
        contributing, scoring = contributing_dimensions(block), scoring_dimensions(block)
        if not isinstance(block.scores, DotProduct):
            scoring[:] = True
        kept = {head: position for position, head in enumerate(block.heads) if contributing[position].any()}
        heads = tuple(kept)
        dimensions = [
            {head: _indices(stays[at]) for head, at in kept.items() if not stays[at].all()}
            for stays in (scoring, contributing)
        ]
    columns: Indices = ()
    if isinstance(layer.feed_forward, FeedForward):
        up, down = layer.feed_forward.up.weight, layer.feed_forward.down.weight
        columns = _indices(up.ne(0).any(dim=1) & down.ne(0).any(dim=0))
    return LayerPlan(heads, columns, *dimensions)


def _indices(stays: Tensor) -> Indices:
    return tuple(torch.nonzero(stays).flatten().tolist())
