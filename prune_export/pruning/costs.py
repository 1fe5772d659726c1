"""What heads and columns cost, by how many stay: FLOPs, parameters, or time from a table of measurements."""

from __future__ import annotations

from dataclasses import dataclass

from exporters.cost import LayerShape, flops_per_token, layer_shape
from exporters.encoder import Encoder, Layer, tensors


@dataclass(frozen=True, slots=True)
class Costs:
    """The cost of a network as a sum over its blocks.

    `heads[layer][n]` is what the attention of a distinct layer costs with n heads, all its applications together;
    `columns[layer][n]` likewise. `fixed` is what is there whatever goes, `dense` the whole unpruned network, all in `unit`.

    Where what one block costs depends on whether another is there, no one sum serves every network. `cases` are then sums
    that serve some networks each, infinite for the others, and the fields above are those of the unpruned network's case.
    """

    unit: str
    dense: float
    fixed: float
    heads: tuple[tuple[float, ...], ...]
    columns: tuple[tuple[float, ...], ...]
    cases: tuple[Costs, ...] = ()

    def total(self, counts: tuple[tuple[int, int], ...]) -> float:
        """The cost of a network whose distinct layers keep so many (heads, columns)."""
        if self.cases:
            return min(case.total(counts) for case in self.cases)
        kept = zip(self.heads, self.columns, counts, strict=True)
        return self.fixed + sum(heads[h] + columns[c] for heads, columns, (h, c) in kept)


def flops_costs(encoder: Encoder, *, sequence_length: int) -> Costs:
    """FLOPs per token of the encoder layers, as `exporters.cost.flops_per_token` counts them."""

    def flops(shape: LayerShape) -> int:
        return flops_per_token((shape,), hidden_size=encoder.hidden_size, sequence_length=sequence_length)

    heads, columns = [], []
    for place, layer in enumerate(encoder.distinct_layers):
        times, shape = encoder.order.count(place), layer_shape(layer)
        one_head = times * flops(LayerShape(1, shape.query_key_size, shape.value_size, 0))
        one_column = times * flops(LayerShape(0, 0, 0, 1))
        heads.append(tuple(float(one_head * count) for count in range(shape.heads + 1)))
        columns.append(tuple(float(one_column * count) for count in range(shape.columns + 1)))
    dense = sum(part[-1] for part in (*heads, *columns))
    return Costs("FLOPs per token", dense, 0.0, tuple(heads), tuple(columns))


def parameter_costs(encoder: Encoder) -> Costs:
    """Parameters of the encoder layers, as `exporters.cost.count_parameters` finds them after surgery.

    Embeddings and task head, which pruning leaves alone, do not count. Surgery drops key biases and folds value biases.
    """
    hidden = encoder.hidden_size
    heads, columns = [], []
    fixed = 0
    for layer in encoder.distinct_layers:
        shape = layer_shape(layer)
        one_head = 2 * (shape.query_key_size + shape.value_size) * hidden + shape.query_key_size
        heads.append(tuple(float(one_head * count) for count in range(shape.heads + 1)))
        columns.append(tuple(float((2 * hidden + 1) * count) for count in range(shape.columns + 1)))
        fixed += 2 * hidden + _norm_parameters(layer)
    return Costs("parameters", float(layer_parameters(encoder)), float(fixed), tuple(heads), tuple(columns))


def layer_parameters(encoder: Encoder) -> int:
    """Parameters of the encoder layers, shared ones once."""
    return sum(part.numel() for part in tensors(encoder.layers))


def _norm_parameters(layer: Layer) -> int:
    return sum(part.numel() for norm in (layer.attention_norm, layer.feed_forward_norm) for part in tensors(norm))


def counts_of(encoder: Encoder) -> tuple[tuple[int, int], ...]:
    """Heads and columns of each distinct layer."""
    shapes = [layer_shape(layer) for layer in encoder.distinct_layers]
    return tuple((shape.heads, shape.columns) for shape in shapes)
