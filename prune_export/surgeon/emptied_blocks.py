"""Blocks that lose everything."""

from __future__ import annotations

from exporters.encoder import Attention, ConstantBlock, FeedForward


def replace_emptied_attention(block: Attention) -> Attention | ConstantBlock:
    """Attention without heads as what it is: its output bias, added to every position."""
    return block if block.heads else ConstantBlock(block.output_bias)


def replace_emptied_feed_forward(block: FeedForward) -> FeedForward | ConstantBlock:
    """A feed-forward block without columns as what it is: its output bias, added to every position."""
    return block if block.columns else ConstantBlock(block.down.bias)
