"""Norms, in the accurate type."""

from __future__ import annotations

import onnx_ir as ir

from exporters.encoder import Norm
from exporters.onnx.context import Context


def norm(context: Context, x: ir.Value, parameters: Norm) -> ir.Value:
    """LayerNorm of `x` `[..., features]`, or `x * weight + bias` where the norm has no epsilon."""
    builder, dtype = context.builder, context.precision.accurate
    weight = builder.weight(parameters.weight, "norm.weight", dtype)
    bias = builder.weight(parameters.bias, "norm.bias", dtype)
    if parameters.epsilon is None:
        return builder.op("Add", builder.op("Mul", x, weight), bias)
    return builder.op("LayerNormalization", x, weight, bias, axis=-1, epsilon=parameters.epsilon)


def add_then_norm(context: Context, x: ir.Value, update: ir.Value, parameters: Norm) -> ir.Value:
    """`norm(x + update)` as two operations."""
    return norm(context, context.builder.op("Add", x, update), parameters)


def skip_layer_norm(context: Context, x: ir.Value, update: ir.Value, parameters: Norm) -> ir.Value:
    """`norm(x + update)` as one SkipLayerNormalization; both inputs `[batch, sequence, hidden]`."""
    if parameters.epsilon is None:
        return add_then_norm(context, x, update, parameters)
    builder, dtype = context.builder, context.precision.accurate
    weight = builder.weight(parameters.weight, "norm.weight", dtype)
    bias = builder.weight(parameters.bias, "norm.bias", dtype)
    return builder.contrib("SkipLayerNormalization", x, update, weight, bias, dtype=dtype, epsilon=parameters.epsilon)
