"""The cost of an encoder: parameters, and floating-point operations per token."""

from __future__ import annotations

from dataclasses import dataclass

from exporters.axes import sizes_of
from exporters.encoder import Encoder, Layer, tensors


@dataclass(frozen=True, slots=True)
class LayerShape:
    """The sizes that decide what a layer costs; they are zero for a block that was removed."""

    heads: int
    query_key_size: int
    value_size: int
    columns: int


def layer_shape(layer: Layer) -> LayerShape:
    """Returns the shape of one layer of a description."""
    sizes = sizes_of(layer)
    return LayerShape(*(sizes.get(axis, 0) for axis in ("head", "query_key", "value", "intermediate")))


def count_parameters(encoder: Encoder) -> int:
    """Counts the numbers that the network holds; shared and tied tensors count once."""
    return sum(tensor.numel() for tensor in tensors(encoder))


def flops_per_token(shapes: tuple[LayerShape, ...], *, hidden_size: int, sequence_length: int) -> int:
    """Counts the operations of all encoder layers for one token: 2 for each multiply-add of a matrix product.

    These are the projections, `query @ key.T`, `scores @ value` and the feed-forward products. As usual, embeddings,
    norms, softmax, activations, biases and the task head are left out.
    """
    total = 0
    for shape in shapes:
        projections = shape.heads * (2 * shape.query_key_size + 2 * shape.value_size) * hidden_size
        products = shape.heads * (shape.query_key_size + shape.value_size) * sequence_length
        total += 2 * (projections + products + 2 * shape.columns * hidden_size)
    return total
