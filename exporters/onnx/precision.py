"""The number types in which a graph stores and computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch


@dataclass(frozen=True, slots=True)
class Precision:
    """The types of a graph's values.

    `matmul` is the type of weights, matrix products and activations, `residual` that of the residual stream and the norms.
    `quantized`: linear maps multiply 8-bit integers instead, and return the matmul type.
    """

    name: str
    matmul: ir.DataType
    residual: ir.DataType
    quantized: bool = False


FP32 = Precision("fp32", matmul=ir.DataType.FLOAT, residual=ir.DataType.FLOAT)

# Norms and softmax sum over hundreds of terms, and the residual stream carries every layer's rounding to the end:
# these stay in fp32. Linear maps and attention's products take the time and the bytes. A target may have kernels that
# sum in fp32 between fp16 inputs and outputs (`Target.half_residual`).
FP16 = Precision("fp16", matmul=ir.DataType.FLOAT16, residual=ir.DataType.FLOAT)

# The linear maps of the layers, which take nearly all of the time; everything between them stays in fp32.
INT8 = Precision("int8", matmul=ir.DataType.FLOAT, residual=ir.DataType.FLOAT, quantized=True)

PRECISIONS: dict[str, Precision] = {precision.name: precision for precision in (FP32, FP16, INT8)}

TORCH_DTYPES: dict[ir.DataType, torch.dtype] = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.INT8: torch.int8,
}

NUMPY_DTYPES: dict[ir.DataType, type[np.floating[Any]]] = {
    ir.DataType.FLOAT: np.float32,
    ir.DataType.FLOAT16: np.float16,
}


@dataclass(frozen=True, slots=True)
class Quantization:
    """The options of a quantized graph. Linear maps are named by their path in the graph: `layer_3/feed_forward/down`."""

    keep_float: frozenset[str] = frozenset()  # maps that stay in fp32
    embeddings: bool = False  # whether word embeddings are stored in 8 bits, with one scale per word
    ranges: Mapping[str, tuple[float, float]] | None = None  # of each map's input; None: measured at each run
