"""`prune_export.json`: what lies beside an exported model and says how it came to be."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from exporters.errors import OutputError
from exporters.onnx.precision import PRECISIONS
from exporters.session import SessionSettings, settings_from_json
from prune_export.files.paths import expanded
from prune_export.outputs.kinds import RECORD

FORMAT = "prune-export/record"
VERSION = 1
_PACKAGES = ("prune-export", "torch", "transformers", "onnx", "onnx-ir", "onnxruntime", "onnxruntime-gpu", "numpy")


def versions() -> dict[str, str]:
    """Versions of the packages that took part, of those that are installed."""
    found: dict[str, str] = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def write_record(record: dict[str, Any], folder: Path) -> None:
    """Writes the record into `folder`."""
    text = json.dumps({"format": FORMAT, "version": VERSION, **record}, indent=1, ensure_ascii=False)
    # A path's bytes that are no UTF-8 become JSON's own escapes.
    (folder / RECORD).write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


@dataclass(frozen=True, slots=True)
class Exported:
    """An exported model as found on disk; `record` is empty beside models that are not ours."""

    model: Path
    record: dict[str, Any]

    @property
    def dtype(self) -> str:
        return str(self.record.get("dtype", "fp32"))

    @property
    def target(self) -> str:
        return str(self.record.get("target", "cpu"))

    @property
    def task(self) -> str | None:
        return self.record.get("task")

    @property
    def settings(self) -> SessionSettings:
        """How the graph runs fastest, as found when it was exported."""
        return settings_from_json(self.record.get("session") or {})

    @property
    def plan_given(self) -> bool:
        return bool(self.record.get("plan_given", False))


def find_exported(onnx: str | Path) -> Exported:
    """The model in a folder, or the model file itself, with its record if there is one.

    Raises:
        OutputError: there is no model, or more than one and no record that names it.
    """
    path = expanded(onnx)
    folder = path if path.is_dir() else path.parent
    record: dict[str, Any] = {}
    if (folder / RECORD).is_file():
        try:
            record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            if record["format"] != FORMAT or record["version"] != VERSION:
                raise ValueError(f"format {record['format']}, version {record['version']}")
            if record["dtype"] not in PRECISIONS or not isinstance(record["model"], str):
                raise ValueError(f"dtype {record['dtype']!r}, model {record['model']!r}")
            settings_from_json(record.get("session") or {})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OutputError(
                f"{folder / RECORD}: damaged, or not of format {FORMAT}, version {VERSION}: {error}"
            ) from error
    if path.is_file():
        return Exported(path, record if record.get("model") == path.name else {})
    if not path.is_dir():
        raise OutputError(f"'{onnx}': no such file or folder; expected an exported model")
    if record and not (path / record["model"]).is_file():
        raise OutputError(f"{path / RECORD} names {record['model']}, but that file is not there; export again")
    models = [path / record["model"]] if record else sorted(path.glob("*.onnx"))
    if len(models) != 1:
        found = ", ".join(model.name for model in models) or "none"
        raise OutputError(f"{path}: expected one .onnx file; found {found}")
    return Exported(models[0], record)
