"""ONNX Runtime's execution providers, each with everything that other modules know of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

ProviderName = Literal["cpu", "cuda"]


@dataclass(frozen=True, slots=True)
class Provider:
    """An execution provider. `name` is ours and PyTorch's name of the device; `onnxruntime` is ONNX Runtime's name.

    `options` are provider options under ONNX Runtime's names. `batch_tokens` is the best number of tokens in a batch,
    padding included: more only cost memory. `multiplies_int8`: 8-bit products are faster than floating-point ones.
    """

    name: ProviderName
    onnxruntime: str
    options: Mapping[str, str]
    batch_tokens: int
    multiplies_int8: bool


CPU = Provider("cpu", "CPUExecutionProvider", {}, batch_tokens=2048, multiplies_int8=True)

CUDA = Provider(
    "cuda",
    "CUDAExecutionProvider",
    # Otherwise float32 matrices are multiplied in TF32 on Ampere and later: 10 bits of mantissa, a thousand times the error
    # that fp32 promises here.
    {"use_tf32": "0"},
    batch_tokens=16384,
    multiplies_int8=False,
)

PROVIDERS: dict[str, Provider] = {provider.name: provider for provider in (CPU, CUDA)}
