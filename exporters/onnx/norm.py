"""Norms, in the residual type."""

from __future__ import annotations

import onnx_ir as ir

from exporters.encoder import Norm
from exporters.onnx.context import GraphContext


def norm(context: GraphContext, x: ir.Value, parameters: Norm) -> ir.Value:
    """Applies LayerNorm to `x` `[..., features]`, or `x * weight + bias` if the norm has no epsilon."""
    builder, dtype = context.builder, context.precision.residual
    weight = builder.weight(parameters.weight, "norm.weight", dtype)
    bias = builder.weight(parameters.bias, "norm.bias", dtype)
    if parameters.epsilon is None:
        return builder.op("Add", builder.op("Mul", x, weight), bias)
    return builder.op("LayerNormalization", x, weight, bias, axis=-1, epsilon=parameters.epsilon)


def add_then_norm(context: GraphContext, x: ir.Value, update: ir.Value, parameters: Norm) -> ir.Value:
    """Computes `norm(x + update)` in two operations."""
    return norm(context, context.builder.op("Add", x, update), parameters)


def skip_layer_norm(context: GraphContext, x: ir.Value, update: ir.Value, parameters: Norm) -> ir.Value:
    """Computes `norm(x + update)` by one SkipLayerNormalization; both inputs `[batch, sequence, hidden]`."""
    if parameters.epsilon is None:
        return add_then_norm(context, x, update, parameters)
    builder, dtype = context.builder, context.precision.residual
    weight = builder.weight(parameters.weight, "norm.weight", dtype)
    bias = builder.weight(parameters.bias, "norm.bias", dtype)
    return builder.contrib("SkipLayerNormalization", x, update, weight, bias, dtype=dtype, epsilon=parameters.epsilon)
