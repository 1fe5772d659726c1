"""Rows from files: an exported folder, any .onnx file, a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from exporters.errors import CheckpointError
from prune_export.benchmark.cost import cost_of_record
from prune_export.benchmark.rows import Row
from prune_export.checkpoint.tokenizer import read_config
from prune_export.facts.record import find_exported

_ONNX = "prune_export.benchmark.onnx_row:load"
_PYTORCH = "prune_export.benchmark.pytorch_row:load"
_VOCABULARY = 100  # if the number of ids is not known: every real vocabulary has as many


def onnx_row(path: str | Path, *, name: str, note: str | None = None) -> Row:
    """Returns the row of an exported folder with its recorded settings, or of another .onnx file with the defaults.

    Raises:
        OutputError: there is no model.
    """
    exported = find_exported(path)
    options = {"settings": asdict(exported.settings)}
    form = exported.dtype if exported.record else None
    return Row(name, "onnx", _ONNX, str(exported.model), options, cost_of_record(exported.record), note, form)


def torch_row(
    folder: str | Path,
    kind: str,
    *,
    name: str,
    task: str | None = None,
    note: str | None = None,
    form: str | None = None,
) -> Row:
    """Returns the row of a checkpoint as the Hugging Face model, the same compiled ("compile"), or our network ("slim")."""
    return Row(name, kind, _PYTORCH, str(folder), {"task": task}, None, note, form)


def token_ids(rows: Sequence[Row]) -> tuple[int, int]:
    """Returns the number of token ids that all rows know, and the id of padding, from the config.json beside each model."""
    sizes, padding = [], []
    for row in rows:
        path = Path(row.model)
        folder = path if path.is_dir() else path.parent
        try:
            config = read_config(folder)
            sizes.append(int(config["vocab_size"]))
            padding.append(int(config.get("pad_token_id") or 0))
        except (CheckpointError, ValueError, KeyError, TypeError):
            continue
    return min(sizes, default=_VOCABULARY), padding[0] if padding else 0
