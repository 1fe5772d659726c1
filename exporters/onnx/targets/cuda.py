"""ONNX Runtime's CUDA provider: its fused operations. The fused kernels need head sizes in multiples of 8."""

from exporters.onnx.activation import contrib_gelu
from exporters.onnx.attention import multi_head_attention
from exporters.onnx.context import Target
from exporters.onnx.norm import skip_layer_norm

CUDA = Target(
    name="cuda",
    provider="CUDAExecutionProvider",
    opset=17,
    sequence_first=False,
    head_alignment=8,
    attention=multi_head_attention,
    residual_norm=skip_layer_norm,
    gelu=contrib_gelu,
)
