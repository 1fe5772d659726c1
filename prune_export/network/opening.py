"""Opens networks under one interface: a Hugging Face checkpoint, its slim form, or an exported ONNX folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from exporters.providers import CPU, Provider, ProviderName, find_provider
from exporters.runtime import check_threads
from exporters.tasks import Task
from prune_export.checkpoint.inspection import operate_on
from prune_export.checkpoint.load import Checkpoint, load_checkpoint
from prune_export.checkpoint.reference_model import load_reference_model
from prune_export.checkpoint.source import DEFAULT_HUB, holds_weights, resolve
from prune_export.facts.file_names import RECORD
from prune_export.facts.record import find_exported
from prune_export.files.reading import ReadingError, is_file, user_path
from prune_export.network.session import open_session
from prune_export.options.checkpoint import HubAccess
from prune_export.slim_model.model import slim_module

Kind = Literal["onnx", "pytorch", "slim"]
Batch = Mapping[str, NDArray[np.int64]]
Outputs = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Network:
    """A network that can be run.

    `run` takes int64 arrays `[batch, sequence]` by input name (more than `inputs` is allowed) and gives float32 arrays by
    output name. `folder` holds config.json and the tokenizer. `task` is None for an ONNX model without a record of ours.
    `form` is the checkpoint's form, or the exported model's dtype (None: not known).
    """

    name: str
    kind: Kind
    task: Task | None
    folder: Path
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    run: Callable[[Batch], Outputs]
    form: str | None = None


def is_exported(model: str | Path) -> bool:
    """Says whether `model` is an ONNX file, or a folder to be run as one: with our record, or without weights."""
    try:
        path = user_path(model)
    except ReadingError:
        return False
    if not path.is_dir():
        return path.suffix == ".onnx"
    return is_file(path / RECORD) or (any(path.glob("*.onnx")) and not holds_weights(path))


def open_network(
    model: str | Path,
    *,
    task: str | None = None,
    provider: ProviderName | None = None,
    threads: int | None = None,
    slim: bool = False,
    hub: HubAccess = DEFAULT_HUB,
) -> Network:
    """Opens an exported folder or `.onnx` file, or a checkpoint (a folder or a hub id), as a Network.

    A checkpoint runs as the untouched Hugging Face model, or with `slim` as our slim PyTorch network; a slim checkpoint
    always runs as the latter. A folder with weights and an `.onnx` file without our record is taken for a checkpoint; the
    ONNX model in it is opened by its file name. `provider` is "cpu" or "cuda" (for PyTorch: the device); None: the model's
    own, or the CPU.

    Raises:
        CheckpointError, OutputError, ProviderError, UsageError: it cannot be opened.
    """
    check_threads(threads)
    if is_exported(model):
        return _open_exported(user_path(model), task=task, provider=provider, threads=threads)
    source = resolve(model, hub)
    checkpoint = load_checkpoint(source, task=task)
    kind: Kind = "slim" if slim or checkpoint.form == "slim" else "pytorch"
    encoder = checkpoint.encoder
    run = torch_runner(
        torch_module(checkpoint, kind), encoder.inputs, encoder.outputs, provider=find_provider(provider or CPU.name)
    )
    inputs, outputs = encoder.inputs, encoder.outputs
    return Network(str(model), kind, checkpoint.task, source.folder, inputs, outputs, run, checkpoint.form)


def torch_module(checkpoint: Checkpoint, kind: Kind) -> nn.Module:
    """Returns the checkpoint as the untouched Hugging Face model ("pytorch") or as our slim network ("slim")."""
    if kind == "pytorch":
        return load_reference_model(checkpoint)
    return slim_module(checkpoint, operate_on(checkpoint).slim)


def torch_runner(
    module: Any, inputs: tuple[str, ...], outputs: tuple[str, ...], *, provider: Provider = CPU
) -> Callable[[Batch], Outputs]:
    """Returns a function that runs a PyTorch module, which returns transformers outputs, on the device of `provider`.

    Raises:
        ProviderError: PyTorch has no such device here.
    """
    provider.check_torch()
    module = module.to(provider.device)

    def run(batch: Batch) -> Outputs:
        with torch.inference_mode():
            result = module(**{name: torch.from_numpy(batch[name]).to(provider.device) for name in inputs})
        return {name: result[name].float().cpu().numpy() for name in outputs}

    return run


def _open_exported(path: Path, *, task: str | None, provider: ProviderName | None, threads: int | None) -> Network:
    exported = find_exported(path)
    session = open_session(path, provider=provider, threads=threads)
    folder = exported.model.parent
    network_task: Any = exported.task if task is None else task
    form = exported.dtype if exported.record else None
    return Network(str(path), "onnx", network_task, folder, session.inputs, session.outputs, session.run, form)
