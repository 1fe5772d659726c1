"""The choice of a target: by its name, or by this machine for "auto"."""

from __future__ import annotations

from exporters import runtime
from exporters.errors import MissingDependencyError, ProviderError, UsageError
from exporters.onnx.context import Target
from exporters.onnx.precision import Precision
from exporters.onnx.targets import TARGETS
from exporters.providers import CPU, CUDA, Provider


def resolve_target(target: str, precision: Precision, *, needs_runtime: bool) -> Target:
    """Returns the target of a name, or the one for this machine if the name is "auto".

    Raises:
        UsageError: there is no such target.
        MissingDependencyError: ONNX Runtime is needed and not installed.
    """
    if target != "auto" and target not in TARGETS:
        raise UsageError(f"--target {target}: expected auto or one of {', '.join(TARGETS)}")
    if needs_runtime:
        runtime.onnxruntime()
    if target != "auto":
        return TARGETS[target]
    return TARGETS[CPU.name if precision.quantized else available_provider().name]


def available_provider() -> Provider:
    """Returns the provider of this machine: CUDA where ONNX Runtime starts it, otherwise the CPU's."""
    try:
        runtime.check_provider(CUDA.name)
    except (ProviderError, MissingDependencyError):
        return CPU
    return CUDA
