"""ONNX Runtime's CPU provider.

Its forms are the fastest there (benchmarks/blocks.py): hidden states as 2-D rows, so that ONNX Runtime does not turn Add +
LayerNormalization into its slower SkipLayerNormalization, and attention as one operation with its projections in it.
"""

from exporters import providers
from exporters.onnx.activation import erf_gelu
from exporters.onnx.attention import fused_attention
from exporters.onnx.context import Target
from exporters.onnx.norm import add_then_norm
from exporters.session import SessionSettings

CPU = Target(
    name="cpu",
    provider=providers.CPU,
    opset=17,
    layout="rows",
    alignment=1,
    attention=fused_attention,
    residual_norm=add_then_norm,
    gelu=erf_gelu,
    rotary_embedding=True,
    # Costs no time, and bounds the memory of attention's scores.
    sessions={name: SessionSettings(tokens_at_once=2048) for name in ("fp32", "int8")},
)
