"""Forms of blocks that no target uses, written to be measured beside those that do."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir
import torch
from torch import Tensor

from exporters.encoder import Attention, Linear
from exporters.onnx import attention
from exporters.onnx.builder import CONTRIB
from exporters.onnx.context import Context
from exporters.onnx.linear import linear, project


def mask_in_product(context: Context, x: ir.Value, asking: ir.Value, block: Attention) -> ir.Value:
    """Plain attention, sequence-first, whose mask is one more query/key dimension: 1 in every query, the mask in every key.

    Exact, and saves a pass over the scores.
    """
    builder, heads = context.builder, len(block.heads)
    query = _with_rows(block.query_weight, 0.0), _with_rows(block.query_bias, 1.0 / block.scale)
    wider = linear_of(replace(block, query_weight=query[0], query_bias=query[1]))
    scaled = Linear(wider.weight * block.scale, wider.bias * block.scale)
    queries = linear(context, asking, scaled, "query")
    keys = project(context, x, block.key_weight.flatten(0, 1), "key")
    values = linear(context, x, Linear(block.value_weight.flatten(0, 1), _bias(block.value_bias, block)), "value")

    def split(rows: ir.Value, size: int) -> ir.Value:
        return builder.op("Reshape", rows, builder.shape_of(context.sequence, -1, heads, size))

    mask = builder.op("Squeeze", attention.additive_mask(context), builder.integers(1, 2))  # [batch, sequence]
    mask = builder.op("Unsqueeze", builder.op("Transpose", mask, perm=[1, 0]), builder.integers(2, 3))
    mask = builder.op("Expand", mask, builder.integers(1, 1, heads, 1))  # [sequence, batch, heads, 1]
    keys = builder.op("Concat", split(keys, block.query_key_size), mask, axis=3)
    scores = builder.op(
        "MatMul",
        builder.op("Transpose", split(queries, block.query_key_size + 1), perm=[1, 2, 0, 3]),
        builder.op("Transpose", keys, perm=[1, 2, 3, 0]),
    )
    weights = builder.op("Softmax", scores, axis=-1)
    by_head = builder.op("Transpose", split(values, block.value_size), perm=[1, 2, 0, 3])
    contexts = builder.op("Transpose", builder.op("MatMul", weights, by_head), perm=[2, 0, 1, 3])
    return builder.op("Reshape", contexts, builder.integers(-1, heads * block.value_size))


def packed_attention(context: Context, x: ir.Value, asking: ir.Value, block: Attention) -> ir.Value:
    """ONNX Runtime's `Attention`: projections and products in one operation; `x` is `[batch, sequence, hidden]`."""
    del asking  # every position asks
    builder, width = context.builder, len(block.heads) * block.value_size
    weight = torch.cat([block.query_weight * block.scale, block.key_weight, block.value_weight]).flatten(0, 1)
    biases = [block.query_bias * block.scale, _bias(block.key_bias, block), _bias(block.value_bias, block)]
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


def linear_of(block: Attention) -> Linear:
    """The queries' linear map."""
    return Linear(block.query_weight.flatten(0, 1), block.query_bias.flatten())


def _bias(bias: Tensor | None, block: Attention) -> Tensor:
    return torch.zeros(len(block.heads) * block.value_size) if bias is None else bias.flatten()


def _with_rows(tensor: Tensor, value: float) -> Tensor:
    """One more row a head, filled with `value`."""
    shape = (tensor.shape[0], 1, *tensor.shape[2:])
    return torch.cat([tensor, tensor.new_full(shape, value)], dim=1)
