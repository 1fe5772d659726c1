"""Loads a row that OpenVINO runs, for comparison; `pip install openvino openvino-telemetry`, no part of the product."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import openvino
from numpy.typing import NDArray

from prune_export.benchmark.onnx_row import model_files
from prune_export.benchmark.rows import Conditions, Row
from prune_export.benchmark.worker import Loaded, read_through
from prune_export.timing import timed


def load(row: Row, conditions: Conditions) -> Loaded:
    """`row.model` is an .onnx file, `row.options["precision"]` OpenVINO's inference precision: "f32" or "bf16"."""
    size = read_through(model_files(Path(row.model)))
    core = openvino.Core()
    start = time.perf_counter()
    model = core.read_model(row.model)
    compiled = core.compile_model(
        model,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": row.options["precision"],
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": conditions.threads,
            "NUM_STREAMS": 1,
        },
    )
    seconds = time.perf_counter() - start
    names = [value.get_any_name() for value in compiled.inputs]
    request = compiled.create_infer_request()

    def prepare(batch: Mapping[str, NDArray[np.int64]]) -> Callable[[], float]:
        fed = {name: batch[name] for name in names}
        return timed(lambda: request.infer(fed))

    return Loaded(prepare, seconds, size)
