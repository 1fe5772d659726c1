"""Makes the plan that follows from the zeros of a network, by exact rules alone."""

from __future__ import annotations

import torch
from torch import Tensor

from exporters.distances import Distances, position_key, position_query
from exporters.encoder import (
    ACTIVATIONS,
    Attention,
    ContentScores,
    Encoder,
    FeedForward,
    Gated,
    Layer,
    Rotary,
    Ungated,
)
from prune_export.facts.plan import Indices, LayerPlan, Plan


def plan_from_zeros(encoder: Encoder) -> Plan:
    """Returns the plan that keeps as little as exact rules allow.

    "Zero" means that every weight is exactly 0. With softmax rows that sum to 1:

    - A value dimension is removed if its row of the value weights or its column of the output weights is zero (its bias
      contributes a constant).
    - A head is removed if all of its value dimensions are.
    - A query/key dimension is removed if its key row is zero (a constant per query, which softmax ignores) or its query row
      is (with a bias, it is one score per key, for which the surgeon adds one merged dimension). With `Distances`, the
      row of that projection of distances has to be zero as well. A pair of rotary scores is removed if both of its key
      rows, or both of its query rows, are zero, biases included.
    - A column is removed if it is a constant (`constant_columns`) or its column of `down` is zero.
    """
    plans = [_layer_plan(layer) for layer in encoder.distinct_layers]
    return Plan(tuple(plans[index] for index in encoder.layer_indices))


def contributing_dimensions(block: Attention) -> Tensor:
    """Returns which value dimensions depend on the input and reach the output: bool `[heads, value]`."""
    return block.value_weight.ne(0).any(dim=2) & block.output_weight.ne(0).any(dim=0)


def scoring_dimensions(block: Attention) -> Tensor:
    """Returns which query/key dimensions have a query and a key row, of distances or not: bool `[heads, query_key]`.

    The two dimensions of a pair of rotary scores count as one, and a bias like a row. With scores of an unknown kind all do.
    """
    query, key = block.query_weight.ne(0).any(dim=2), block.key_weight.ne(0).any(dim=2)
    if (to_key := position_key(block)) is not None:
        key = key | to_key.weight.ne(0).any(dim=2)
    if (to_query := position_query(block)) is not None:
        query = query | to_query.weight.ne(0).any(dim=2)
    if isinstance(block.scores, ContentScores | Distances):
        return query & key
    if not isinstance(block.scores, Rotary):
        return torch.ones_like(query)
    if block.query_bias is not None:
        query = query | block.query_bias.ne(0)
    if block.key_bias is not None:
        key = key | block.key_bias.ne(0)
    of_pairs: Tensor = _by_pair(query) & _by_pair(key)
    return of_pairs.repeat(1, 2)


def _by_pair(dimensions: Tensor) -> Tensor:
    """Returns which pairs have one of `dimensions` `[heads, query_key]`: bool `[heads, pairs]`."""
    first, second = dimensions.chunk(2, dim=1)
    return first | second


def constant_columns(block: FeedForward) -> tuple[Tensor, Tensor]:
    """Returns which columns give the same for every input, bool `[intermediate]`, and what they give, float64.

    Without a gate that is a zero row of `up`. With one, the two factors are constant, or one of them is always zero.
    """
    activation, up = ACTIVATIONS[block.gating.activation], block.up
    up_is_constant, up_values = up.weight.eq(0).all(dim=1), up.constant.double()
    if isinstance(block.gating, Ungated):
        return up_is_constant, activation(up_values)
    if not isinstance(block.gating, Gated):
        return torch.zeros_like(up_is_constant), torch.zeros_like(up_values)
    gate = block.gating.gate
    gate_is_constant, gate_values = gate.weight.eq(0).all(dim=1), activation(gate.constant.double())
    is_zero = (gate_is_constant & gate_values.eq(0)) | (up_is_constant & up_values.eq(0))
    return (gate_is_constant & up_is_constant) | is_zero, torch.where(is_zero, 0.0, gate_values * up_values)


def _layer_plan(layer: Layer) -> LayerPlan:
    heads: Indices = ()
    dimensions: list[dict[int, Indices]] = [{}, {}]
    if isinstance(layer.attention, Attention):
        block = layer.attention
        contributing, scoring = contributing_dimensions(block), scoring_dimensions(block)
        kept = {head: position for position, head in enumerate(block.heads) if contributing[position].any()}
        heads = tuple(kept)
        dimensions = [
            {head: _indices(needed[position]) for head, position in kept.items() if not needed[position].all()}
            for needed in (scoring, contributing)
        ]
    columns: Indices = ()
    if isinstance(layer.feed_forward, FeedForward):
        is_constant, _ = constant_columns(layer.feed_forward)
        columns = _indices(~is_constant & layer.feed_forward.down.weight.ne(0).any(dim=0))
    return LayerPlan(heads, columns, *dimensions)


def _indices(needed: Tensor) -> Indices:
    return tuple(torch.nonzero(needed).flatten().tolist())
