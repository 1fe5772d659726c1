"""Zero padding of head sizes and feed-forward columns, for kernels that are fast at multiples of a number only. Exact."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from exporters.encoder import Attention, Encoder, FeedForward, Layer, Linear, map_layers


def align(encoder: Encoder, multiple: int) -> Encoder:
    """The same network with query/key sizes, value sizes and feed-forward columns as multiples of `multiple`.

    What an added column adds to the residual stream is its weight, 0, times activation(0); none is infinite at 0.
    """

    def aligned(_: int, layer: Layer) -> Layer:
        if isinstance(layer.attention, Attention):
            layer = replace(layer, attention=_align_heads(layer.attention, multiple))
        if isinstance(layer.feed_forward, FeedForward):
            layer = replace(layer, feed_forward=_align_columns(layer.feed_forward, multiple))
        return layer

    return encoder if multiple == 1 else map_layers(encoder, aligned)


def _align_heads(block: Attention, multiple: int) -> Attention:
    return Attention(
        heads=block.heads,
        query_weight=_pad(block.query_weight, 1, multiple),
        query_bias=_pad(block.query_bias, 1, multiple),
        key_weight=_pad(block.key_weight, 1, multiple),
        key_bias=None if block.key_bias is None else _pad(block.key_bias, 1, multiple),
        value_weight=_pad(block.value_weight, 1, multiple),
        value_bias=None if block.value_bias is None else _pad(block.value_bias, 1, multiple),
        output_weight=_pad(block.output_weight, 2, multiple),
        output_bias=block.output_bias,
        scale=block.scale,
    )


def _align_columns(block: FeedForward, multiple: int) -> FeedForward:
    up = Linear(_pad(block.up.weight, 0, multiple), _pad(block.up.bias, 0, multiple))
    return replace(block, up=up, down=Linear(_pad(block.down.weight, 1, multiple), block.down.bias))


def _pad(tensor: Tensor, dim: int, multiple: int) -> Tensor:
    """Zeros appended along `dim` up to a multiple of `multiple`."""
    missing = -tensor.shape[dim] % multiple
    if missing == 0:
        return tensor
    shape = list(tensor.shape)
    shape[dim] = missing
    return torch.cat([tensor, tensor.new_zeros(shape)], dim=dim)
