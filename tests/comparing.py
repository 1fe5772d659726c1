"""Runs one network in every form and compares, with a tolerance that is part of each test's claim."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from exporters import runtime
from exporters.encoder import Encoder
from exporters.onnx.precision import PRECISIONS
from exporters.onnx.serialize import save
from exporters.onnx.targets import TARGETS
from exporters.onnx.writer import build

# Targets whose graphs run here, and each of them in every precision that it has a form for.
RUNNABLE = [name for name, target in TARGETS.items() if not target.cuda_only]
FORMS = [(target, dtype) for target in RUNNABLE for dtype in PRECISIONS if (target, dtype) != ("cuda", "int8")]

# Relative to max(1, max|reference|), for tiny networks with weights of 0.3: a handful of roundings of 1e-7 and 5e-4, and
# 8-bit steps whose errors add up over three layers.
LIMITS = {"fp32": 1e-5, "fp16": 2e-2, "int8": 0.2}


def torch_outputs(model: Any, encoder: Encoder, inputs: dict[str, Tensor]) -> dict[str, np.ndarray]:
    with torch.no_grad():
        found = model(**inputs)
    return {name: found[name].numpy() for name in encoder.outputs}


def onnx_outputs(
    encoder: Encoder,
    inputs: dict[str, Tensor],
    folder: Path,
    *,
    target: str = "cpu",
    dtype: str = "fp32",
    opset: int | None = None,
    optimize: bool = True,
    provider: str = "cpu",
) -> dict[str, np.ndarray]:
    path = folder / f"{target}-{dtype}.onnx"
    save(build(encoder, TARGETS[target], PRECISIONS[dtype], opset=opset), path)
    session = runtime.create_session(path, optimize=optimize, provider=provider)
    return runtime.run(session, {name: value.numpy() for name, value in inputs.items()})


def largest_difference(reference: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> float:
    """max|Δ| over all outputs, relative to max(1, max|reference|) of each."""
    assert set(reference) <= set(found)
    worst = 0.0
    for name, expected in reference.items():
        assert expected.shape == found[name].shape
        assert np.isfinite(found[name]).all()
        worst = max(worst, float(np.abs(expected - found[name]).max() / max(1.0, np.abs(expected).max())))
    return worst
