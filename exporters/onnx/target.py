"""What a target is: the forms in which the writer puts each block down, and what runs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

if TYPE_CHECKING:
    from exporters.encoder import Attention, Norm
    from exporters.onnx.context import Context


@dataclass(frozen=True, slots=True)
class Target:
    """Forms chosen for one execution provider.

    `sequence_first`: hidden states travel as rows `[sequence * batch, hidden]`; otherwise `[batch, sequence, hidden]`.
    `attention(context, x, block)` returns the heads' joined contexts, before the output projection.
    `residual_norm(context, x, update, norm)` returns `norm(x + update)`.
    `gelu(context, x)` is the exact (erf) GELU.
    `head_alignment`: query/key and value sizes are zero-padded to a multiple of it.
    """

    name: str
    provider: str
    opset: int
    sequence_first: bool
    head_alignment: int
    attention: Callable[[Context, ir.Value, Attention], ir.Value]
    residual_norm: Callable[[Context, ir.Value, ir.Value, Norm], ir.Value]
    gelu: Callable[[Context, ir.Value], ir.Value]
