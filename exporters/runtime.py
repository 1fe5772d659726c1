"""ONNX Runtime sessions, on exactly the requested provider."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from exporters.errors import MissingDependencyError, OutputError, ProviderError, UsageError
from exporters.providers import CPU, find_provider

if TYPE_CHECKING:
    from collections.abc import Mapping


_log = logging.getLogger("prune_export.onnxruntime")
_QUIET, _WARNINGS = 4, 2  # ONNX Runtime's levels: fatal errors alone, warnings too
_LEVELS = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)


def onnxruntime() -> Any:
    """Imports onnxruntime, with its telemetry (a device id in the home, and what is sent from there) off.

    Raises:
        MissingDependencyError: it is not installed; the message says which extra to install.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when it is imported
    try:
        import onnxruntime as module
    except ImportError as error:
        raise MissingDependencyError(
            "ONNX Runtime is not installed: pip install 'prune-export[cpu]', or 'prune-export[gpu]' on a machine with an "
            "NVIDIA GPU"
        ) from error
    _redirect_log(module)
    return module


def _severity() -> int:
    """Returns ONNX Runtime's log level: nothing (errors are exceptions) unless the logger "prune_export" shows INFO."""
    return _WARNINGS if _log.isEnabledFor(logging.INFO) else _QUIET


def _redirect_log(module: Any) -> None:
    """Redirects ONNX Runtime's log to the logger "prune_export.onnxruntime"; older versions write to stderr."""
    module.set_default_logger_severity(_severity())
    if _severity() == _WARNINGS and hasattr(module, "set_default_logger_callback"):  # from 1.32 on
        module.set_default_logger_callback(_write_log, _WARNINGS)


def _write_log(severity: int, category: str, _identifier: str, _location: str, message: str) -> None:
    _log.log(_LEVELS[severity], "%s: %s", category, " ".join(message.split()))


def check_provider(provider: str) -> None:
    """Runs a model of one node on `provider` ("cpu" or "cuda").

    Raises:
        ProviderError: the provider is not in this ONNX Runtime, or does not start on this machine.
    """
    session = create_session(probe(), provider=provider)
    session.run(None, {"x": np.zeros(1, dtype=np.float32)})


def probe() -> bytes:
    """Returns a model of one node, `y = Relu(x)` of one float32, to see whether a provider runs."""
    value = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1]))
    node = ir.node("Relu", [value])
    node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = "y", value.type, value.shape
    graph = ir.Graph([value], list(node.outputs), nodes=[node], opset_imports={"": 17}, name="probe")
    encoded: bytes = ir.to_proto(ir.Model(graph, ir_version=8)).SerializeToString()
    return encoded


