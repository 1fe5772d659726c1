"""Graphs that are written only to be run once."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from exporters import runtime
from exporters.encoder import Encoder
from exporters.onnx import serialize
from exporters.onnx.context import Target
from exporters.onnx.precision import Precision
from exporters.onnx.writer import build


@contextmanager
def trial_session(encoder: Encoder, target: Target, precision: Precision, **options: Any) -> Iterator[Any]:
    """Opens an ONNX Runtime session on the CPU for `build(encoder, target, precision, **options)`."""
    with tempfile.TemporaryDirectory(prefix="prune-export-") as folder:
        path = Path(folder) / "trial.onnx"
        serialize.save(build(encoder, target, precision, **options), path)
        session = runtime.create_session(path)
        path.unlink()  # loaded; a network above 2 GB still maps its weights, which lie beside
        yield session
