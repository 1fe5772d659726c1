"""How much of a network is left, for logs."""

from __future__ import annotations

from collections.abc import Sequence

from exporters.cost import LayerShape, flops_per_token
from prune_export.training.layers import LayerModules


def figures(layers: Sequence[LayerModules], left: Sequence[LayerShape], *, sequence_length: int) -> dict[str, float]:
    """`heads_left`, `columns_left` and `flops_left` (a fraction); `left` is what stays of each of `layers`."""
    dense = [LayerShape(layer.heads, layer.head_size, layer.head_size, layer.columns) for layer in layers]

    def flops(shapes: Sequence[LayerShape]) -> int:
        found = 0
        for layer, shape in zip(layers, shapes, strict=True):
            found += layer.times * flops_per_token((shape,), hidden_size=layer.hidden, sequence_length=sequence_length)
        return found

    return {
        "heads_left": float(sum(shape.heads for shape in left)),
        "columns_left": float(sum(shape.columns for shape in left)),
        "flops_left": flops(left) / flops(dense),
    }