def create_session(
    model: Path | bytes,
    *,
    provider: str = CPU.name,
    threads: int | None = None,
    optimize: bool = True,
    entries: Mapping[str, str] | None = None,
    provider_options: Mapping[str, str] | None = None,
) -> Any:
    """Creates an InferenceSession for `model`, a file or its bytes, on exactly `provider`, "cpu" or "cuda".

    `threads` is the number of threads inside an operation (None: ONNX Runtime's choice). `optimize=False` switches its
    graph optimizations off. `entries` are session configuration entries, `provider_options` further options of the provider,
    both under ONNX Runtime's names.

    Raises:
        UsageError: there is no such provider, or `threads` is out of range.
        ProviderError: the provider is not in this ONNX Runtime, or did not start (ONNX Runtime itself would only log
            that and run on the CPU).
        OutputError: the model cannot be loaded.
    """
    chosen = find_provider(provider)
    check_threads(threads)
    module = onnxruntime()
    provider_name = chosen.onnxruntime
    if provider_name not in module.get_available_providers():
        raise ProviderError(
            f"the provider {provider_name} is not in the installed onnxruntime {module.__version__}; it has "
            f"{', '.join(module.get_available_providers())}. For CUDA: pip install 'prune-export[gpu]'; otherwise ask for "
            "the provider cpu"
        )
    if chosen.is_gpu:
        _load_cuda_libraries(module)
    options = module.SessionOptions()
    options.log_severity_level = _severity()
    if threads is not None:
        options.intra_op_num_threads = threads
    for key, value in (entries or {}).items():
        options.add_session_config_entry(key, value)
    if not optimize:
        options.graph_optimization_level = module.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        source = model if isinstance(model, bytes) else str(model)
        all_options = dict(chosen.options) | dict(provider_options or {})
        # With a fallback, it would go on on the CPU after an error of the provider, now or in a later run.
        session = module.InferenceSession(source, options, providers=[(provider_name, all_options)], enable_fallback=0)
    except Exception as error:  # onnxruntime's exception classes have no common base but Exception
        if chosen.is_gpu and isinstance(error, RuntimeError):  # from the device; a bad model has a class of its own
            raise ProviderError(f"{provider_name} did not start: {' '.join(str(error).split())[:400]}") from error
        name = "the model" if isinstance(model, bytes) else model
        raise OutputError(f"{name}: ONNX Runtime cannot load it: {' '.join(str(error).split())[:400]}") from error
    if provider_name not in session.get_providers():
        raise ProviderError(
            f"{provider_name} did not start (running: {', '.join(session.get_providers())}); check the CUDA and cuDNN "
            f"versions that onnxruntime {module.__version__} needs"
        )
    name = "a model in memory" if isinstance(model, bytes) else model
    _log.info(
        "%s runs on %s, threads: %s", name, provider_name, "ONNX Runtime's choice" if threads is None else threads
    )
    return session


def check_threads(threads: int | None) -> None:
    """Checks the number of threads inside an operation.

    Raises:
        UsageError: it is below 1, or more than a machine can start.
    """
    most = max(256, os.cpu_count() or 1)
    if threads is not None and not 1 <= threads <= most:
        raise UsageError(f"--threads {threads}: expected 1 to {most}")


def _load_cuda_libraries(module: Any) -> None:
    """Loads CUDA and cuDNN from PyTorch or NVIDIA's packages, where the loader would not look for them.

    The CUDA provider only starts if they are loaded already or on the system's path.
    """
    import torch  # noqa: F401 - a PyTorch for CUDA brings its own

    if hasattr(module, "preload_dlls"):
        # It prints what it does not find, and raises if a system has no such libraries: the provider reports that, too.
        with redirect_stdout(StringIO()), suppress(Exception):
            module.preload_dlls()


def run(session: Any, inputs: Mapping[str, NDArray[np.int64]]) -> dict[str, NDArray[np.float32]]:
    """Runs `session`, and returns all outputs by name; `inputs` may hold more than it takes.

    Raises:
        OutputError: an input of the session is missing, or it cannot be run.
    """
    names = [output.name for output in session.get_outputs()]
    taken = session_inputs(session, inputs)
    with running_errors():
        outputs = session.run(names, taken)
    return dict(zip(names, outputs, strict=True))


@contextmanager
def running_errors() -> Iterator[None]:
    """Turns the errors of a session's run into ours.

    Raises:
        OutputError: ONNX Runtime failed; the message holds its own.
    """
    try:
        yield
    except Exception as error:  # onnxruntime's exception classes have no common base but Exception
        raise OutputError(f"ONNX Runtime cannot run the model: {' '.join(str(error).split())[:400]}") from error


def session_inputs(session: Any, inputs: Mapping[str, NDArray[np.int64]]) -> dict[str, NDArray[np.int64]]:
    """Selects the inputs that `session` takes.

    Raises:
        OutputError: one of them is missing.
    """
    taken = [value.name for value in session.get_inputs()]
    if unknown := sorted(set(taken) - set(inputs)):
        raise OutputError(f"it takes the input {', '.join(unknown)}; expected inputs: {', '.join(inputs)}")
    return {name: inputs[name] for name in taken}
