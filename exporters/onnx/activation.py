"""Activations, in the matmul type."""

from __future__ import annotations

import math

import onnx_ir as ir

from exporters.errors import WriteError
from exporters.onnx.context import GraphContext
from exporters.onnx.precision import NUMPY_DTYPES


def _scalar(context: GraphContext, value: float) -> ir.Value:
    return context.builder.constant(value, NUMPY_DTYPES[context.precision.matmul])


def erf_gelu(context: GraphContext, x: ir.Value) -> ir.Value:
    """Computes `x / 2 * (1 + erf(x / sqrt(2)))` (Hendrycks and Gimpel 2016) in the order that ONNX Runtime fuses."""
    builder = context.builder
    inner = builder.op("Erf", builder.op("Div", x, _scalar(context, math.sqrt(2.0))))
    product = builder.op("Mul", x, builder.op("Add", inner, _scalar(context, 1.0)))
    return builder.op("Mul", product, _scalar(context, 0.5))


def contrib_gelu(context: GraphContext, x: ir.Value) -> ir.Value:
    """Computes the exact GELU by ONNX Runtime's own operation."""
    return context.builder.contrib("Gelu", x, dtype=context.precision.matmul)


def tanh_gelu(context: GraphContext, x: ir.Value) -> ir.Value:
    """Computes `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))` (Hendrycks and Gimpel 2016, section 2)."""
    builder = context.builder
    cube = builder.op("Mul", x, builder.op("Mul", x, x))
    inner = builder.op("Add", x, builder.op("Mul", cube, _scalar(context, 0.044715)))
    tanh = builder.op("Tanh", builder.op("Mul", inner, _scalar(context, math.sqrt(2.0 / math.pi))))
    product = builder.op("Mul", x, builder.op("Add", tanh, _scalar(context, 1.0)))
    return builder.op("Mul", product, _scalar(context, 0.5))


def activation(context: GraphContext, x: ir.Value, name: str) -> ir.Value:
    """Applies the activation that Hugging Face calls `name`.

    Raises:
        WriteError: there is no ONNX form for it.
    """
    builder = context.builder
    match name:
        case "gelu":
            return context.target.gelu(context, x)
        case "gelu_new" | "gelu_pytorch_tanh":
            return tanh_gelu(context, x)
        case "relu":
            return builder.op("Relu", x)
        case "silu" | "swish":
            return builder.op("Mul", x, builder.op("Sigmoid", x))
        case "tanh":
            return builder.op("Tanh", x)
    raise WriteError(f"no ONNX form for the activation '{name}'; add one in exporters/onnx/activation.py")
