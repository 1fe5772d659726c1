"""Makes the plan that follows from the zeros of a network, by exact rules alone."""

from __future__ import annotations

import torch
from torch import Tensor

from exporters.distances import Distances, position_key, position_query
from exporters.encoder import Attention, ContentScores, Encoder, FeedForward, Layer, Ungated
from prune_export.facts.plan import Indices, LayerPlan, Plan


def plan_from_zeros(encoder: Encoder) -> Plan:
    """Returns the plan that keeps as little as exact rules allow.

    "Zero" means that every weight is exactly 0. With softmax rows that sum to 1:

    - A value dimension is removed if its row of the value weights or its column of the output weights is zero (its bias
      contributes a constant).
    - A head is removed if all of its value dimensions are.
    - A query/key dimension is removed if its key row is zero (a constant per query, which softmax ignores) or its query row
      is (with a bias, it is one score per key, for which the surgeon adds one merged dimension). With `Distances`, the
      row of that projection of distances has to be zero as well. With other kinds of scores none is removed.
    - A column is removed if its row of `up` is zero (a constant) or its column of `down` is. With gating none is removed.
    """
    plans = [_layer_plan(layer) for layer in encoder.distinct_layers]
    return Plan(tuple(plans[index] for index in encoder.layer_indices))


def contributing_dimensions(block: Attention) -> Tensor:
    """Returns which value dimensions depend on the input and reach the output: bool `[heads, value]`."""
    return block.value_weight.ne(0).any(dim=2) & block.output_weight.ne(0).any(dim=0)


def scoring_dimensions(block: Attention) -> Tensor:
    """Returns which query/key dimensions have a query and a key row, of distances or not: bool `[heads, query_key]`."""
    queries, keys = block.query_weight.ne(0).any(dim=2), block.key_weight.ne(0).any(dim=2)
    if (to_key := position_key(block)) is not None:
        keys = keys | to_key.weight.ne(0).any(dim=2)
    if (to_query := position_query(block)) is not None:
        queries = queries | to_query.weight.ne(0).any(dim=2)
    return queries & keys


def _layer_plan(layer: Layer) -> LayerPlan:
    heads: Indices = ()
    dimensions: list[dict[int, Indices]] = [{}, {}]
    if isinstance(layer.attention, Attention):
        block = layer.attention
        contributing, scoring = contributing_dimensions(block), scoring_dimensions(block)
        if not isinstance(block.scores, (ContentScores, Distances)):
            scoring[:] = True
        kept = {head: position for position, head in enumerate(block.heads) if contributing[position].any()}
        heads = tuple(kept)
        dimensions = [
            {head: _indices(needed[position]) for head, position in kept.items() if not needed[position].all()}
            for needed in (scoring, contributing)
        ]
    columns: Indices = ()
    if isinstance(layer.feed_forward, FeedForward):
        up, down = layer.feed_forward.up.weight, layer.feed_forward.down.weight
        needed = up.ne(0).any(dim=1) & down.ne(0).any(dim=0)
        if not isinstance(layer.feed_forward.gating, Ungated):
            needed[:] = True
        columns = _indices(needed)
    return LayerPlan(heads, columns, *dimensions)


def _indices(needed: Tensor) -> Indices:
    return tuple(torch.nonzero(needed).flatten().tolist())
