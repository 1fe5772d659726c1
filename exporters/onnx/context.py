"""What every block's writer needs to know: the target it writes for, and the graph around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from exporters.encoder import Attention, Norm
from exporters.onnx.builder import GraphBuilder
from exporters.onnx.layout import Layout
from exporters.onnx.precision import Precision, Quantization
from exporters.providers import Provider
from exporters.session import DEFAULT_SETTINGS, SessionSettings


@dataclass(frozen=True, slots=True)
class Target:
    """Forms chosen for one execution provider.

    `layout`: how hidden states travel (layout.py).
    `attention(context, x, asking, block)` returns the heads' joined contexts at the positions `asking`, before the output
    projection.
    `residual_norm(context, x, update, norm)` returns `norm(x + update)`.
    `gelu(context, x)` is the exact (erf) GELU.
    `alignment`: query/key sizes, value sizes and feed-forward columns are zero-padded to a multiple of it.
    `signed_activations`: in static quantization, activations are signed with zero point 0; otherwise unsigned.
    `half_residual`: in fp16 the residual stream is in fp16 as well, since the target's norms and softmax sum in fp32 inside.
    `cuda_only`: some of its operations have no kernel on CPUs, so that not even parity runs there.
    `sessions`: how graphs of a precision run fastest, by its name.
    """

    name: str
    provider: Provider
    opset: int
    layout: Layout
    alignment: int
    attention: Callable[[Context, ir.Value, ir.Value, Attention], ir.Value]
    residual_norm: Callable[[Context, ir.Value, ir.Value, Norm], ir.Value]
    gelu: Callable[[Context, ir.Value], ir.Value]
    signed_activations: bool = False
    half_residual: bool = False
    cuda_only: bool = False
    sessions: Mapping[str, SessionSettings] = field(default_factory=dict)

    def settings(self, precision: Precision, max_length: int) -> SessionSettings:
        """How this target's graphs of `precision` run fastest; `max_length` is the network's longest sequence."""
        found = self.sessions.get(precision.name, DEFAULT_SETTINGS)
        # There must be positions for the padding, too.
        return replace(found, length_multiple=1) if max_length % found.length_multiple else found


@dataclass(frozen=True, slots=True)
class Context:
    """One graph under construction. `batch` and `sequence` are int64 vectors of one element.

    `quantization` is None where all is floating point. `observed`, where it is there, collects the inputs of the linear
    maps that could be quantized, by the maps' names.
    """

    builder: GraphBuilder
    target: Target
    precision: Precision
    attention_mask: ir.Value  # int64 [batch, sequence]
    batch: ir.Value
    sequence: ir.Value
    quantization: Quantization | None = None
    observed: dict[str, ir.Value] | None = None
    shared: dict[str, ir.Value] = field(default_factory=dict)  # values that several layers use, made once

    def quantizes(self, label: str) -> bool:
        """Whether the linear map `label` of the current scope multiplies 8-bit integers."""
        return self.quantization is not None and self.builder.path(label) not in self.quantization.keep_float

    def accurate(self, value: ir.Value) -> ir.Value:
        """A value of the matmul type in the accurate type."""
        return self.builder.cast(value, self.precision.matmul, self.precision.accurate)

    def matmul(self, value: ir.Value) -> ir.Value:
        """A value of the accurate type in the matmul type."""
        return self.builder.cast(value, self.precision.accurate, self.precision.matmul)
