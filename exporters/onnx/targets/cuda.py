"""ONNX Runtime's CUDA provider: its fused operations.

The fused attention kernels need head sizes in multiples of 8, and lengths in multiples of 8 (fp16) or 16 (fp32). Matrix
products in fp16 are fast where all sizes are multiples of 8: feed-forward columns are padded, too. Norms sum in fp32 inside
(microsoft/onnxruntime#28682, in 1.28), so that the residual stream is fp16, as PyTorch's is in half precision: no casts,
and half of the bytes. Together they halved the time of large batches on an H200 (benchmarks/results/cuda-2026-11-27).

CUDA_PACKED computes nothing for padding, which helps if lengths in a batch differ much and cannot be sorted. Its shapes
depend on the number of real tokens: CUDA graphs cannot capture it, and each run waits once for the device.
"""

from dataclasses import replace

from exporters import providers
from exporters.encoder import DotProduct
from exporters.onnx.activation import contrib_gelu
from exporters.onnx.attention import multi_head_attention, packed_multi_head_attention
from exporters.onnx.context import Target
from exporters.onnx.norm import skip_layer_norm
from exporters.session import SessionSettings

CUDA = Target(
    name="cuda",
    provider=providers.CUDA,
    opset=17,
    layout="batch-first",
    alignment=8,
    attention=multi_head_attention,
    residual_norm=skip_layer_norm,
    gelu=contrib_gelu,
    half_residual=True,
    rotary_embedding=True,
    sessions={"fp16": SessionSettings(length_multiple=8), "fp32": SessionSettings(length_multiple=16)},
)

CUDA_PACKED = replace(
    CUDA,
    name="cuda-packed",
    layout="packed",
    attention=packed_multi_head_attention,
    scores=(DotProduct,),
    sessions={},
    cuda_only=True,
)
