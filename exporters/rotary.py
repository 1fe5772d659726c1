"""The pairs of dimensions that rotary scores rotate: zeros are put into both halves of a head, or nowhere."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from exporters.axes import Axes, leaves, map_leaves
from exporters.encoder import Attention, Rotary


def pairs_of(block: Attention) -> tuple[tuple[int, ...], ...]:
    """Returns the pairs of each head of a block with rotary scores, by their index in the original model."""
    assert isinstance(block.scores, Rotary)
    every = tuple(range(block.query_key_size // 2))
    return (every,) * len(block.heads) if block.scores.pairs is None else block.scores.pairs


def place_pairs(block: Attention, places: Tensor, count: int) -> Attention:
    """Returns the block with `count` pairs per head: pair i of a head comes to `places[head, i]`, others are zeros.

    `places` is int64 `[heads, pairs]`. The scores are left as they are.
    """
    rows = torch.cat([places, places + count], dim=1)  # [heads, query_key]

    def change(value: object, axes: Axes) -> object:
        if not isinstance(value, Tensor) or axes.names[:2] != ("head", "query_key"):
            return value
        index = rows.to(value.device).reshape(*rows.shape, *[1] * (value.ndim - 2)).expand(value.shape)
        return value.new_zeros(value.shape[0], 2 * count, *value.shape[2:]).scatter(1, index, value)

    assert all(axes.names[1:2] == ("query_key",) for _, _, axes in leaves(block) if "query_key" in axes.names)
    return map_leaves(block, change)


def pad_pairs(block: Attention, count: int) -> Attention:
    """Returns the block with zeros as further pairs of every head, `count` in all.

    They take the frequencies of pairs that the head has lost, so that each could grow back; where it has lost none, any.
    """
    scores, own = block.scores, block.query_key_size // 2
    if own == count:
        return block
    assert isinstance(scores, Rotary)
    original = len(scores.frequencies)
    padded = []
    for pairs in pairs_of(block):
        lost = [pair for pair in range(original) if pair not in pairs]
        padded.append((*pairs, *lost, *(0,) * count)[:count])
    places = torch.arange(own).expand(len(block.heads), own)
    return replace(place_pairs(block, places, count), scores=replace(scores, pairs=tuple(padded)))


def restore_pairs(block: Attention) -> Attention:
    """Returns the block with all pairs of the original model, each at its own index; those that were removed are zeros."""
    scores = block.scores
    assert isinstance(scores, Rotary)
    if scores.pairs is None:
        return block
    places = torch.tensor(scores.pairs, dtype=torch.long).view(len(block.heads), -1)
    return replace(place_pairs(block, places, len(scores.frequencies)), scores=replace(scores, pairs=None))
