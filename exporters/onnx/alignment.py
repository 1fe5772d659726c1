"""Zero padding of head sizes and feed-forward columns, for kernels that are fast at multiples of a number only. Exact."""

from __future__ import annotations

from dataclasses import replace

from exporters.axes import pad, sizes_of
from exporters.encoder import Attention, Encoder, Layer, Rotary, map_layers
from exporters.rotary import pad_pairs

_ALIGNED_AXES = ("value", "intermediate")


def align(encoder: Encoder, multiple: int) -> Encoder:
    """Returns the same network with query/key sizes, value sizes and feed-forward columns as multiples of `multiple`.

    What an added column adds to the residual stream is its weight, 0, times activation(0); none is infinite at 0.
    """

    def aligned(_: int, layer: Layer) -> Layer:
        sizes = {axis: size + -size % multiple for axis, size in sizes_of(layer).items()}
        for axis in _ALIGNED_AXES:
            if axis in sizes:
                layer = pad(layer, axis, sizes[axis])
        attention = layer.attention
        if not isinstance(attention, Attention):
            return layer
        if isinstance(attention.scores, Rotary):
            return replace(layer, attention=pad_pairs(attention, sizes["query_key"] // 2))
        return pad(layer, "query_key", sizes["query_key"])

    return encoder if multiple == 1 else map_layers(encoder, aligned)
