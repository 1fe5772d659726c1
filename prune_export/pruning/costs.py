"""Costs of a network by the numbers of heads and columns that it keeps: in FLOPs, parameters or time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from torch import Tensor

from exporters.axes import leaves
from exporters.cost import LayerShape, flops_per_token, layer_shape
from exporters.distances import key_bias_matters
from exporters.encoder import Attention, ConstantBlock, Encoder, Layer, tensors


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
        one_column = applications * (flops(LayerShape(0, 0, 0, 1, shape.widths)) - skips)
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
        shape, (_, middle, output) = layer_shape(layer), layer.widths
        one_head = _head_parameters(layer.attention)
        heads.append(tuple(float(one_head * count) for count in range(shape.heads + 1)))
        columns.append(tuple(float((middle + output + 1) * count) for count in range(shape.columns + 1)))
        fixed += middle + output + _fixed_parameters(layer)
    fixed += sum(tensor.numel() for tensor in _common_tensors(encoder))
    return Costs("parameters", float(layer_parameters(encoder)), float(fixed), tuple(heads), tuple(columns))


def _head_parameters(block: Attention | ConstantBlock) -> int:
    """Returns the parameters of one head after surgery."""
    if isinstance(block, ConstantBlock):
        return 0
    dropped = ("value_bias",) if key_bias_matters(block.scores) else ("value_bias", "key_bias")
    return sum(
        value.numel() // len(block.heads)
        for path, value, axes in leaves(block)
        if isinstance(value, Tensor) and "head" in axes.names and path not in dropped
    )


def _common_tensors(encoder: Encoder) -> Iterable[Tensor]:
    """Returns, once, the tensors that the scores of all layers have in common: those without an axis of heads."""
    scores = (layer.attention.scores for layer in encoder.layers if isinstance(layer.attention, Attention))
    found = (value for each in scores for _, value, axes in leaves(each) if "head" not in axes.names)
    return {id(value): value for value in found}.values()


def layer_parameters(encoder: Encoder) -> int:
    """Returns the parameters of the encoder layers; those of shared layers count once."""
    return sum(tensor.numel() for tensor in tensors(encoder.layers))


def _fixed_parameters(layer: Layer) -> int:
    """Returns the parameters of norms and skip matrices."""
    norms = (tensor for norm in (layer.attention_norm, layer.feed_forward_norm) for tensor in tensors(norm))
    skips = (skip for skip in (layer.attention_skip, layer.feed_forward_skip) if skip is not None)
    return sum(tensor.numel() for tensor in (*norms, *skips))


def counts_of(encoder: Encoder) -> tuple[tuple[int, int], ...]:
    """Returns the numbers of heads and columns of each distinct layer."""
    shapes = [layer_shape(layer) for layer in encoder.distinct_layers]
    return tuple((shape.heads, shape.columns) for shape in shapes)
