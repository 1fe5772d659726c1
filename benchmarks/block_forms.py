"""Forms of blocks that no target uses, written to be measured beside those that do."""

from __future__ import annotations

import onnx_ir as ir
import torch
from torch import Tensor

from exporters.encoder import Attention
from exporters.onnx.builder import CONTRIB
from exporters.onnx.context import GraphContext


def attention_with_projections(context: GraphContext, x: ir.Value, queries: ir.Value, block: Attention) -> ir.Value:
    """ONNX Runtime's `Attention`: projections and products in one operation; `x` is `[batch, sequence, hidden]`."""
    del queries  # every position asks
    builder, width = context.builder, len(block.heads) * block.value_size
    weight = torch.cat([block.query_weight * block.scores.scale, block.key_weight, block.value_weight]).flatten(0, 1)
    biases = [block.query_bias * block.scores.scale, _bias(block.key_bias, block), _bias(block.value_bias, block)]
    mask = builder.op("Cast", context.attention_mask, to=int(ir.DataType.INT32))
    return builder.op(
        "Attention",
        x,
        builder.weight(weight, "qkv.weight", context.precision.matmul, Tensor.t),
        builder.weight(torch.cat([bias.flatten() for bias in biases]), "qkv.bias", context.precision.matmul),
        mask,
        domain=CONTRIB,
        num_heads=len(block.heads),
        qkv_hidden_sizes=[width, width, width],
        scale=1.0,
    )


def _bias(bias: Tensor | None, block: Attention) -> Tensor:
    return torch.zeros(len(block.heads) * block.value_size) if bias is None else bias.flatten()
