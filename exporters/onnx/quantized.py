"""Products with 8-bit integers.

Weights are signed, with one scale per output feature and zero point 0. Activations have one scale and zero point per
tensor, in one of two ways (onnxruntime.ai/docs/performance/model-optimizations/quantization.html):

* dynamic: unsigned, with the range of each input: DynamicQuantizeLinear, MatMulInteger, Cast and Mul, the pattern that
  ONNX Runtime's CPU provider turns into one operation;
* static: with the ranges of calibration data, as QuantizeLinear and DequantizeLinear around an ordinary MatMul; signed
  with zero point 0, or unsigned, as the target takes them.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from exporters.onnx.builder import transposed
from exporters.onnx.context import GraphContext

LEVELS = 127  # symmetric: -128 is not used


def weight_scales(weight: Tensor) -> Tensor:
    """Returns the scale of each output feature of `weight` `[out_features, in_features]`: `[out_features]`."""
    largest = weight.abs().amax(dim=1)
    return torch.where(largest > 0, largest, 1.0) / LEVELS


def quantized_rows(weight: Tensor) -> Tensor:
    """Divides `weight` `[out_features, in_features]` by its scales and rounds to nearest: int8 of the same shape."""
    return torch.round(weight / weight_scales(weight)[:, None]).to(torch.int8)


def quantized_matrix(weight: Tensor) -> Tensor:
    """Returns `quantized_rows` transposed, as MatMul takes them: int8 `[in_features, out_features]`."""
    return transposed(quantized_rows(weight))


def quantized_product(
    context: GraphContext, x: ir.Value, weight: Tensor, label: str, *, constant_scale: float = 1.0
) -> ir.Value:
    """Multiplies `x @ weight.T` in integers, with a float32 result; `x` is float32 `[..., in_features]`."""
    assert context.quantization is not None
    builder, ranges = context.builder, context.quantization.ranges
    matrix = builder.weight(weight, f"{label}.weight_int8", ir.DataType.INT8, quantized_matrix)
    scales = builder.weight(
        weight, f"{label}.weight_scale", ir.DataType.FLOAT, weight_scales, constant_scale=constant_scale
    )
    if ranges is not None:
        restored = builder.op("DequantizeLinear", matrix, scales, axis=1)
        return builder.op("MatMul", _rounded(context, x, ranges[builder.path(label)]), restored)
    integers, scale, zero = quantized_input(context, x)
    product = builder.op("Cast", builder.op("MatMulInteger", integers, matrix, zero), to=int(ir.DataType.FLOAT))
    return builder.op("Mul", product, builder.op("Mul", scale, scales))


def quantized_input(context: GraphContext, x: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Returns `x` as uint8, its scale and its zero point; made once for all products that read `x`."""
    names = [f"{part}:{x.name}" for part in ("steps", "scale", "zero")]
    if names[0] not in context.shared:
        outputs = context.builder.op_outputs("DynamicQuantizeLinear", x, count=3)
        context.shared.update(zip(names, outputs, strict=True))
    integers, scale, zero = (context.shared[name] for name in names)
    return integers, scale, zero


def _rounded(context: GraphContext, x: ir.Value, observed: tuple[float, float]) -> ir.Value:
    """Rounds `x` to 8 bits and back; made once for all products that read `x`."""
    name = f"rounded:{x.name}"
    if name not in context.shared:
        builder = context.builder
        scale, zero = _scale_and_zero_point(observed, signed=context.target.signed_activations)
        parameters = builder.constant(scale, np.float32), builder.constant(zero, type(zero))
        integers = builder.op("QuantizeLinear", x, *parameters)
        context.shared[name] = builder.op("DequantizeLinear", integers, *parameters)
    return context.shared[name]


def _scale_and_zero_point(observed: tuple[float, float], *, signed: bool) -> tuple[float, np.int8 | np.uint8]:
    """Returns the scale and zero point that cover the range `observed` and zero."""
    low, high = min(observed[0], 0.0), max(observed[1], 0.0)
    if signed:
        return (max(-low, high) or 1.0) / LEVELS, np.int8(0)
    scale = (high - low or 1.0) / 255
    return scale, np.uint8(round(-low / scale))


def quantized_lookup(context: GraphContext, table: Tensor, ids: ir.Value, label: str) -> ir.Value:
    """Looks up the rows `ids` `[...]` of `table` `[rows, features]`, stored in 8 bits with one scale per row.

    Returns:
        float32 `[..., features]`.
    """
    builder = context.builder
    integers = builder.weight(table, f"{label}.weight_int8", ir.DataType.INT8, quantized_rows)
    scales = builder.weight(table, f"{label}.weight_scale", ir.DataType.FLOAT, weight_scales)
    rows = builder.op("Cast", builder.op("Gather", integers, ids, axis=0), to=int(ir.DataType.FLOAT))
    scale = builder.op("Unsqueeze", builder.op("Gather", scales, ids, axis=0), builder.integers(-1))
    return builder.op("Mul", rows, scale)
