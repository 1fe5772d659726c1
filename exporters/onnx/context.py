"""The target that a graph is written for, and the graph under construction: every writer of a block takes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import onnx_ir as ir

from exporters.encoder import Attention, AttentionScores, Norm
from exporters.onnx.builder import GraphBuilder
from exporters.onnx.precision import Precision, Quantization
from exporters.providers import Provider
from exporters.session import DEFAULT_SETTINGS, SessionSettings

Layout = Literal["batch-first", "rows", "packed"]
"""The layouts in which hidden states travel through a graph:

* "batch-first": `[batch, sequence, features]`;
* "rows": `[batch * sequence, features]`; with it, ONNX Runtime does not turn Add + LayerNormalization, which is faster on
  CPUs, into its SkipLayerNormalization;
* "packed": `[tokens, features]`, the rows of real tokens only (packing.py).
"""


@dataclass(frozen=True, slots=True)
class Target:
    """The forms of a graph's blocks that suit one execution provider.

    `attention(context, x, queries, block)` returns the heads' joined contexts at the query positions, before the output
    projection.
    `residual_norm(context, x, update, norm)` returns `norm(x + update)`.
    `gelu(context, x)` is the exact (erf) GELU.
    `alignment`: query/key sizes, value sizes and feed-forward columns are zero-padded to its multiples.
    `signed_activations`: in static quantization, activations are signed with zero point 0; otherwise unsigned.
    `half_residual`: in fp16 the residual stream is in fp16 as well, since the target's norms and softmax sum in fp32 inside.
    `rotary_embedding`: ONNX Runtime's RotaryEmbedding is used.
    `scores`: the kinds of scores that `attention` has a form for.
    `cuda_only`: some of its operations have no kernel on CPUs, so that not even parity runs there.
    `sessions`: the settings with which graphs run fastest, by the name of their precision.
    """

    name: str
    provider: Provider
    opset: int
    layout: Layout
    alignment: int
    attention: Callable[[GraphContext, ir.Value, ir.Value, Attention], ir.Value]
    residual_norm: Callable[[GraphContext, ir.Value, ir.Value, Norm], ir.Value]
    gelu: Callable[[GraphContext, ir.Value], ir.Value]
    signed_activations: bool = False
    half_residual: bool = False
    rotary_embedding: bool = False
    scores: tuple[type[AttentionScores], ...] = (AttentionScores,)
    cuda_only: bool = False
    sessions: Mapping[str, SessionSettings] = field(default_factory=dict)

    def settings(self, precision: Precision, max_length: int) -> SessionSettings:
        """Returns the settings with which graphs of `precision` run fastest.

        `max_length` is the network's longest sequence, in tokens.
        """
        settings = self.sessions.get(precision.name, DEFAULT_SETTINGS)
        # The padding needs positions, too.
        return replace(settings, length_multiple=1) if max_length % settings.length_multiple else settings


@dataclass(frozen=True, slots=True)
class GraphContext:
    """One graph under construction, in the operations of `opset`. `batch` and `sequence` are int64 vectors of one element.

    `quantization` is None where everything is floating point. `observed`, if given, collects the inputs of the linear maps
    that could be quantized, by the maps' names.
    """

    builder: GraphBuilder
    target: Target
    precision: Precision
    opset: int
    attention_mask: ir.Value  # int64 [batch, sequence]
    batch: ir.Value
    sequence: ir.Value
    max_length: int  # the longest sequence, in tokens
    quantization: Quantization | None = None
    observed: dict[str, ir.Value] | None = None
    shared: dict[str, ir.Value] = field(default_factory=dict)  # values that several layers use

    def branch(self) -> GraphContext:
        """Returns the context for a branch of the graph, whose values are not seen outside of it."""
        return replace(self, shared=dict(self.shared))

    def quantizes(self, label: str) -> bool:
        """Says whether the linear map `label` of the current scope multiplies 8-bit integers."""
        return self.quantization is not None and self.builder.path(label) not in self.quantization.keep_float

    def to_residual(self, value: ir.Value) -> ir.Value:
        """Casts `value` from the matmul type to the residual type."""
        return self.builder.cast(value, self.precision.matmul, self.precision.residual)

    def to_matmul(self, value: ir.Value) -> ir.Value:
        """Casts `value` from the residual type to the matmul type."""
        return self.builder.cast(value, self.precision.residual, self.precision.matmul)
