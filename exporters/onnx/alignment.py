"""Zero padding of head sizes and feed-forward columns, for kernels that are fast at multiples of a number only. Exact."""

from __future__ import annotations

from exporters.axes import pad, sizes_of
from exporters.encoder import Encoder, Layer, map_layers

_ALIGNED_AXES = ("query_key", "value", "intermediate")


def align(encoder: Encoder, multiple: int) -> Encoder:
    """Returns the same network with query/key sizes, value sizes and feed-forward columns as multiples of `multiple`.

    What an added column adds to the residual stream is its weight, 0, times activation(0); none is infinite at 0.
    """

    def aligned(_: int, layer: Layer) -> Layer:
        sizes = sizes_of(layer)
        for axis in _ALIGNED_AXES:
            if axis in sizes:
                layer = pad(layer, axis, sizes[axis] + -sizes[axis] % multiple)
        return layer

    return encoder if multiple == 1 else map_layers(encoder, aligned)
