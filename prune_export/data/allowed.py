"""The limits on the `datasets` library: the hub's data sets in plain formats, and folders that stay inside.

It would also take the names of its own builders, one of which unpickles files of the working directory, and paths.
"""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path
from typing import Any

from exporters.errors import DataError
from prune_export.files.reading import ReadingError, read_json, shown

# Formats that hold values alone. Others unpickle (pandas), open what their rows name (folders of pictures and sounds, tar
# archives), or ask databases. `cache` are those that were prepared here before, for when the hub cannot be reached.
_BUILDERS = ("parquet", "json", "csv", "text", "arrow", "cache")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?")


def check_name(path: str, name: str) -> None:
    """Checks that `path`, the part of `name` before the first colon, can only be a data set of the hub.

    Raises:
        DataError: it is a file or folder here, a builder of `datasets`, or no name of the hub.
    """
    if Path(path).exists():
        raise DataError(f"{name}: '{path}' is a file or folder here; give it alone, without a colon and a split")
    if path in _packaged():
        raise DataError(
            f"{name}: '{path}' is a reader of the datasets library, no data set; expected a file or a hub's name"
        )
    if not _HUB_NAME.fullmatch(path) or path.startswith("buckets/"):
        raise DataError(f"'{name}': no such file, and not a data set's name on the hub (name or owner/name) either")


def _packaged() -> frozenset[str]:
    try:
        from datasets import packaged_modules
    except ImportError:
        return frozenset()
    return frozenset(module.name for module in pkgutil.iter_modules(packaged_modules.__path__))


def check_builder(builder: Any, name: str) -> None:
    """Checks that `builder` reads a plain format, and files of the hub alone; nothing was downloaded yet.

    Raises:
        DataError: it does not.
    """
    modules = {kind.__module__ for kind in type(builder).__mro__}
    if not modules & {f"datasets.packaged_modules.{kind}.{kind}" for kind in _BUILDERS}:
        format_name = type(builder).__module__.rsplit(".", 1)[-1]
        raise DataError(
            f"{name}: its files are of the kind '{format_name}'; expected one of {', '.join(_BUILDERS[:-1])}"
        )
    for files in (builder.config.data_files or {}).values():
        for file in files:
            if not str(file).startswith("hf://"):
                raise DataError(f"{name}: names the file {str(file)[:200]!r}, which is not the hub's; it is not read")


def check_saved(folder: Path) -> None:
    """Checks that a folder of `save_to_disk` names files in it alone.

    Raises:
        DataError: it names a file or a split elsewhere, or cannot be read.
    """
    _check_files(folder)
    for split in _listed(folder / "dataset_dict.json", "splits"):
        _check_files(_inside(folder, split))


def _check_files(folder: Path) -> None:
    for file in _listed(folder / "state.json", "_data_files"):
        path = _inside(folder, file.get("filename") if isinstance(file, dict) else file)
        if path.exists() and not path.is_file():
            raise DataError(f"{path}: is not a regular file")


def _inside(folder: Path, name: Any) -> Path:
    """Returns the path `name` in `folder`: one plain component, and through no link out of it."""
    if not isinstance(name, str) or name in ("", ".", "..") or Path(name).name != name:
        raise DataError(f"{folder}: names {str(name)[:200]!r}; expected a file or folder in it")
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{path}: leads out of {folder}")
    return path


def _listed(path: Path, key: str) -> list[Any]:
    """Returns the list that a JSON file holds by `key`; empty if there is no file.

    A file that we cannot read is refused: `datasets` reads with Python's json, which takes more than JSON, and iterates over
    any object like over a list.
    """
    try:
        content = read_json(path, dict[str, Any])
    except ReadingError as error:
        if error.missing:
            return []
        raise DataError(f"{path}: {error}; expected what save_to_disk writes") from error
    listed = content.get(key)
    if not isinstance(listed, list):
        raise DataError(f"{path}: '{key}': expected a list; found {shown(listed)}")
    return listed
