"""Costs of a network by the numbers of heads and columns that it keeps: in FLOPs, parameters or time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from torch import Tensor

from exporters.axes import leaves
from exporters.cost import LayerShape, flops_per_token, layer_parameters, layer_shape
from exporters.encoder import Attention, ConstantBlock, Encoder, FeedForward, Layer, Norm, tensors


@dataclass(frozen=True, slots=True)
class Costs:
    """The cost of a network as a sum over its blocks, in `unit`.

    `heads[layer][n]` is the cost of a distinct layer's attention with n heads, for all its applications together.
    `columns[layer][n]` is that of its feed-forward block with n columns. `fixed` is the cost of what cannot be pruned,
    `dense` that of the whole unpruned network.

    Where the cost of one block depends on whether another is kept, one sum cannot hold for every network. `cases` are then
    several sums. Each holds for some networks and is infinite for the others; the fields above are those of the unpruned
    network's case.
    """

    unit: str
    dense: float
    fixed: float
    heads: tuple[tuple[float, ...], ...]
    columns: tuple[tuple[float, ...], ...]
    cases: tuple[Costs, ...] = ()

    def total(self, counts: tuple[tuple[int, int], ...]) -> float:
        """Returns the cost of a network whose distinct layers keep `counts` (heads, columns)."""
        if self.cases:
            return min(case.total(counts) for case in self.cases)
        layers = zip(self.heads, self.columns, counts, strict=True)
        return self.fixed + sum(heads[h] + columns[c] for heads, columns, (h, c) in layers)


def flops_costs(encoder: Encoder, *, sequence_length: int) -> Costs:
    """Returns the FLOPs per token of the encoder layers, as `exporters.cost.flops_per_token` counts them."""

    def flops(shape: LayerShape) -> int:
        return flops_per_token((shape,), hidden_size=encoder.hidden_size, sequence_length=sequence_length)

    heads, columns = [], []
    fixed = 0.0
    for index, layer in enumerate(encoder.distinct_layers):
        applications, shape = encoder.layer_indices.count(index), layer_shape(layer)
        skips = flops(LayerShape(0, 0, 0, 0, shape.widths))
        head = replace(shape, heads=1, columns=0)
        one_head = applications * (flops(head) - skips)
        one_column = applications * (flops(LayerShape(0, 0, 0, 1, shape.widths, shape.is_gated)) - skips)
        fixed += applications * skips
        heads.append(tuple(float(one_head * count) for count in range(shape.heads + 1)))
        columns.append(tuple(float(one_column * count) for count in range(shape.columns + 1)))
    dense = fixed + sum(costs[-1] for costs in (*heads, *columns))
    return Costs("FLOPs per token", dense, fixed, tuple(heads), tuple(columns))


def parameter_costs(encoder: Encoder) -> Costs:
    """Returns the parameters of the encoder layers, as `exporters.cost.count_parameters` counts them after surgery.

    Embeddings and task head, which are not pruned, do not count. Surgery drops key biases and folds value biases.
    """
    heads, columns = [], []
    fixed = 0
    for layer in encoder.distinct_layers:
        shape = layer_shape(layer)
        one_head, one_column = (
            _unit_parameters(block, axis)
            for block, axis in ((layer.attention, "head"), (layer.feed_forward, "intermediate"))
        )
        heads.append(_block_parameters(one_head, shape.heads, layer.attention_input_norm))
        columns.append(_block_parameters(one_column, shape.columns, layer.feed_forward_input_norm))
        fixed += _fixed_parameters(layer)
    fixed += sum(tensor.numel() for tensor in _common_tensors(encoder))
    return Costs("parameters", float(layer_parameters(encoder)), float(fixed), tuple(heads), tuple(columns))


def _unit_parameters(block: Attention | FeedForward | ConstantBlock, axis: str) -> int:
    """Returns the parameters of one head or column after surgery."""
    dropped = {"value_bias"}
    if isinstance(block, Attention) and not block.scores.key_bias_matters:
        dropped.add("key_bias")
    return sum(
        value.numel() // value.shape[axes.names.index(axis)]
        for path, value, axes in leaves(block)
        if isinstance(value, Tensor) and axis in axes.names and path not in dropped
    )


def _block_parameters(unit: int, most: int, input_norm: Norm | None) -> tuple[float, ...]:
    """Returns the parameters of a block with 0 to `most` units; without units its input norm goes as well."""
    norm = 0 if input_norm is None else sum(tensor.numel() for tensor in tensors(input_norm))
    return (0.0, *(float(unit * count + norm) for count in range(1, most + 1)))


def _common_tensors(encoder: Encoder) -> Iterable[Tensor]:
    """Returns, once, the tensors that the scores of all layers have in common: those without an axis of heads."""
    scores = (layer.attention.scores for layer in encoder.layers if isinstance(layer.attention, Attention))
    found = (value for each in scores for _, value, axes in leaves(each) if "head" not in axes.names)
    return {id(value): value for value in found}.values()


def _fixed_parameters(layer: Layer) -> int:
    """Returns the parameters that no head and no column has: output biases, norms and skip matrices."""
    return sum(
        value.numel()
        for path, value, axes in leaves(layer)
        if isinstance(value, Tensor)
        and not path.startswith(("attention.scores.", "attention_input_norm.", "feed_forward_input_norm."))
        and {"head", "intermediate"}.isdisjoint(axes.names)
    )


def counts_of(encoder: Encoder) -> tuple[tuple[int, int], ...]:
    """Returns the numbers of heads and columns of each distinct layer."""
    shapes = [layer_shape(layer) for layer in encoder.distinct_layers]
    return tuple((shape.heads, shape.columns) for shape in shapes)
