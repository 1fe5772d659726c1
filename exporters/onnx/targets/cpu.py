"""ONNX Runtime's CPU provider.

Plain operations win there (benchmarks/blocks.py): hidden states as 2-D rows, so that ONNX Runtime does not turn Add +
LayerNormalization into its slower SkipLayerNormalization, and sequence-first, so that heads split with one axis moved.
"""

from exporters.onnx.activation import erf_gelu
from exporters.onnx.attention import plain_attention
from exporters.onnx.context import Target
from exporters.onnx.norm import add_then_norm
from exporters.session import SessionSettings

CPU = Target(
    name="cpu",
    provider="CPUExecutionProvider",
    opset=17,
    sequence_first=True,
    head_alignment=1,
    attention=plain_attention,
    residual_norm=add_then_norm,
    gelu=erf_gelu,
    # In 8 bits attention's scores, which stay in fp32, are what leaves the cache when batches are long.
    sessions={"int8": SessionSettings(tokens_at_once=1024)},
)
