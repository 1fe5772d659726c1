"""Embeddings: token ids become hidden states."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from torch import Tensor

from exporters.encoder import Embeddings
from exporters.onnx.context import GraphContext
from exporters.onnx.distances import token_mask
from exporters.onnx.layout import enter
from exporters.onnx.linear import linear
from exporters.onnx.norm import norm
from exporters.onnx.quantized import quantized_lookup


def _positions_from_padding(context: GraphContext, input_ids: ir.Value, pad_token_id: int) -> ir.Value:
    """Returns RoBERTa's position ids: `pad + cumsum(is_token) * is_token`."""
    builder = context.builder
    padding = builder.op("Equal", input_ids, builder.constant(pad_token_id, np.int64))
    is_token = builder.op("Cast", builder.op("Not", padding), to=int(ir.DataType.INT64))
    count = builder.op("CumSum", is_token, builder.constant(1, np.int64))
    return builder.op("Add", builder.op("Mul", count, is_token), builder.constant(pad_token_id, np.int64))


def _position_rows(
    context: GraphContext, positions: Tensor, input_ids: ir.Value, *, pad_token_id: int | None
) -> ir.Value:
    """Returns position rows that broadcast against the word rows; with `pad_token_id` they are counted from padding."""
    builder = context.builder
    table = builder.weight(positions, "position.weight", context.precision.matmul)
    if pad_token_id is not None:
        ids = _positions_from_padding(context, input_ids, pad_token_id)
        return builder.op("Gather", table, ids, axis=0)
    return builder.op("Slice", table, builder.integers(0), context.sequence, builder.integers(0))


def _word_rows(context: GraphContext, table: Tensor, ids: ir.Value) -> ir.Value:
    if context.quantization is not None and context.quantization.embeddings:
        return quantized_lookup(context, table, ids, "word")
    weight = context.builder.weight(table, "word.weight", context.precision.matmul)
    return context.to_residual(context.builder.op("Gather", weight, ids, axis=0))


def embeddings(
    context: GraphContext, parameters: Embeddings, input_ids: ir.Value, token_type_ids: ir.Value | None
) -> ir.Value:
    """Returns the hidden states before the first layer, in the target's layout and the residual type."""
    builder = context.builder
    x = _word_rows(context, parameters.word, input_ids)
    if parameters.position is not None:
        pad_token_id = parameters.pad_token_id if parameters.positions == "from_padding" else None
        rows = _position_rows(context, parameters.position, input_ids, pad_token_id=pad_token_id)
        x = builder.op("Add", x, context.to_residual(rows))
    if parameters.token_type is not None:
        rows = builder.weight(parameters.token_type, "token_type.weight", context.precision.matmul)
        if token_type_ids is not None:  # otherwise there is one row, that of every token
            rows = builder.op("Gather", rows, token_type_ids, axis=0)
        x = builder.op("Add", x, context.to_residual(rows))
    x = enter(context, x, parameters.word.shape[1])
    if parameters.norm is not None:
        x = norm(context, x, parameters.norm)
    if parameters.masked and context.target.layout != "packed":  # which has no padding
        mask = token_mask(context, context.precision.residual, first_only=False)
        x = builder.op("Mul", x, enter(context, mask, 1))
    if parameters.projection is not None:
        x = context.to_residual(linear(context, context.to_matmul(x), parameters.projection, "projection"))
    return x
