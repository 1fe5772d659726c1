"""ONNX Runtime's execution providers, each with everything that other modules know of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from exporters.errors import ProviderError, UsageError

ProviderName = Literal["cpu", "cuda"]


@dataclass(frozen=True, slots=True)
class Provider:
    """One provider, and the device that it stands for.

    `name` is what users say, `onnxruntime` ONNX Runtime's name. `device` is what PyTorch, and ONNX Runtime for its buffers,
    call the device. `is_gpu`: its libraries are loaded first, and PyTorch's work there goes on after a call has returned.

    `options` are provider options under ONNX Runtime's names; `graph_options` those with which it captures CUDA graphs,
    empty where there are none. `batch_tokens` is how many tokens, padding included, a batch holds at best: more only cost
    memory. `multiplies_int8`: 8-bit products are faster than floating-point ones.
    """

    name: ProviderName
    onnxruntime: str
    device: str
    is_gpu: bool
    options: Mapping[str, str]
    graph_options: Mapping[str, str]
    batch_tokens: int
    multiplies_int8: bool

    def check_torch(self, option: str = "--provider") -> None:
        """Checks that PyTorch has the device; `option` is what the user chose it by.

        Raises:
            ProviderError: it has not.
        """
        if not self.is_gpu:
            return
        import torch

        if not torch.cuda.is_available():
            raise ProviderError(f"PyTorch finds no CUDA device here; use {option} {CPU.name}")

    def synchronize(self) -> None:
        """Waits until all that PyTorch started on the device is done."""
        if self.is_gpu:
            import torch

            torch.cuda.synchronize()


CPU = Provider(
    "cpu",
    "CPUExecutionProvider",
    device="cpu",
    is_gpu=False,
    options={},
    graph_options={},
    batch_tokens=2048,
    multiplies_int8=True,
)

CUDA = Provider(
    "cuda",
    "CUDAExecutionProvider",
    device="cuda",
    is_gpu=True,
    # Otherwise float32 matrices are multiplied in TF32 on Ampere and later: 10 bits of mantissa, a thousand times the error
    # that fp32 promises here.
    options={"use_tf32": "0"},
    graph_options={"enable_cuda_graph": "1"},
    batch_tokens=16384,
    multiplies_int8=False,
)

PROVIDERS: dict[str, Provider] = {provider.name: provider for provider in (CPU, CUDA)}


def torch_provider() -> Provider:
    """Returns the provider of the fastest device that PyTorch finds here: CUDA's, or else the CPU's."""
    import torch

    return CUDA if torch.cuda.is_available() else CPU


def find_provider(name: str) -> Provider:
    """Returns the provider of a name.

    Raises:
        UsageError: there is none.
    """
    if name not in PROVIDERS:
        raise UsageError(f"provider {name!r:.80}: expected one of {', '.join(PROVIDERS)}")
    return PROVIDERS[name]
