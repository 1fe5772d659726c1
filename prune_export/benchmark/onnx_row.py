"""The loader of ONNX rows: our Session, with the settings of the record."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from exporters import runtime
from exporters.errors import OutputError
from exporters.providers import find_provider
from exporters.session import Session, SessionSettings
from prune_export.benchmark.rows import Conditions, Row
from prune_export.benchmark.worker import Loaded, read_through
from prune_export.timing import timed


def load(row: Row, conditions: Conditions) -> Loaded:
    """Loads the .onnx file `row.model`; `row.options["settings"]` are the fields of SessionSettings.

    On a GPU, inputs and outputs stay on the device (IO binding), and a run ends when the device is done.
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
        cuda_graphs=conditions.cuda_graphs,
    )
    seconds = time.perf_counter() - start

    def prepare(batch: Mapping[str, NDArray[np.int64]]) -> Callable[[], float]:
        if unknown := sorted(set(session.inputs) - set(batch)):
            raise OutputError(f"it takes the input {', '.join(unknown)}; expected inputs: {', '.join(batch)}")
        fed = {name: batch[name] for name in session.inputs}
        if find_provider(conditions.provider).is_gpu:
            return timed(session.bind(fed).run)
        return timed(lambda: session.run(fed))

    return Loaded(prepare, seconds, size)


def model_files(path: Path) -> tuple[Path, ...]:
    """Returns the model file and, if its weights are beside it, their files."""
    beside = (path.with_name(path.name + suffix) for suffix in ("_data", ".data"))
    return (path, *(file for file in beside if file.is_file()))
