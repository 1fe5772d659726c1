"""ONNX Runtime sessions: the provider that was asked for, or an error."""

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
    """The onnxruntime module; its telemetry, a device's id in the home and what is sent from there, is off.

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
    """What ONNX Runtime logs: nothing (its errors come as exceptions) unless the logger "prune_export" shows INFO."""
    return _WARNINGS if _log.isEnabledFor(logging.INFO) else _QUIET


def _redirect_log(module: Any) -> None:
    """Has ONNX Runtime log to the logger "prune_export.onnxruntime"; versions that cannot, write to stderr themselves."""
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
    """A model of one node, `y = Relu(x)` of one float32, to see whether anything runs."""
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
    """An InferenceSession for `model`, a file or its bytes, on exactly the provider asked for, "cpu" or "cuda".

    `threads` is the number of threads inside an operation; None leaves it to ONNX Runtime. `optimize=False` switches its
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
    wanted = chosen.onnxruntime
    if wanted not in module.get_available_providers():
        raise ProviderError(
            f"the provider {wanted} is not in the installed onnxruntime {module.__version__}; it has "
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
        # Without a fallback: it would go on on the CPU after an error of the provider, now or in a later run.
        session = module.InferenceSession(source, options, providers=[(wanted, all_options)], enable_fallback=0)
    except Exception as error:  # onnxruntime's exception classes have no common base but Exception
        if chosen.is_gpu and isinstance(error, RuntimeError):  # what the device says; a bad model is a class of its own
            raise ProviderError(f"{wanted} did not start: {' '.join(str(error).split())[:400]}") from error
        name = "the model" if isinstance(model, bytes) else model
        raise OutputError(f"{name}: ONNX Runtime cannot load it: {' '.join(str(error).split())[:400]}") from error
    if wanted not in session.get_providers():
        raise ProviderError(
            f"{wanted} did not start (running: {', '.join(session.get_providers())}); check the CUDA and cuDNN "
            f"versions that onnxruntime {module.__version__} needs"
        )
    name = "a model in memory" if isinstance(model, bytes) else model
    _log.info("%s runs on %s, threads: %s", name, wanted, "ONNX Runtime's choice" if threads is None else threads)
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
    """Loads CUDA and cuDNN from PyTorch or NVIDIA's packages, where the loader would not look for them by itself.

    The CUDA provider only starts where they are loaded already or on the system's path.
    """
    import torch  # noqa: F401 - a PyTorch for CUDA brings its own

    if hasattr(module, "preload_dlls"):
        # It prints what it does not find, and raises where a system has no such libraries: the provider says so, too.
        with redirect_stdout(StringIO()), suppress(Exception):
            module.preload_dlls()


def run(session: Any, inputs: Mapping[str, NDArray[np.int64]]) -> dict[str, NDArray[np.float32]]:
    """All outputs by name; `inputs` may hold more than the session takes.

    Raises:
        OutputError: the session takes an input that is not there, or cannot be run.
    """
    names = [output.name for output in session.get_outputs()]
    wanted = wanted_inputs(session, inputs)
    with errors_of_running():
        found = session.run(names, wanted)
    return dict(zip(names, found, strict=True))


@contextmanager
def errors_of_running() -> Iterator[None]:
    """Around a run of a session.

    Raises:
        OutputError: ONNX Runtime failed; its own message stands in it.
    """
    try:
        yield
    except Exception as error:  # onnxruntime's exception classes have no common base but Exception
        raise OutputError(f"ONNX Runtime cannot run the model: {' '.join(str(error).split())[:400]}") from error


def wanted_inputs(session: Any, inputs: Mapping[str, NDArray[np.int64]]) -> dict[str, NDArray[np.int64]]:
    """Of `inputs`, those that the session takes.

    Raises:
        OutputError: it takes one that is not there.
    """
    wanted = [value.name for value in session.get_inputs()]
    if unknown := sorted(set(wanted) - set(inputs)):
        raise OutputError(f"it takes the input {', '.join(unknown)}; expected inputs: {', '.join(inputs)}")
    return {name: inputs[name] for name in wanted}
