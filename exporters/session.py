"""Exported models, ready to run: an ONNX Runtime session with the settings that its graph runs fastest with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters import runtime
from exporters.bound import BoundBatch
from exporters.errors import UsageError
from exporters.feeding import Ids, feed, limits_of
from exporters.providers import CPU, find_provider


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """The settings to run a graph with.

    `tokens_at_once`: a batch with more tokens, padding included, is run in parts of at most that many (a single row may
    have more); None: in one part. `length_multiple`: batches are padded to a multiple of that many tokens, and the outputs
    trimmed. `entries` are ONNX Runtime's session configuration entries.
    """

    tokens_at_once: int | None = None
    length_multiple: int = 1
    entries: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Returns the settings for the record of an export."""
        return asdict(self)


DEFAULT_SETTINGS = SessionSettings()


class Session:
    """Runs one exported model. `inputs` and `outputs` are the graph's names; `provider` is "cpu" or "cuda"."""

    def __init__(
        self,
        model: Path | bytes,
        *,
        provider: str = CPU.name,
        threads: int | None = None,
        settings: SessionSettings = DEFAULT_SETTINGS,
        cuda_graphs: bool = False,
    ) -> None:
        """Loads `model`; arguments and errors as for `runtime.create_session`.

        `cuda_graphs`: bound batches capture CUDA graphs.

        Raises:
            UsageError: `cuda_graphs` on another provider.
        """
        chosen = find_provider(provider)
        if cuda_graphs and not chosen.graph_options:
            raise UsageError(f"CUDA graphs need the provider cuda; found {provider}")
        self.provider, self.settings, self._device = provider, settings, chosen.device
        options = chosen.graph_options if cuda_graphs else {}
        self.onnxruntime: Any = runtime.create_session(
            model, provider=provider, threads=threads, entries=settings.entries, provider_options=options
        )
        self._graphs = count(1)
        self.inputs = tuple(value.name for value in self.onnxruntime.get_inputs())
        self.outputs = tuple(value.name for value in self.onnxruntime.get_outputs())
        self.limits = limits_of(self.onnxruntime.get_modelmeta().custom_metadata_map)
        # The graph names its dynamic axes.
        self._by_token = {v.name for v in self.onnxruntime.get_outputs() if list(v.shape[1:2]) == ["sequence_length"]}

    def run(self, inputs: Mapping[str, Any]) -> dict[str, NDArray[np.float32]]:
        """Runs the model on int64 arrays `[batch, sequence]` by input name.

        Other whole numbers serve as well: int32, booleans, lists, PyTorch tensors. A single row `[sequence]` is a batch of
        one, and a batch of no rows gives outputs of no rows. `inputs` may hold what a tokenizer returns beside the graph's
        inputs.

        Returns:
            All outputs by name, float32 with the batch first.

        Raises:
            UsageError: an input is missing, has another form, or numbers that the model has no rows for.
            OutputError: ONNX Runtime cannot run the model.
        """
        fed = feed(inputs, self.inputs, self.limits)
        batch, length = fed[self.inputs[0]].shape
        if not batch:
            row = {name: np.full((1, length), name == "attention_mask", dtype=np.int64) for name in self.inputs}
            return {name: values[:0] for name, values in self._run_padded(row, length).items()}
        return self._run_padded(fed, length)

    def _run_padded(self, inputs: Mapping[str, Ids], length: int) -> dict[str, NDArray[np.float32]]:
        if missing := -length % self.settings.length_multiple:
            longer = {name: np.pad(values, ((0, 0), (0, missing))) for name, values in inputs.items()}
            return {name: self._trimmed(name, values, length) for name, values in self._run(longer).items()}
        return self._run(inputs)

    def _run(self, inputs: Mapping[str, Ids]) -> dict[str, NDArray[np.float32]]:
        batch, length = next(iter(inputs.values())).shape
        parts = self.parts(batch, length)
        if parts == 1:
            return runtime.run(self.onnxruntime, inputs)
        rows = math.ceil(batch / parts)
        results = [
            runtime.run(self.onnxruntime, {name: values[start : start + rows] for name, values in inputs.items()})
            for start in range(0, batch, rows)
        ]
        return {name: np.concatenate([part[name] for part in results]) for name in self.outputs}

    def _trimmed(self, name: str, values: NDArray[np.float32], length: int) -> NDArray[np.float32]:
        """Removes the positions of added padding from `values`, if the output has one per token."""
        return values[:, :length] if name in self._by_token else values

    def bind(self, inputs: Mapping[str, Any]) -> BoundBatch:
        """Binds a batch of the shape of `inputs` (as for `run`) to the provider's memory, to be run many times.

        It is run in one part, with the padding that it has.

        Raises:
            UsageError: as for `run`, or the batch has no rows.
            OutputError: ONNX Runtime cannot run the model.
        """
        fed = feed(inputs, self.inputs, self.limits)
        if not len(fed[self.inputs[0]]):
            raise UsageError(f"{self.inputs[0]}: expected one row or more to bind; found none")
        return BoundBatch(self.onnxruntime, fed, limits=self.limits, device=self._device, graph=next(self._graphs))

    def parts(self, batch: int, length: int) -> int:
        """Counts the runs, of nearly equal size, that a batch of `batch` rows of `length` tokens takes."""
        limit = self.settings.tokens_at_once
        if limit is None or batch * length <= limit:
            return 1
        return math.ceil(batch / max(1, limit // length))
