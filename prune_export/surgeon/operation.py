"""Operates on a whole network."""

from __future__ import annotations

from dataclasses import replace

from exporters.distances import Distances
from exporters.encoder import (
    Attention,
    ConstantBlock,
    ContentScores,
    Encoder,
    FeedForward,
    Layer,
    Rotary,
    map_layers,
)
from exporters.errors import SurgeryError
from prune_export.facts.plan import LayerPlan, Plan, check_fits
from prune_export.surgeon.biases import drop_key_bias, fold_value_bias
from prune_export.surgeon.columns import remove_columns
from prune_export.surgeon.distances import drop_key_bias_beside_distances, remove_dimensions_with_distances
from prune_export.surgeon.emptied_blocks import (
    replace_emptied_attention,
    replace_emptied_feed_forward,
    without_dead_norms,
)
from prune_export.surgeon.head_dimensions import remove_query_key_dimensions, remove_value_dimensions
from prune_export.surgeon.heads import remove_heads
from prune_export.surgeon.pairs import remove_pairs


def operate(encoder: Encoder, plan: Plan) -> Encoder:
    """Returns the encoder with only the units that `plan` keeps; in exact arithmetic it computes the same on every input.

    Shared layers stay shared. `encoder` is left as it is; the result shares the tensors that did not change.

    Raises:
        PlanError: the plan does not fit the encoder.
        SurgeryError: a unit that the plan removes affects the outputs; the message names the layer.
    """
    check_fits(plan, encoder)

    def operate_on(index: int, layer: Layer) -> Layer:
        try:
            return _operate_on_layer(layer, plan.layers[index])
        except SurgeryError as error:
            raise SurgeryError(f"layer {index}: {error}") from None

    return map_layers(encoder, operate_on)


def _operate_on_layer(layer: Layer, plan: LayerPlan) -> Layer:
    attention, feed_forward = layer.attention, layer.feed_forward
    if isinstance(attention, Attention):
        attention = _operate_on_attention(attention, plan)
    if isinstance(feed_forward, FeedForward):
        if len(plan.columns) < feed_forward.columns:
            feed_forward = remove_columns(feed_forward, plan.columns)
        feed_forward = replace_emptied_feed_forward(feed_forward)
    return without_dead_norms(replace(layer, attention=attention, feed_forward=feed_forward))


def _operate_on_attention(block: Attention, plan: LayerPlan) -> Attention | ConstantBlock:
    block = fold_value_bias(block)
    by_distance = isinstance(block.scores, Distances)
    if isinstance(block.scores, ContentScores):
        block = drop_key_bias(block)
    elif by_distance and not block.scores.key_bias_matters:
        block = drop_key_bias_beside_distances(block)
    block = remove_heads(block, plan.heads)
    if block.heads:
        if plan.query_key_dimensions:
            remove = remove_dimensions_with_distances if by_distance else remove_query_key_dimensions
            if isinstance(block.scores, Rotary):
                remove = remove_pairs
            block = remove(block, plan.query_key_dimensions)
        block = remove_value_dimensions(block, plan.value_dimensions)
    return replace_emptied_attention(block)
