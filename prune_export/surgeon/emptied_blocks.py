"""Replaces blocks that have no heads or no columns by constants."""

from __future__ import annotations

from exporters.encoder import Attention, ConstantBlock, FeedForward


def replace_emptied_attention(block: Attention) -> Attention | ConstantBlock:
    """Returns attention without heads as a constant: its output bias, added to every position."""
    return block if block.heads else ConstantBlock(block.output.constant)


def replace_emptied_feed_forward(block: FeedForward) -> FeedForward | ConstantBlock:
    """Returns a feed-forward block without columns as a constant: its output bias, added to every position."""
    return block if block.columns else ConstantBlock(block.down.constant)
