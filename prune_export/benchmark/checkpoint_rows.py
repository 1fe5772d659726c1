"""Rows of a checkpoint, some of which have to be made first."""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import transformers

from exporters.errors import BenchmarkError, MissingDependencyError, OutputError, UsageError
from exporters.onnx.precision import PRECISIONS
from exporters.onnx.targets.choice import resolve_target
from prune_export.benchmark.process import python_module, same_modules
from prune_export.benchmark.pytorch_row import cost_of_model
from prune_export.benchmark.rows import Row
from prune_export.benchmark.sources import onnx_row, torch_row
from prune_export.checkpoint.config_keys import own_attention
from prune_export.checkpoint.load import Checkpoint, load_checkpoint
from prune_export.exporting.checkpoint_export import copied_files, export_checkpoint
from prune_export.options.export import QuantizationOptions
from prune_export.outputs.destination import model_destination
from prune_export.progress import Progress

# What `--rows` knows, and how the rows are called in tables.
NAMES = {
    "pytorch": "PyTorch",
    "compile": "torch.compile",
    "slim": "slim PyTorch",
    "dense": "dense PyTorch",
    "dense-onnx": "dense ONNX",
    "optimum": "optimum",
}
DEFAULT_ROWS = ("pytorch", "slim")
_RANDOM = "the network before pruning; its weights are random, which does not change its speed"
_SHOWN = 400  # characters of what optimum printed before it failed


def check_row_kinds(kinds: Sequence[str]) -> None:
    """Checks the names of rows.

    Raises:
        UsageError: one is unknown or occurs twice.
        MissingDependencyError: one needs a package that is not installed.
    """
    for kind in kinds:
        if kind not in NAMES:
            raise UsageError(f"--rows {kind}: expected some of {', '.join(NAMES)}")
        if kinds.count(kind) > 1:
            raise UsageError(f"--rows names {kind} twice")
    if "optimum" in kinds and not _has_optimum():
        raise MissingDependencyError("--rows optimum: optimum is not installed: pip install 'prune-export[optimum]'")


def _has_optimum() -> bool:
    try:
        return importlib.util.find_spec("optimum.exporters.onnx") is not None
    except ImportError:  # not even what it is a part of
        return False


def checkpoint_rows(
    checkpoint: Checkpoint, kinds: Sequence[str], folder: Path, *, provider: str, dtype: str, progress: Progress
) -> list[Row]:
    """Returns the rows `kinds` of a checkpoint, in that order; what they need is made in `folder`.

    Raises:
        BenchmarkError: optimum cannot export the checkpoint.
    """
    dense = folder / "dense"
    if {"dense", "dense-onnx"} & set(kinds):
        progress.stage("Making the dense network")
        save_dense(checkpoint, dense)
    return [_row(checkpoint, kind, dense, folder, provider, dtype, progress) for kind in kinds]


def _row(
    checkpoint: Checkpoint, kind: str, dense: Path, folder: Path, provider: str, dtype: str, progress: Progress
) -> Row:
    name, task = NAMES[kind], checkpoint.task
    match kind:
        case "dense":
            return torch_row(dense, kind, name=name, task=task, note=_RANDOM)
        case "dense-onnx":
            output = folder / "dense-onnx"
            _export_dense(load_checkpoint(dense, task=task), output, provider, dtype, progress)
            return replace(onnx_row(output, name=name, note=_RANDOM), kind=kind)
        case "optimum":
            output = folder / "optimum"
            progress.stage("Exporting with optimum")
            _export_with_optimum(checkpoint, output, provider, dtype)
            return replace(onnx_row(output, name=name), kind=kind, cost=cost_of_model(checkpoint))
        case _:
            return torch_row(checkpoint.source.folder, kind, name=name, task=task, form=checkpoint.form)


def save_dense(checkpoint: Checkpoint, folder: Path) -> None:
    """Saves the network that the checkpoint was before pruning, with random weights.

    Raises:
        OutputError: it cannot be written.
    """
    config = type(checkpoint.config).from_dict({**checkpoint.config.to_dict(), "pruned_heads": {}})
    torch.manual_seed(0)
    model_class = getattr(transformers, checkpoint.family.class_name(checkpoint.task))
    model = model_class(own_attention(config, model_class))
    try:
        model.save_pretrained(folder)
    except Exception as error:  # safetensors has its own for a full disk
        message = " ".join(str(error).split())[:_SHOWN]
        raise OutputError(
            f"cannot write the dense network into {folder}: {message}; TMPDIR chooses another place"
        ) from error


def _export_dense(dense: Checkpoint, output: Path, provider: str, dtype: str, progress: Progress) -> None:
    """Exports the random network, without a check of parity: only its speed matters."""
    precision = PRECISIONS[dtype]
    target = resolve_target(provider, precision, needs_runtime=False)
    destination = model_destination(output, overwrite=False)
    copied = copied_files(dense, destination)
    export_checkpoint(
        dense, destination, copied, target, precision, quantization=QuantizationOptions(), proof=None, progress=progress
    )


def _export_with_optimum(checkpoint: Checkpoint, output: Path, provider: str, dtype: str) -> None:
    """Exports the checkpoint by optimum, in a process of its own.

    That process sees config.json and the weights alone: it would load everything else in the folder, unchecked.
    """
    source = output.with_name("optimum-source")
    source.mkdir()
    for path in (checkpoint.source.folder / "config.json", *checkpoint.weights_files):
        (source / path.name).symlink_to(path.resolve())
    arguments = [str(source), str(output), checkpoint.task, provider, dtype]
    command = [*python_module("prune_export.benchmark.optimum_export"), *arguments]
    process = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, env=same_modules()
    )
    if process.returncode:
        printed = " ".join(process.stdout.split())[-_SHOWN:]
        raise BenchmarkError(f"row 'optimum': optimum cannot export '{checkpoint.source.name}'; it printed: {printed}")
