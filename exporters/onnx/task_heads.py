"""Task heads: the last hidden states become named outputs."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporters.encoder import (
    Encoder,
    FeatureHead,
    MaskedLanguageHead,
    SequenceHead,
    SpanHead,
    TokenHead,
    Transform,
)
from exporters.onnx.activation import activation
from exporters.onnx.context import GraphContext
from exporters.onnx.layout import leave
from exporters.onnx.linear import linear
from exporters.onnx.norm import norm


def _decoder(context: GraphContext, x: ir.Value, head: MaskedLanguageHead) -> ir.Value:
    """Computes `x @ embeddings.T + bias` by one Gemm that reads the stored word embeddings transposed.

    `x` and the result are in the target's layout.
    """
    if context.quantizes("decoder") or context.observed is not None:
        return linear(context, x, head.decoder, "decoder")
    builder, dtype = context.builder, context.precision.matmul
    vocabulary, width = head.decoder.weight.shape
    batch_first = context.target.layout == "batch-first"
    rows = builder.op("Reshape", x, builder.integers(-1, width)) if batch_first else x
    table = builder.weight(head.decoder.weight, "decoder.weight", dtype)
    bias = [] if head.decoder.bias is None else [builder.weight(head.decoder.bias, "decoder.bias", dtype)]
    logits = builder.op("Gemm", rows, table, *bias, transB=1)
    return builder.op("Reshape", logits, builder.shape_of(context.batch, -1, vocabulary)) if batch_first else logits


def _float32(context: GraphContext, value: ir.Value) -> ir.Value:
    """Casts `value` from the residual type to float32."""
    return context.builder.cast(value, context.precision.residual, ir.DataType.FLOAT)


def _transformed(context: GraphContext, x: ir.Value, transform: Transform | None) -> ir.Value:
    """Computes `norm(activation(dense(x)))`, of `x` in the residual type, in the matmul type."""
    x = context.to_matmul(x)
    if transform is None:
        return x
    states = activation(context, linear(context, x, transform.dense, "dense"), transform.activation)
    return (
        states
        if transform.norm is None
        else context.to_matmul(norm(context, context.to_residual(states), transform.norm))
    )


def _mean(context: GraphContext, x: ir.Value, width: int) -> ir.Value:
    """Returns the mean of the states of attended tokens, `[batch, width]`, summed in float32."""
    builder, dtype = context.builder, context.precision.residual
    states = builder.cast(leave(context, x, width), dtype, ir.DataType.FLOAT)
    attended = builder.op("Cast", context.attention_mask, to=int(ir.DataType.FLOAT))
    rows = builder.op("Unsqueeze", attended, builder.integers(1))  # [batch, 1, sequence]
    total = builder.op("Squeeze", builder.op("MatMul", rows, states), builder.integers(1))
    count = builder.op("ReduceSum", attended, builder.integers(1), keepdims=1)
    return builder.cast(builder.op("Div", total, count), ir.DataType.FLOAT, dtype)


def task_head(context: GraphContext, encoder: Encoder, x: ir.Value) -> None:
    """Adds the outputs of the encoder's task to the graph; all are float32.

    `x` holds the hidden states of every position, or for text classification those of `first_tokens`.
    """
    builder, dtype, head = context.builder, ir.DataType.FLOAT, encoder.head
    by_token = ("batch_size", "sequence_length")
    match head:
        case FeatureHead():
            width = encoder.widths[-1]
            if head.output is not None:
                width = head.output.weight.shape[0]
                x = context.to_residual(linear(context, context.to_matmul(x), head.output, "output"))
            states = builder.op("Identity", _float32(context, leave(context, x, width)))
            builder.output(states, head.outputs[0], dtype, (*by_token, width))
        case TokenHead():
            states = _transformed(context, x, head.transform)
            logits = context.to_residual(linear(context, states, head.output, "output"))
            labels = head.output.weight.shape[0]
            logits = builder.op("Identity", _float32(context, leave(context, logits, labels)))
            builder.output(logits, head.outputs[0], dtype, (*by_token, labels))
        case SpanHead():
            states = _transformed(context, x, head.transform)
            logits = context.to_residual(linear(context, states, head.output, "output"))
            logits = _float32(context, leave(context, logits, 2))
            for index, name in enumerate(head.outputs):
                builder.output(
                    builder.op("Gather", logits, builder.constant(index, np.int64), axis=2), name, dtype, by_token
                )
        case SequenceHead():
            if head.pooling == "mean":
                x = _mean(context, x, encoder.widths[-1])
            elif head.pooling == "first" and context.target.layout == "batch-first":
                x = builder.op("Squeeze", x, builder.integers(1))
            states = _transformed(context, x, Transform(head.dense, head.activation, head.norm))
            if head.pooling == "late":
                states = context.to_matmul(_mean(context, context.to_residual(states), len(head.dense.weight)))
            logits = context.to_residual(linear(context, states, head.output, "output"))
            logits = builder.op("Identity", _float32(context, logits))
            builder.output(logits, head.outputs[0], dtype, ("batch_size", head.output.weight.shape[0]))
        case MaskedLanguageHead():
            states = _transformed(context, x, head.transform)
            logits = context.to_residual(_decoder(context, states, head))
            vocabulary = head.decoder.weight.shape[0]
            logits = builder.op("Identity", _float32(context, leave(context, logits, vocabulary)))
            builder.output(logits, head.outputs[0], dtype, (*by_token, vocabulary))
