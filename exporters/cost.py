"""The cost of an encoder: parameters, and floating-point operations per token."""

from __future__ import annotations

from dataclasses import dataclass

from exporters.axes import sizes_of
from exporters.distances import Distances
from exporters.encoder import Attention, ConstantBlock, Encoder, FeedForward, Gated, Layer, tensors


@dataclass(frozen=True, slots=True)
class LayerShape:
    """The sizes that decide what a layer costs; they are zero for a block that was removed.

    `widths` are those of the residual stream before the layer, after its attention and after the layer, where it has skip
    matrices. None: it is as wide everywhere, and has none. `is_gated`: columns have a gate. `distance_terms` products of
    queries or keys with a table of `distance_rows` rows belong to the scores of a head.
    """

    heads: int
    query_key_size: int
    value_size: int
    columns: int
    widths: tuple[int, int, int] | None = None
    is_gated: bool = False
    distance_terms: int = 0
    distance_rows: int = 0


def layer_shape(layer: Layer) -> LayerShape:
    """Returns the shape of one layer of a description."""
    sizes = sizes_of(layer)
    heads, query_key, value, columns = (sizes.get(axis, 0) for axis in ("head", "query_key", "value", "intermediate"))
    widths = None if layer.attention_skip is None else layer.widths
    is_gated = isinstance(layer.feed_forward, FeedForward) and isinstance(layer.feed_forward.gating, Gated)
    terms, rows = 0, 0
    if isinstance(layer.attention, Attention) and isinstance(layer.attention.scores, Distances):
        terms, table = layer.attention.scores.terms, layer.attention.scores.embeddings
        rows = 0 if table is None else len(table)
    return LayerShape(heads, query_key, value, columns, widths, is_gated, terms, rows)


def count_parameters(encoder: Encoder) -> int:
    """Counts the numbers that the network holds; shared and tied tensors count once, zeros of a removed block not at all."""
    return sum(tensor.numel() for tensor in tensors(encoder)) - _zeros_of_constants(encoder)


def layer_parameters(encoder: Encoder) -> int:
    """Counts the parameters of the encoder layers, as `count_parameters` does."""
    return sum(tensor.numel() for tensor in tensors(encoder.layers)) - _zeros_of_constants(encoder)


def _zeros_of_constants(encoder: Encoder) -> int:
    blocks = (block for layer in encoder.distinct_layers for block in (layer.attention, layer.feed_forward))
    constants = (block.bias for block in blocks if isinstance(block, ConstantBlock))
    return sum(bias.numel() for bias in constants if not bias.any())


def flops_per_token(shapes: tuple[LayerShape, ...], *, hidden_size: int, sequence_length: int) -> int:
    """Counts the operations of all encoder layers for one token: 2 for each multiply-add of a matrix product.

    These are the projections, `query @ key.T`, `scores @ value`, the products with tables of distances (of which a sequence
    reaches at most two rows per token), the feed-forward products and the skip matrices. As usual, embeddings, norms,
    softmax, activations, biases and the task head are left out. `hidden_size` is the width of layers whose shape has no
    widths.
    """
    total = 0
    for shape in shapes:
        hidden, middle, output = shape.widths or (hidden_size,) * 3
        maps = 2 if shape.is_gated else 1
        skips = 0 if shape.widths is None else hidden * middle + middle * output
        projections = (2 * shape.query_key_size + shape.value_size) * hidden + shape.value_size * middle
        products = (shape.query_key_size + shape.value_size) * sequence_length
        products += shape.distance_terms * shape.query_key_size * min(shape.distance_rows, 2 * sequence_length)
        total += 2 * (shape.heads * (projections + products) + shape.columns * (maps * middle + output) + skips)
    return total
