"""Linear maps."""

from __future__ import annotations

import onnx_ir as ir
from torch import Tensor

from exporters.encoder import Linear
from exporters.onnx.builder import transposed
from exporters.onnx.context import GraphContext
from exporters.onnx.quantized import quantized_product


def project(context: GraphContext, x: ir.Value, weight: Tensor, label: str, *, constant_scale: float = 1.0) -> ir.Value:
    """Multiplies `x @ weight.T`, with `x` `[..., in_features]` and `weight` `[out_features, in_features]`."""
    if context.observed is not None:
        context.observed[context.builder.path(label)] = x
    if context.quantizes(label):
        return quantized_product(context, x, weight, label, constant_scale=constant_scale)
    matrix = context.builder.weight(
        weight, f"{label}.weight", context.precision.matmul, transposed, constant_scale=constant_scale
    )
    return context.builder.op("MatMul", x, matrix)


def add_bias(
    context: GraphContext, x: ir.Value, bias: Tensor | None, label: str, *, constant_scale: float = 1.0
) -> ir.Value:
    """Adds `x + bias`; no node if there is no bias, or it is zero."""
    if bias is None or not bias.any():
        return x
    vector = context.builder.weight(bias, f"{label}.bias", context.precision.matmul, constant_scale=constant_scale)
    return context.builder.op("Add", x, vector)


def linear(context: GraphContext, x: ir.Value, layer: Linear, label: str) -> ir.Value:
    """Computes `x @ weight.T + bias` in the matmul type."""
    return add_bias(context, project(context, x, layer.weight, label), layer.bias, label)
