"""What every block's writer needs to know of the graph around it."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from exporters.onnx.builder import GraphBuilder
from exporters.onnx.precision import Precision
from exporters.onnx.target import Target


@dataclass(frozen=True, slots=True)
class Context:
    """One graph under construction. `batch` and `sequence` are int64 vectors of one element."""

    builder: GraphBuilder
    target: Target
    precision: Precision
    attention_mask: ir.Value  # int64 [batch, sequence]
    batch: ir.Value
    sequence: ir.Value
    shared: dict[str, ir.Value] = field(default_factory=dict)  # values that several layers use, made once

    def accurate(self, value: ir.Value) -> ir.Value:
        """A value of the matmul type in the accurate type."""
        return self.builder.cast(value, self.precision.matmul, self.precision.accurate)

    def matmul(self, value: ir.Value) -> ir.Value:
        """A value of the accurate type in the matmul type."""
        return self.builder.cast(value, self.precision.accurate, self.precision.matmul)
