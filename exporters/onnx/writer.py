"""The writer of a whole graph from an `Encoder`."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version

import onnx_ir as ir
from torch import Tensor

from exporters.encoder import (
    Attention,
    ConstantBlock,
    Embeddings,
    Encoder,
    FeedForward,
    Gated,
    Layer,
    Linear,
    Norm,
)
from exporters.errors import WriteError
from exporters.feeding import Limits
from exporters.kinds import check_kinds
from exporters.onnx.activation import activation
from exporters.onnx.alignment import align
from exporters.onnx.builder import CONTRIB, GraphBuilder
from exporters.onnx.context import GraphContext, Target
from exporters.onnx.embeddings import embeddings
from exporters.onnx.layout import first_tokens
from exporters.onnx.linear import linear, project
from exporters.onnx.norm import norm
from exporters.onnx.precision import Precision, Quantization
from exporters.onnx.task_heads import task_head

MIN_OPSET = 17  # LayerNormalization
MAX_OPSET = 24  # the newest that ONNX Runtime 1.31 accepts as released

# The ONNX IR version that first carried each opset (onnx, docs/Versioning.md); an older runtime refuses a newer one.
_IR_VERSIONS = {17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11, 24: 12}


def _attention(context: GraphContext, x: ir.Value, queries: ir.Value, block: Attention) -> ir.Value:
    """Returns what the block adds to the residual stream at the query positions, in the residual type."""
    inputs = context.to_matmul(x)
    contexts = context.target.attention(context, inputs, inputs if queries is x else context.to_matmul(queries), block)
    output = Linear(block.output_weight.flatten(1, 2), block.output_bias)
    return context.to_residual(linear(context, contexts, output, "output"))


def _feed_forward(context: GraphContext, x: ir.Value, block: FeedForward) -> ir.Value:
    """Returns what the block adds to the residual stream, in the residual type."""
    inputs = context.to_matmul(x)
    inner = linear(context, inputs, block.up, "up")
    if isinstance(block.gating, Gated):
        gate = activation(context, linear(context, inputs, block.gating.gate, "gate"), block.gating.activation)
        inner = context.builder.op("Mul", gate, inner)
    else:
        inner = activation(context, inner, block.gating.activation)
    return context.to_residual(linear(context, inner, block.down, "down"))


def _attention_block(context: GraphContext, x: ir.Value, layer: Layer, *, first_only: bool) -> ir.Value:
    """Computes `norm(skip @ x + block(input_norm(x)))`, with `first_only` at the first token alone."""

    def queries(states: ir.Value) -> ir.Value:
        return first_tokens(context, states, layer.widths[0]) if first_only else states

    block, asking = layer.attention, queries(x)
    past = _skip(context, asking, layer.attention_skip)
    if isinstance(block, ConstantBlock):
        return _constant_block(context, past, block, layer.attention_norm)
    inputs = _normalized(context, x, layer.attention_input_norm)
    asking = asking if inputs is x else queries(inputs)
    return _sum(context, past, _attention(context, inputs, asking, block), layer.attention_norm)


def _feed_forward_block(context: GraphContext, x: ir.Value, layer: Layer) -> ir.Value:
    """Computes `norm(skip @ x + block(input_norm(x)))`."""
    block, past = layer.feed_forward, _skip(context, x, layer.feed_forward_skip)
    if isinstance(block, ConstantBlock):
        return _constant_block(context, past, block, layer.feed_forward_norm)
    update = _feed_forward(context, _normalized(context, x, layer.feed_forward_input_norm), block)
    return _sum(context, past, update, layer.feed_forward_norm)


def _normalized(context: GraphContext, x: ir.Value, parameters: Norm | None) -> ir.Value:
    return x if parameters is None else norm(context, x, parameters)


def _sum(context: GraphContext, x: ir.Value, update: ir.Value, parameters: Norm | None) -> ir.Value:
    """Computes `norm(x + update)`, or the sum alone where there is no norm."""
    if parameters is None:
        return context.builder.op("Add", x, update)
    return context.target.residual_norm(context, x, update, parameters)


def _skip(context: GraphContext, x: ir.Value, skip: Tensor | None) -> ir.Value:
    """Returns the residual stream as it goes past a block, in the residual type."""
    return x if skip is None else context.to_residual(project(context, context.to_matmul(x), skip, "skip"))


def _constant_block(context: GraphContext, x: ir.Value, block: ConstantBlock, parameters: Norm | None) -> ir.Value:
    """Computes `norm(x + constant)`; nothing of it where there is no norm and the constant is zero."""
    if parameters is None and not block.bias.any():
        return x
    constant = context.builder.weight(block.bias, "constant", context.precision.residual)
    return _normalized(context, context.builder.op("Add", x, constant), parameters)


def _last_mixing(encoder: Encoder) -> int | None:
    """Returns the index of the layer from which on only the first token is read; None if the task reads every token.

    That is the last layer with attention, whose only query position is the first token: nothing after it mixes positions.
    It is 0 if no layer has attention.
    """
    if not encoder.head.reads_first_token_only:
        return None
    with_attention = [i for i, layer in enumerate(encoder.layers) if isinstance(layer.attention, Attention)]
    return with_attention[-1] if with_attention else 0


def quantizable_maps(encoder: Encoder) -> tuple[str, ...]:
    """Names the linear maps that int8 multiplies in integers by default, in the order of the graph."""
    names: list[str] = []
    if encoder.embeddings.projection is not None:
        names.append("embeddings/projection")
    for index, layer in enumerate(encoder.layers):
        if isinstance(layer.attention, Attention):
            names += [f"layer_{index}/attention/{part}" for part in ("query", "key", "value", "output")]
        if layer.attention_skip is not None:
            names.append(f"layer_{index}/attention/skip")
        if isinstance(layer.feed_forward, FeedForward):
            gate = ("gate",) if isinstance(layer.feed_forward.gating, Gated) else ()
            names += [f"layer_{index}/feed_forward/{part}" for part in ("up", *gate, "down")]
        if layer.feed_forward_skip is not None:
            names.append(f"layer_{index}/feed_forward/skip")
    return (*names, *(f"head/{part}" for part in encoder.head.quantizable))


def _for_head(context: GraphContext, encoder: Encoder) -> GraphContext:
    """Returns the context for the task head: a head without a map that can be quantized stays in floating point."""
    if encoder.head.quantizable:
        return context
    return replace(context, quantization=None, observed=None)


def check_opset(opset: int) -> None:
    """Refuses opsets that the graphs cannot be written in.

    Raises:
        WriteError: the opset is outside what is supported.
    """
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise WriteError(f"opset {opset} is not supported; expected {MIN_OPSET} to {MAX_OPSET}")


def check_scores(target: Target, layers: tuple[Layer, ...]) -> None:
    """Refuses kinds of attention scores that the target has no form for.

    Raises:
        WriteError: a layer has such a kind.
    """
    for index, layer in enumerate(layers):
        if isinstance(layer.attention, Attention) and not isinstance(layer.attention.scores, target.scores):
            raise WriteError(
                f"layer {index}: the target {target.name} has no form for scores of the kind "
                f"{type(layer.attention.scores).__name__}; expected {' or '.join(kind.__name__ for kind in target.scores)}. "
                "Use --target cuda"
            )


def check_precision(target: Target, precision: Precision) -> None:
    """Refuses what a target has no fast form for.

    Raises:
        WriteError: the CUDA provider multiplies no 8-bit matrices.
    """
    if precision.quantized and not target.provider.multiplies_int8:
        raise WriteError(
            f"{precision.name} is not for the target {target.name}: ONNX Runtime's CUDA provider has no fast 8-bit "
            "products. Use fp16 there, or --target portable with --calibration for TensorRT"
        )


DEFAULT_QUANTIZATION = Quantization()


def build(
    encoder: Encoder,
    target: Target,
    precision: Precision,
    *,
    opset: int | None = None,
    quantization: Quantization = DEFAULT_QUANTIZATION,
    observe: bool = False,
) -> ir.Model:
    """Writes `encoder` as an ONNX model for `target`; weights are views that are converted when the model is saved.

    Inputs are int64 `[batch_size, sequence_length]` under transformers' names, both dynamic; outputs are float32.
    `quantization` is for the precision int8. `observe` adds two outputs per linear map that could be quantized: the least
    and the largest value of its input (`<map>:min`, `<map>:max`, float32 scalars).

    Raises:
        WriteError: the opset is outside what is supported, or the target has no form for the precision or for the scores.
    """
    check_kinds(encoder.layers, "the ONNX writer")
    opset = target.opset if opset is None else opset
    check_opset(opset)
    check_precision(target, precision)
    check_scores(target, encoder.layers)
    if target.half_residual:
        precision = replace(precision, residual=precision.matmul)
    if unknown := sorted(quantization.keep_float - set(quantizable_maps(encoder))):
        raise WriteError(
            f"no linear map is called {', '.join(unknown)}; there are {', '.join(quantizable_maps(encoder))}"
        )
    encoder = align(encoder, target.alignment)
    builder = GraphBuilder()
    shape = ("batch_size", "sequence_length")
    inputs = {name: builder.input(name, ir.DataType.INT64, shape) for name in encoder.inputs}
    with builder.scope("inputs"):
        context = GraphContext(
            builder=builder,
            target=target,
            precision=precision,
            opset=opset,
            attention_mask=inputs["attention_mask"],
            batch=builder.op("Shape", inputs["input_ids"], start=0, end=1),
            sequence=builder.op("Shape", inputs["input_ids"], start=1, end=2),
            max_length=encoder.embeddings.max_length,
            quantization=quantization if precision.quantized else None,
            observed={} if observe else None,
        )
    with builder.scope("embeddings"):
        x = embeddings(context, encoder.embeddings, inputs["input_ids"], inputs.get("token_type_ids"))
    last_mixing = _last_mixing(encoder)
    first_only = (
        None if target.layout == "packed" else last_mixing
    )  # to packed attention, every token is a query position
    for index, layer in enumerate(encoder.layers):
        with builder.scope(f"layer_{index}/attention"):
            x = _attention_block(context, x, layer, first_only=index == first_only)
        with builder.scope(f"layer_{index}/feed_forward"):
            x = _feed_forward_block(context, x, layer)
    x = _normalized(context, x, encoder.final_norm)
    with builder.scope("head"):
        if first_only != last_mixing:
            x = first_tokens(context, x, encoder.widths[-1])
        task_head(_for_head(context, encoder), encoder, x)
    for name, value in (context.observed or {}).items():
        for end, operation in (("min", "ReduceMin"), ("max", "ReduceMax")):
            builder.output(builder.op(operation, value, keepdims=0), f"{name}:{end}", ir.DataType.FLOAT, ())
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
        graph,
        ir_version=_IR_VERSIONS[opset],
        producer_name="prune-export",
        producer_version=_own_version(),
        metadata_props=_limits(encoder.embeddings).to_metadata(),
    )


def _limits(embeddings: Embeddings) -> Limits:
    """Returns the ranges of the graph's tables: beyond them, some runtimes read other rows without an error."""
    return Limits(
        vocabulary=len(embeddings.word),
        positions=embeddings.max_length,
        token_types=embeddings.token_types,
        pad_token_id=embeddings.pad_token_id if embeddings.positions == "from_padding" else None,
    )


def _own_version() -> str:
    try:
        return version("prune-export")
    except PackageNotFoundError:  # run from a source tree
        return "unknown"
