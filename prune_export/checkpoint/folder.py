"""Checks of a model's folder before transformers and tokenizers open it: regular files, bounded, no way out."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from exporters.errors import CheckpointError
from prune_export.files.links import plain_name
from prune_export.files.reading import LARGE_FILE, SMALL_FILE, ReadingError, clipped, is_file, nested, read_json, shown

# The files that they open by themselves, by the limit of their size.
_SMALL = re.compile(
    r"(config|tokenizer_config|special_tokens_map|added_tokens|generation_config|adapter_config|processor_config|"
    r"preprocessor_config|chat_template)\.json|.*\.jinja"
)
_LARGE = re.compile(r"tokenizer.*\.json|vocab.*|merges\.txt|bpe\.codes|tekken\.json|.*\.(model|tiktoken)")
_TEMPLATES = "additional_chat_templates"

# Strings of tokenizer_config.json that are names, and never opened.
_NAMES = ("name_or_path", "_name_or_path", "tokenizer_class", "processor_class")
_OWN_FILES = {
    "tokenizer_file": ("tokenizer.json",),
    "vocab_file": ("vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model"),
    "merges_file": ("merges.txt",),
}


def check_folder(folder: Path) -> None:
    """Checks that the files in `folder` can be opened without waiting, and that those that are read whole are bounded.

    Raises:
        CheckpointError: a pipe, a socket, a device, or a file that is too large.
    """
    for path in _entries(folder):
        try:
            status = path.stat()
        except OSError:  # a link to nothing, or to itself, cannot be opened
            continue
        if stat.S_ISDIR(status.st_mode):
            continue
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(f"{clipped(str(path), 300)}: expected a regular file; found a pipe, socket or device")
        limit = SMALL_FILE if _SMALL.fullmatch(path.name) else LARGE_FILE if _LARGE.fullmatch(path.name) else None
        if limit is not None and status.st_size > limit:
            raise CheckpointError(f"{path}: too large: {status.st_size:,} bytes; at most {limit:,} are read")


def _entries(folder: Path) -> Iterator[Path]:
    for parent in (folder, folder / _TEMPLATES):
        try:
            with os.scandir(parent) as entries:
                yield from (Path(entry.path) for entry in entries if not entry.name.startswith("."))
        except OSError as error:
            if parent == folder:
                raise CheckpointError(f"{folder}: cannot be looked at: {error.strerror or error}") from error


def own_files(folder: Path) -> dict[str, str | None]:
    """Returns arguments for `AutoTokenizer.from_pretrained` that replace the files which tokenizer_config.json names.

    transformers 4 opens such a file wherever it is, and before the folder's own; often it is the path of another machine.
    Each becomes the folder's own file, or None if there is none.

    Raises:
        CheckpointError: a file cannot be read, or names a file outside of the folder in another way.
    """
    arguments: dict[str, str | None] = {}
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = folder / name
        try:
            config = read_json(path, dict[str, Any])
        except ReadingError as error:
            if error.missing:
                continue
            raise CheckpointError(f"{path}: {error}") from error
        _check_names(config, path)
        for key, value in config.items():
            if key.endswith("_file") and value is not None:
                arguments[key] = _own_file(folder, key, value)
    return arguments


def _own_file(folder: Path, key: str, value: object) -> str | None:
    names = (Path(value).name if isinstance(value, str) else "", *_OWN_FILES.get(key, ()))
    return next((str(folder / name) for name in names if plain_name(name) and is_file(folder / name)), None)


def _check_names(config: dict[str, Any], path: Path) -> None:
    versions = config.get("fast_tokenizer_files") or []
    if not isinstance(versions, list) or not all(isinstance(name, str) and plain_name(name) for name in versions):
        raise CheckpointError(f"{path}: expected plain file names in fast_tokenizer_files; found {shown(versions)}")
    for key, value in config.items():
        if key in _NAMES or key.endswith("_file"):
            continue
        for _, text in nested(value):
            if isinstance(text, str) and is_file_or_device(text):
                raise CheckpointError(f"{path}: names the file {clipped(text)}; expected no files but the folder's own")


def is_file_or_device(text: str) -> bool:
    """Says whether `text` is the path of something that can be opened."""
    return os.path.exists(text) and not os.path.isdir(text)  # noqa: PTH110, PTH112 (Path raises for long names)
