"""The whole graph from an Encoder."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version

import onnx_ir as ir

from exporters.encoder import Attention, ConstantBlock, Encoder, FeedForward, Layer, Linear, Norm, map_layers
from exporters.errors import WriteError
from exporters.onnx.activation import activation
from exporters.onnx.attention import align_heads
from exporters.onnx.builder import CONTRIB, GraphBuilder
from exporters.onnx.context import Context, Target
from exporters.onnx.embeddings import embeddings
from exporters.onnx.linear import linear
from exporters.onnx.norm import add_then_norm
from exporters.onnx.precision import Precision
from exporters.onnx.task_heads import task_head

MIN_OPSET = 17  # LayerNormalization
MAX_OPSET = 24  # the newest that ONNX Runtime 1.31 accepts as released

# The ONNX IR version that first carried each opset (onnx, docs/Versioning.md); an older runtime refuses a newer one.
_IR_VERSIONS = {17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11, 24: 12}


def _attention(context: Context, x: ir.Value, block: Attention) -> ir.Value:
    """What the block adds to the residual stream, in the accurate type."""
    contexts = context.target.attention(context, context.matmul(x), block)
    output = Linear(block.output_weight.flatten(1, 2), block.output_bias)
    return context.accurate(linear(context, contexts, output, "output"))


def _feed_forward(context: Context, x: ir.Value, block: FeedForward) -> ir.Value:
    """What the block adds to the residual stream, in the accurate type."""
    inner = activation(context, linear(context, context.matmul(x), block.up, "up"), block.activation)
    return context.accurate(linear(context, inner, block.down, "down"))


def _block(context: Context, x: ir.Value, block: Attention | FeedForward | ConstantBlock, norm: Norm) -> ir.Value:
    """`norm(x + block(x))`."""
    match block:
        case Attention():
            return context.target.residual_norm(context, x, _attention(context, x, block), norm)
        case FeedForward():
            return context.target.residual_norm(context, x, _feed_forward(context, x, block), norm)
        case ConstantBlock():
            constant = context.builder.weight(block.bias, "constant", context.precision.accurate)
            return add_then_norm(context, x, constant, norm)


def _align(layer: Layer, multiple: int) -> Layer:
    if not isinstance(layer.attention, Attention):
        return layer
    return replace(layer, attention=align_heads(layer.attention, multiple))


def check_opset(opset: int) -> None:
    """Refuses opsets that the graphs cannot be written in.

    Raises:
        WriteError: the opset is outside what is supported.
    """
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise WriteError(f"opset {opset} is not supported; expected {MIN_OPSET} to {MAX_OPSET}")


def build(encoder: Encoder, target: Target, precision: Precision, *, opset: int | None = None) -> ir.Model:
    """The ONNX model of `encoder` for `target`; weights are views that are converted when the model is saved.

    Inputs are int64 `[batch_size, sequence_length]` under transformers' names, both dynamic; outputs are float32.

    Raises:
        WriteError: the opset is outside what is supported.
    """
    opset = target.opset if opset is None else opset
    check_opset(opset)
    encoder = map_layers(encoder, lambda _, layer: _align(layer, target.head_alignment))
    builder = GraphBuilder()
    shape = ("batch_size", "sequence_length")
    inputs = {name: builder.input(name, ir.DataType.INT64, shape) for name in encoder.inputs}
    with builder.scope("inputs"):
        context = Context(
            builder=builder,
            target=target,
            precision=precision,
            attention_mask=inputs["attention_mask"],
            batch=builder.op("Shape", inputs["input_ids"], start=0, end=1),
            sequence=builder.op("Shape", inputs["input_ids"], start=1, end=2),
        )
    with builder.scope("embeddings"):
        x = embeddings(context, encoder.embeddings, inputs["input_ids"], inputs.get("token_type_ids"))
    for index, layer in enumerate(encoder.layers):
        with builder.scope(f"layer_{index}/attention"):
            x = _block(context, x, layer.attention, layer.attention_norm)
        with builder.scope(f"layer_{index}/feed_forward"):
            x = _block(context, x, layer.feed_forward, layer.feed_forward_norm)
    with builder.scope("head"):
        task_head(context, encoder, x)
    opsets = {"": opset} | ({CONTRIB: 1} if CONTRIB in builder.domains else {})
    graph = ir.Graph(
        builder.graph_inputs,
        builder.graph_outputs,
        nodes=builder.nodes,
        initializers=builder.initializers,
        opset_imports=opsets,
        name="encoder",
    )
    return ir.Model(
        graph, ir_version=_IR_VERSIONS[opset], producer_name="prune-export", producer_version=_own_version()
    )


def _own_version() -> str:
    try:
        return version("prune-export")
    except PackageNotFoundError:  # run from a source tree
        return "unknown"
