"""Batches in the provider's memory: ONNX Runtime's IO binding, and CUDA graphs on request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters import runtime
from exporters.errors import UsageError
from exporters.feeding import Ids, Limits, feed


class BoundBatch:
    """Inputs and outputs of one shape at fixed addresses of the provider's memory; made by `Session.bind`.

    `run` neither copies nor allocates. If the session captures CUDA graphs, the first `run` captures and later ones replay.
    """

    def __init__(self, session: Any, inputs: Mapping[str, Ids], *, limits: Limits, device: str, graph: int) -> None:
        """Binds `inputs`, exactly those of the InferenceSession `session`; `graph` (>= 1) numbers the captured graph.

        Raises:
            OutputError: ONNX Runtime cannot run the model.
        """
        module = runtime.onnxruntime()
        self._session, self._limits, self._binding = session, limits, session.io_binding()
        self._kept: list[NDArray[Any]] = []  # on the CPU an OrtValue is the array's own memory

        def on_device(values: NDArray[Any]) -> Any:
            self._kept.append(values.copy())
            return module.OrtValue.ortvalue_from_numpy(self._kept[-1], device, 0)

        self._inputs = {name: on_device(values) for name, values in inputs.items()}
        self._names = [output.name for output in session.get_outputs()]
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name in self._names:
            self._binding.bind_output(name, device)
        # The first run tells the outputs' shapes; from then on they have fixed addresses, which a captured graph needs.
        with runtime.running_errors():
            session.run_with_iobinding(self._binding, _run_options(module, -1))
        for name, first in zip(self._names, self._binding.copy_outputs_to_cpu(), strict=True):
            self._binding.bind_ortvalue_output(name, on_device(first))
        self._options = _run_options(module, graph)

    def run(self) -> None:
        """Runs the model, and returns when the outputs are computed.

        Raises:
            OutputError: ONNX Runtime cannot run it.
        """
        with runtime.running_errors():
            self._session.run_with_iobinding(self._binding, self._options)
            self._binding.synchronize_outputs()

    def update(self, inputs: Mapping[str, Any]) -> None:
        """Replaces the values of the inputs; changes nothing if one of them cannot be taken.

        Raises:
            UsageError: as for `Session.run`, or an input has another shape than was bound.
        """
        fed = feed(inputs, tuple(self._inputs), self._limits)
        for name, bound in self._inputs.items():
            if fed[name].shape != tuple(bound.shape()):
                shape, given = list(bound.shape()), list(fed[name].shape)
                raise UsageError(f"{name}: expected int64 of shape {shape}, as bound; found {given}")
        for name, bound in self._inputs.items():
            bound.update_inplace(fed[name])

    def outputs(self) -> dict[str, NDArray[np.float32]]:
        """Returns copies of the outputs of the last run, by name."""
        arrays = self._binding.copy_outputs_to_cpu()
        return {name: values.copy() for name, values in zip(self._names, arrays, strict=True)}


def _run_options(module: Any, graph: int) -> Any:
    options = module.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(graph))  # -1: captures nothing
    return options
