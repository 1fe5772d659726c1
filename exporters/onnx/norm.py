"""Norms, in the residual type."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporters.encoder import Norm
from exporters.onnx.context import GraphContext


def norm(context: GraphContext, x: ir.Value, parameters: Norm) -> ir.Value:
    """Applies LayerNorm or RMSNorm to `x` `[..., features]`, or `x * weight + bias` if the norm has no epsilon."""
    builder = context.builder
    weight, bias = _weight_and_bias(context, parameters)
    if parameters.epsilon is not None and parameters.centered:
        inputs = (x, weight) if bias is None else (x, weight, bias)
        return builder.op("LayerNormalization", *inputs, axis=-1, epsilon=parameters.epsilon)
    if parameters.epsilon is None:
        scaled = builder.op("Mul", x, weight)
    else:
        scaled = _root_mean_square_norm(context, x, weight, parameters.epsilon)
    return scaled if bias is None else builder.op("Add", scaled, bias)


def add_then_norm(context: GraphContext, x: ir.Value, update: ir.Value, parameters: Norm) -> ir.Value:
    """Computes `norm(x + update)` in two operations."""
    return norm(context, context.builder.op("Add", x, update), parameters)


def skip_layer_norm(context: GraphContext, x: ir.Value, update: ir.Value, parameters: Norm) -> ir.Value:
    """Computes `norm(x + update)` by one operation of ONNX Runtime; both inputs are in the layout of the target.

    It is SkipLayerNormalization, or SkipSimplifiedLayerNormalization for RMSNorm, whose own bias is added before the norm.
    """
    has_kernel = parameters.centered or parameters.bias is None
    if parameters.epsilon is None or not has_kernel:
        return add_then_norm(context, x, update, parameters)
    weight, bias = _weight_and_bias(context, parameters)
    kind = "SkipLayerNormalization" if parameters.centered else "SkipSimplifiedLayerNormalization"
    inputs = [x, update, weight] if bias is None else [x, update, weight, bias]
    dtype = context.precision.residual
    return context.builder.contrib(kind, *inputs, dtype=dtype, epsilon=parameters.epsilon)


def _weight_and_bias(context: GraphContext, parameters: Norm) -> tuple[ir.Value, ir.Value | None]:
    builder, dtype = context.builder, context.precision.residual
    weight = builder.weight(parameters.weight, "norm.weight", dtype)
    return weight, None if parameters.bias is None else builder.weight(parameters.bias, "norm.bias", dtype)


def _root_mean_square_norm(context: GraphContext, x: ir.Value, weight: ir.Value, epsilon: float) -> ir.Value:
    """Computes `x / sqrt(mean(x²) + epsilon) * weight`, the mean in float32.

    ONNX Runtime turns these operations into one, its SimplifiedLayerNormalization. That one is no operation of ai.onnx,
    where it is registered, and RMSNormalization comes with opset 23 only.
    """
    builder, dtype = context.builder, context.precision.residual
    exact = builder.cast(x, dtype, ir.DataType.FLOAT)  # squares overflow fp16 early
    square = builder.op("Pow", exact, builder.constant(2.0, np.float32))
    if context.opset < 18:
        mean = builder.op("ReduceMean", square, axes=[-1])
    else:
        mean = builder.op("ReduceMean", square, builder.integers(-1))
    root = builder.op("Sqrt", builder.op("Add", mean, builder.constant(epsilon, np.float32)))
    return builder.op("Mul", builder.cast(builder.op("Div", exact, root), ir.DataType.FLOAT, dtype), weight)
