"""Task heads: the last hidden states to named outputs."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporters.encoder import Encoder, FeatureHead, MaskedLanguageHead, SequenceHead, SpanHead, TokenHead
from exporters.onnx.activation import activation
from exporters.onnx.context import Context
from exporters.onnx.linear import linear
from exporters.onnx.norm import norm


def _batch_first(context: Context, x: ir.Value, width: int) -> ir.Value:
    """`[batch, sequence, width]` from the target's layout."""
    if not context.target.sequence_first:
        return x
    builder = context.builder
    rows = builder.op("Reshape", x, builder.shape_of(context.sequence, -1, width))
    return builder.op("Transpose", rows, perm=[1, 0, 2])


def first_tokens(context: Context, x: ir.Value) -> ir.Value:
    """The first token of each sequence, in the target's layout: `[batch, hidden]` or `[batch, 1, hidden]`."""
    builder = context.builder
    if context.target.sequence_first:
        return builder.op("Slice", x, builder.integers(0), context.batch, builder.integers(0))
    return builder.op("Slice", x, builder.integers(0), builder.integers(1), builder.integers(1))


def _decoder(context: Context, x: ir.Value, head: MaskedLanguageHead) -> ir.Value:
    """`x @ embeddings.T + bias` with the word embeddings as they are stored: one Gemm that reads them transposed."""
    if context.quantizes("decoder") or context.observed is not None:
        return linear(context, x, head.decoder, "decoder")
    builder, dtype = context.builder, context.precision.matmul
    vocabulary, width = head.decoder.weight.shape
    rows = builder.op("Reshape", x, builder.integers(-1, width))
    table = builder.weight(head.decoder.weight, "decoder.weight", dtype)
    bias = builder.weight(head.decoder.bias, "decoder.bias", dtype)
    logits = builder.op("Gemm", rows, table, bias, transB=1)
    return builder.op("Reshape", logits, builder.shape_of(context.batch, -1, vocabulary))


def task_head(context: Context, encoder: Encoder, x: ir.Value) -> None:
    """Adds the outputs of the encoder's task to the graph; all are of the accurate type.

    `x` holds every position, or for text classification the first tokens (as from `first_tokens`).
    """
    builder, dtype, head = context.builder, context.precision.accurate, encoder.head
    by_token = ("batch_size", "sequence_length")
    match head:
        case FeatureHead():
            states = builder.op("Identity", _batch_first(context, x, encoder.hidden_size))
            builder.output(states, "last_hidden_state", dtype, (*by_token, encoder.hidden_size))
        case TokenHead():
            logits = context.accurate(linear(context, context.matmul(x), head.output, "output"))
            labels = head.output.weight.shape[0]
            logits = builder.op("Identity", _batch_first(context, logits, labels))
            builder.output(logits, "logits", dtype, (*by_token, labels))
        case SpanHead():
            logits = context.accurate(linear(context, context.matmul(x), head.output, "output"))
            logits = _batch_first(context, logits, 2)
            for name, index in (("start_logits", 0), ("end_logits", 1)):
                builder.output(
                    builder.op("Gather", logits, builder.constant(index, np.int64), axis=2), name, dtype, by_token
                )
        case SequenceHead():
            first = x if context.target.sequence_first else builder.op("Squeeze", x, builder.integers(1))
            pooled = linear(context, context.matmul(first), head.dense, "dense")
            pooled = activation(context, pooled, head.activation)
            logits = builder.op("Identity", context.accurate(linear(context, pooled, head.output, "output")))
            builder.output(logits, "logits", dtype, ("batch_size", head.output.weight.shape[0]))
        case MaskedLanguageHead():
            states = context.matmul(_batch_first(context, x, encoder.hidden_size))
            states = activation(context, linear(context, states, head.dense, "dense"), head.activation)
            states = context.matmul(norm(context, context.accurate(states), head.norm))
            logits = context.accurate(_decoder(context, states, head))
            logits = builder.op("Identity", logits)
            builder.output(logits, "logits", dtype, (*by_token, head.decoder.weight.shape[0]))
