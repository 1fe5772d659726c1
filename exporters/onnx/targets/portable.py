"""Any runtime: ai.onnx operations only, in the shapes that graph optimizers know."""

from exporters import providers
from exporters.onnx.activation import erf_gelu
from exporters.onnx.attention import plain_attention
from exporters.onnx.context import Target
from exporters.onnx.norm import add_then_norm

PORTABLE = Target(
    name="portable",
    provider=providers.CPU,
    opset=17,
    layout="batch-first",
    alignment=1,
    attention=plain_attention,
    residual_norm=add_then_norm,
    gelu=erf_gelu,
    signed_activations=True,  # all that TensorRT takes
)
