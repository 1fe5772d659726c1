"""A batch that stays where the model runs: ONNX Runtime's IO binding, and CUDA graphs on request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters import runtime
from exporters.errors import OutputError


class BoundBatch:
    """Inputs and outputs of one shape at fixed places in the provider's memory; made by `Session.bind`.

    `run` neither copies nor allocates. Where the session captures CUDA graphs, the first `run` captures, later ones replay.
    """

    def __init__(self, session: Any, inputs: Mapping[str, NDArray[np.int64]], *, device: str, graph: int) -> None:
        """`session` is an InferenceSession, `inputs` exactly its inputs, `graph` (>= 1) a number for the captured graph."""
        module = runtime.onnxruntime()
        self._session, self._binding = session, session.io_binding()
        self._kept: list[NDArray[Any]] = []  # on the CPU an OrtValue is the array's own memory

        def place(values: NDArray[Any]) -> Any:
            self._kept.append(values.copy())
            return module.OrtValue.ortvalue_from_numpy(self._kept[-1], device, 0)

        self._inputs = {name: place(values) for name, values in inputs.items()}
        self._names = [output.name for output in session.get_outputs()]
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name in self._names:
            self._binding.bind_output(name, device)
        # A first run tells the outputs' shapes; from then on they have a place, which a captured graph needs.
        session.run_with_iobinding(self._binding, _run_options(module, -1))
        for name, found in zip(self._names, self._binding.copy_outputs_to_cpu(), strict=True):
            self._binding.bind_ortvalue_output(name, place(found))
        self._options = _run_options(module, graph)

    def run(self) -> None:
        """Runs the model, and returns when the outputs are there."""
        self._session.run_with_iobinding(self._binding, self._options)
        self._binding.synchronize_outputs()

    def update(self, inputs: Mapping[str, NDArray[np.int64]]) -> None:
        """Puts other values into the inputs' places.

        Raises:
            OutputError: an input is missing, or has another shape.
        """
        for name, place in self._inputs.items():
            shape = None if name not in inputs else list(inputs[name].shape)
            if shape != list(place.shape()):
                raise OutputError(f"{name}: expected int64 of shape {list(place.shape())}, as bound; found {shape}")
            place.update_inplace(np.ascontiguousarray(inputs[name]))

    def outputs(self) -> dict[str, NDArray[np.float32]]:
        """Copies of the outputs of the last run, by name."""
        found = self._binding.copy_outputs_to_cpu()
        return {name: values.copy() for name, values in zip(self._names, found, strict=True)}


def _run_options(module: Any, graph: int) -> Any:
    options = module.RunOptions()
    options.add_run_config_entry(
        "gpu_graph_id", str(graph)
    )  # -1: captures nothing; without CUDA graphs, nobody reads it
    return options
