"""In which floating-point types a graph stores and computes."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
import torch


@dataclass(frozen=True, slots=True)
class Precision:
    """`matmul`: weights, matrix products and activations. `accurate`: residual stream, norms, softmax, outputs."""

    name: str
    matmul: ir.DataType
    accurate: ir.DataType


FP32 = Precision("fp32", matmul=ir.DataType.FLOAT, accurate=ir.DataType.FLOAT)

# Norms and softmax sum over hundreds of terms, and the residual stream carries every layer's rounding to the end:
# these stay in fp32. Linears and attention's products are where the time and the bytes are.
FP16 = Precision("fp16", matmul=ir.DataType.FLOAT16, accurate=ir.DataType.FLOAT)

PRECISIONS: dict[str, Precision] = {precision.name: precision for precision in (FP32, FP16)}

TORCH_DTYPES: dict[ir.DataType, torch.dtype] = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.FLOAT16: torch.float16,
}
