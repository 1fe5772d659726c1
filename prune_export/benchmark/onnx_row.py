"""Loads an ONNX row: our Session, with the settings that the record gives."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters import runtime
from exporters.errors import OutputError
from exporters.session import Session, SessionSettings
from prune_export.benchmark.rows import Conditions, Row
from prune_export.benchmark.timing import by_wall_clock
from prune_export.benchmark.worker import Loaded, read_through


def load(row: Row, conditions: Conditions) -> Loaded:
    """`row.model` is the .onnx file; `row.options["settings"]` the fields of SessionSettings.

    On CUDA, inputs and outputs stay on the device (IO binding), and a run ends when the device is done.
    """
    path = Path(row.model)
    settings = SessionSettings(**row.options.get("settings", {}))
    runtime.onnxruntime()  # the import is not what is timed
    size = read_through(model_files(path))
    start = time.perf_counter()
    session = Session(
        path,
        provider=conditions.provider,
        threads=conditions.threads,
        settings=settings,
        provider_options={"enable_cuda_graph": "1"} if conditions.cuda_graphs else {},
    )
    seconds = time.perf_counter() - start

    graphs = count(1)

    def prepare(batch: Mapping[str, NDArray[np.int64]]) -> Callable[[], float]:
        if unknown := sorted(set(session.inputs) - set(batch)):
            raise OutputError(f"it takes the input {', '.join(unknown)}; expected inputs: {', '.join(batch)}")
        fed = {name: batch[name] for name in session.inputs}
        if conditions.provider == "cuda" and settings.tokens_at_once is None:
            return by_wall_clock(_bound(session, fed, next(graphs)))
        return by_wall_clock(lambda: session.run(fed))

    return Loaded(prepare, seconds, size)


def _bound(session: Session, batch: Mapping[str, NDArray[np.int64]], graph: int) -> Callable[[], object]:
    """A run from and to device memory that returns when the device is done; `graph` numbers the captured CUDA graph."""
    module, inner = runtime.onnxruntime(), session.onnxruntime
    binding = inner.io_binding()
    for name, values in batch.items():
        binding.bind_ortvalue_input(name, module.OrtValue.ortvalue_from_numpy(values, "cuda", 0))
    for name in session.outputs:
        binding.bind_output(name, "cuda")
    # The first run tells the outputs' shapes; a captured graph needs them at fixed addresses. -1: nothing is captured.
    inner.run_with_iobinding(binding, _run_options(module, -1))
    for name, value in zip(session.outputs, binding.copy_outputs_to_cpu(), strict=True):
        binding.bind_ortvalue_output(name, module.OrtValue.ortvalue_from_numpy(value, "cuda", 0))
    options = _run_options(module, graph)

    def step() -> None:
        inner.run_with_iobinding(binding, options)
        binding.synchronize_outputs()

    return step


def _run_options(module: Any, graph: int) -> Any:
    options = module.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(graph))  # without CUDA graphs, nobody reads it
    return options


def model_files(path: Path) -> tuple[Path, ...]:
    """The model file and, beside it, the files that hold its weights where they are not inside."""
    beside = (path.with_name(path.name + suffix) for suffix in ("_data", ".data"))
    return (path, *(file for file in beside if file.is_file()))
