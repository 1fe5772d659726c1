"""The files that are copied from a checkpoint's folder into an output:

config.json, the files of the tokenizer that loads there, and those of sentence-transformers.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from exporters.errors import CheckpointError, OutputError
from prune_export.checkpoint.reference_model import quiet_transformers
from prune_export.checkpoint.sentence import sentence_files
from prune_export.checkpoint.tokenizer import open_tokenizer
from prune_export.facts.file_names import TOKENIZER_FILES
from prune_export.files.links import inside
from prune_export.files.reading import ReadingError

# Files that belong to every tokenizer; each class names its vocabulary's itself.
_ALWAYS = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def files_beside(folder: Path) -> tuple[str, ...]:
    """Names the files in `folder`, relative to it, that are copied with its network.

    Raises:
        CheckpointError: see `sentence_files`.
    """
    return ("config.json", *tokenizer_files(folder), *sentence_files(folder))


def tokenizer_files(folder: Path) -> tuple[str, ...]:
    """Names the files in `folder` that belong to the tokenizer that transformers loads from it; none if it loads none."""
    tokenizer, _ = _load(folder)
    if tokenizer is None:
        return ()
    named = {*_ALWAYS, *tokenizer.vocab_files_names.values()}
    return tuple(name for name in TOKENIZER_FILES if name in named and (folder / name).is_file())


def why_no_tokenizer(folder: Path) -> str:
    """Says why no tokenizer's files can be taken from `folder`."""
    return _load(folder)[1]


def _load(folder: Path) -> tuple[Any | None, str]:
    """Loads the tokenizer in `folder`; returns it, or None, and the reason why none of its files can be taken."""
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return None, "it holds none"
    try:
        with quiet_transformers():
            return open_tokenizer(folder), "none of its files belongs to it"
    except CheckpointError as error:
        return None, str(error)


def check_beside(folder: Path, names: Iterable[str]) -> None:
    """Checks that each of `names` is a regular file of `folder`, and no link that leads out of it.

    Raises:
        CheckpointError: one is not.
    """
    for name in names:
        try:
            inside(folder, name)
        except ReadingError as error:
            raise CheckpointError(
                f"{folder / name}: {error}; expected a file of the checkpoint, because it is copied into the output. Put "
                "the file itself there, or remove the link"
            ) from error


def copy_beside(folder: Path, into: Path, names: Iterable[str]) -> None:
    """Copies the files `names` from `folder` into `into`.

    Raises:
        CheckpointError: one is no regular file, or a link that leads out of the folder.
        OutputError: one cannot be read.
    """
    _place_beside(folder, into, names, shutil.copyfile)


def link_beside(folder: Path, into: Path, names: Iterable[str]) -> None:
    """Puts the files `names` of `folder` into `into` as well, by hard links, or by copying.

    Raises:
        CheckpointError, OutputError: as for `copy_beside`.
    """
    _place_beside(folder, into, names, _link)


def _place_beside(folder: Path, into: Path, names: Iterable[str], copy: Callable[[Path, Path], object]) -> None:
    names = tuple(names)
    check_beside(folder, names)
    for name in names:
        try:
            (into / name).parent.mkdir(exist_ok=True)
            copy(folder / name, into / name)
        except PermissionError as error:
            raise OutputError(f"cannot copy {folder / name}: {error.strerror}") from error


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links, or another one
        shutil.copyfile(source, target)
