"""The choice of a target: by its name, or by this machine for "auto"."""

from __future__ import annotations

from exporters import runtime
from exporters.errors import MissingDependencyError, ProviderError, UsageError
from exporters.onnx.context import Target
from exporters.onnx.precision import Precision
from exporters.onnx.targets import TARGETS


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
    return TARGETS["cpu" if precision.quantized else cuda_or_cpu()]


def cuda_or_cpu() -> str:
    """Names the target for this machine: cuda if ONNX Runtime's CUDA provider starts, otherwise cpu."""
    try:
        runtime.check_provider("cuda")
    except (ProviderError, MissingDependencyError):
        return "cpu"
    return "cuda"
