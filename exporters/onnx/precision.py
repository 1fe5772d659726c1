"""In which floating-point types a graph stores and computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch


@dataclass(frozen=True, slots=True)
class Precision:
    """`matmul`: weights, matrix products and activations. `accurate`: residual stream and norms.

    `quantized`: linear maps multiply 8-bit integers instead, and give the matmul type.
    """

    name: str
    matmul: ir.DataType
    accurate: ir.DataType
    quantized: bool = False


FP32 = Precision("fp32", matmul=ir.DataType.FLOAT, accurate=ir.DataType.FLOAT)

# Norms and softmax sum over hundreds of terms, and the residual stream carries every layer's rounding to the end:
# these stay in fp32. Linears and attention's products are where the time and the bytes are. A target may have kernels that
# sum in fp32 between fp16 inputs and outputs (`Target.half_residual`).
FP16 = Precision("fp16", matmul=ir.DataType.FLOAT16, accurate=ir.DataType.FLOAT)

# The linear maps of the layers, which are nearly all of the time; everything between them stays in fp32.
INT8 = Precision("int8", matmul=ir.DataType.FLOAT, accurate=ir.DataType.FLOAT, quantized=True)

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
    """What a quantized graph does beyond the default.

    Linear maps go by their place in the graph: `layer_3/feed_forward/down`.
    """

    keep_float: frozenset[str] = frozenset()  # maps that stay in fp32
    embeddings: bool = False  # whether word embeddings are stored in 8 bits, one scale a word
    ranges: Mapping[str, tuple[float, float]] | None = None  # of each map's input; None: found anew for every input
