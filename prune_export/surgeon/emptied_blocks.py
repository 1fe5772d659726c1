"""Replaces blocks that have no heads or no columns by constants."""

from __future__ import annotations

from dataclasses import replace

from exporters.encoder import Attention, ConstantBlock, FeedForward, Layer


def replace_emptied_attention(block: Attention) -> Attention | ConstantBlock:
    """Returns attention without heads as a constant: its output bias, added to every position."""
    return block if block.heads else ConstantBlock(block.output.constant)


def replace_emptied_feed_forward(block: FeedForward) -> FeedForward | ConstantBlock:
    """Returns a feed-forward block without columns as a constant: its output bias, added to every position."""
    return block if block.columns else ConstantBlock(block.down.constant)


def without_dead_norms(layer: Layer) -> Layer:
    """Returns the layer without the input norms of constants, which read nothing."""
    if isinstance(layer.attention, ConstantBlock):
        layer = replace(layer, attention_input_norm=None)
    if isinstance(layer.feed_forward, ConstantBlock):
        layer = replace(layer, feed_forward_input_norm=None)
    return layer
