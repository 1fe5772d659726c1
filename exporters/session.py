"""A model that is ready to run: an ONNX Runtime session with the settings that its graph runs fastest with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters import runtime


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """How to run a graph.

    `tokens_at_once`: a batch with more tokens, padding counted, is run in parts of at most so many (a single row may have
    more); None: as it comes. `entries` are ONNX Runtime's session configuration entries.
    """

    tokens_at_once: int | None = None
    entries: Mapping[str, str] = field(default_factory=dict)


DEFAULT_SETTINGS = SessionSettings()


class Session:
    """Runs one exported model. `inputs` and `outputs` are the graph's names; `provider` is "cpu" or "cuda"."""

    def __init__(
        self,
        model: Path | bytes,
        *,
        provider: str = "cpu",
        threads: int | None = None,
        settings: SessionSettings = DEFAULT_SETTINGS,
        provider_options: Mapping[str, str] | None = None,
    ) -> None:
        """Arguments and errors as for `runtime.create_session`."""
        self.provider, self.settings = provider, settings
        self.onnxruntime: Any = runtime.create_session(
            model, provider=provider, threads=threads, entries=settings.entries, provider_options=provider_options
        )
        self.inputs = tuple(value.name for value in self.onnxruntime.get_inputs())
        self.outputs = tuple(value.name for value in self.onnxruntime.get_outputs())

    def run(self, inputs: Mapping[str, NDArray[np.int64]]) -> dict[str, NDArray[np.float32]]:
        """All outputs by name for int64 arrays `[batch, sequence]`; `inputs` may hold more than the graph takes.

        Raises:
            OutputError: the graph takes an input that is not there.
        """
        batch, length = next(iter(inputs.values())).shape
        limit = self.settings.tokens_at_once
        rows = batch if limit is None else max(1, limit // max(1, length))
        if batch <= rows:
            return runtime.run(self.onnxruntime, inputs)
        rows = math.ceil(batch / math.ceil(batch / rows))  # parts of nearly equal size
        parts = [
            runtime.run(self.onnxruntime, {name: values[start : start + rows] for name, values in inputs.items()})
            for start in range(0, batch, rows)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in self.outputs}
