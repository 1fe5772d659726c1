"""The record beside an exported model, `prune_export.json`, which says how the model was made."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from exporters.errors import OutputError, UsageError
from exporters.session import SessionSettings
from exporters.tasks import Task
from prune_export.facts.file_names import RECORD
from prune_export.facts.format import Format
from prune_export.files.links import file_inside
from prune_export.files.reading import SMALL_FILE, ReadingError, clipped, decode_json, is_file, read_bytes, user_path
from prune_export.version import __version__

FORMAT = Format("prune-export/record", 1)
_MOST_TOKENS = 1 << 31
# Others of ONNX Runtime's entries name files and libraries.
_HARMLESS = r"^(mlas\.|session\.(intra_op|inter_op|set_denormal_as_zero|disable_prepacking))"
_PACKAGES = ("torch", "transformers", "onnx", "onnx-ir", "onnxruntime", "onnxruntime-gpu", "numpy")


def versions() -> dict[str, str]:
    """Returns the versions of prune-export and of the libraries that it works with, as far as they are installed."""
    installed = {"prune-export": __version__}
    for package in _PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed


def write_record(record: dict[str, Any], folder: Path) -> None:
    """Writes the record into `folder`."""
    text = json.dumps(FORMAT.marked(record), indent=1, ensure_ascii=False)
    # A path's bytes that are no UTF-8 become JSON's own escapes.
    (folder / RECORD).write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


@dataclass(frozen=True, slots=True)
class Exported:
    """An exported model on disk; `record` is empty for models that prune-export did not write."""

    model: Path
    record: dict[str, Any]

    @property
    def dtype(self) -> str:
        return str(self.record.get("dtype", "fp32"))

    @property
    def target(self) -> str:
        return str(self.record.get("target", "cpu"))

    @property
    def task(self) -> Task | None:
        return self.record.get("task")

    @property
    def settings(self) -> SessionSettings:
        """Returns the settings with which the graph runs fastest, as recorded at its export."""
        return msgspec.convert(self.record.get("session") or {}, SessionSettings)

    @property
    def plan_given(self) -> bool:
        return bool(self.record.get("plan_given", False))


def find_exported(onnx: str | Path) -> Exported:
    """Finds an exported model: `onnx` is a folder with one, or the file itself.

    Raises:
        OutputError: there is no model, or more than one and no record that names it.
        UsageError: the name is empty.
    """
    if not str(onnx):
        raise UsageError("the exported model's name is an empty string; expected a folder or a .onnx file")
    try:
        path = user_path(onnx)
        is_folder = path.is_dir()
    except (ReadingError, OSError) as error:
        raise OutputError(f"'{clipped(str(onnx))}' cannot be looked at: {error}") from error
    folder = path if is_folder else path.parent
    record = _read_record(folder / RECORD)
    if is_file(path):
        return Exported(path, record if record.get("model") == path.name else {})
    if not is_folder:
        raise OutputError(f"'{clipped(str(onnx), 300)}': no such file or folder; expected an exported model")
    if record:
        return Exported(_inside(path, record["model"]), record)
    models = [model for model in sorted(path.glob("*.onnx")) if is_file(model)]
    if len(models) != 1:
        listing = clipped(", ".join(model.name for model in models)) or "none"
        raise OutputError(f"{path}: expected one .onnx file; found {listing}")
    return Exported(models[0], {})


def _inside(folder: Path, name: str) -> Path:
    try:
        return file_inside(folder, name)
    except ReadingError as error:
        if error.missing:
            problem = f"{clipped(name)}, but that file is not there"
        else:
            problem = f"'{clipped(name)}', which is {error}; expected a file of the folder itself"
        raise OutputError(f"{folder / RECORD} names {problem}; export again") from error


class _SessionSettingsFile(msgspec.Struct):
    """The key "session" of a record; see `exporters.session.SessionSettings`."""

    tokens_at_once: Annotated[int, msgspec.Meta(ge=1, le=_MOST_TOKENS)] | None = None
    length_multiple: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 1
    entries: dict[Annotated[str, msgspec.Meta(pattern=_HARMLESS)], str] = {}


class _RecordFile(msgspec.Struct):
    """The keys of a record that are read back."""

    format: Literal["prune-export/record"]
    version: Literal[1]
    model: str
    dtype: Literal["fp32", "fp16", "int8"]
    target: str = "cpu"
    task: Task | None = None
    session: _SessionSettingsFile | None = None
    plan_given: bool = False


def _read_record(path: Path) -> dict[str, Any]:
    """Returns the record in `path`; empty if there is none."""
    try:
        content = read_bytes(path, limit=SMALL_FILE)
        decode_json(content, _RecordFile)
        return decode_json(content, dict[str, Any])
    except ReadingError as error:
        if error.missing:
            return {}
        raise OutputError(f"{path}: damaged, or not of format {FORMAT}: {error}") from error
