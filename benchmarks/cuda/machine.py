"""Step 1: what the figures hold for, and whether ONNX Runtime's CUDA provider starts; if not, why."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from benchmarks.cuda.capture import captured_output
from benchmarks.cuda.recording import Recorder
from exporters import runtime
from exporters.errors import ProviderError
from prune_export.facts.machine import machine

_PACKAGES = ("msgspec", "platformdirs", "onnx", "onnx-ir", "safetensors", "huggingface-hub", "pytest", "hypothesis")
_FIELDS = (
    "name",
    "driver_version",
    "pstate",
    "clocks.sm",
    "clocks.mem",
    "clocks.max.sm",
    "clocks.max.mem",
    "temperature.gpu",
    "power.draw",
    "power.limit",
    "memory.total",
    "memory.used",
    "utilization.gpu",
    "clocks_event_reasons.active",
)


def run(recorder: Recorder) -> None:
    """Versions first, so that they are on disk whatever the device does."""
    recorder.figures["machine"] = machine() | {"executable": sys.executable, "packages": _versions()}
    recorder.figures["torch"] = {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }
    recorder.save()
    module = runtime.onnxruntime()
    recorder.figures["onnxruntime"] = {
        "version": module.__version__,
        "file": module.__file__,
        "cuda": getattr(module, "cuda_version", None),
        "build": module.get_build_info(),
        "providers": module.get_available_providers(),
    }
    recorder.save()
    if not recorder.on_gpu:
        recorder.skip("nvidia-smi and the CUDA provider", "not on this device")
        runtime.check_provider("cpu")
        return
    recorder.figures["nvidia-smi"] = nvidia_smi()
    recorder.save()
    try:
        runtime.check_provider("cuda")
    except ProviderError as error:
        recorder.figures["provider log"] = provider_log()
        recorder.failures.append(f"{error}; 'provider log' has what ONNX Runtime says")
    recorder.save()
    recorder.figures["device"] = str(torch.cuda.get_device_properties(0))


def nvidia_smi() -> dict[str, str]:
    """Clocks, power and temperature as nvidia-smi gives them at this moment; {} with the reason where it does not."""
    command = ["nvidia-smi", f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return {"error": str(error)}
    return dict(zip(_FIELDS, found.stdout.strip().splitlines()[0].split(", "), strict=False))


def provider_log() -> list[str]:
    """What ONNX Runtime logs when its CUDA provider is asked for: the library that it misses, say."""
    module = runtime.onnxruntime()
    options = module.SessionOptions()
    options.log_severity_level = 2
    with captured_output() as lines:
        try:
            module.InferenceSession(runtime.probe(), options, providers=["CUDAExecutionProvider"], enable_fallback=0)
        except Exception as error:
            lines.append(str(error))
    return lines


def _versions() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found
