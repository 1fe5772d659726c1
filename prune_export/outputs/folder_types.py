"""The types of output folders: the file that marks each, and the names of all files that it may hold."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from prune_export.facts.file_names import (
    CONFIG,
    DEFAULT_MODEL,
    PLAN_FILE,
    RECORD,
    SAFETENSORS,
    SENTENCE_FILES,
    SLIM,
    SUBARCHITECTURE,
    TOKENIZER_FILES,
)
from prune_export.files.reading import LARGE_FILE, ReadingError, read_json


class Marker(msgspec.Struct):
    """What all markers hold: their format, and the names of the files that were written."""

    format: str
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FolderType:
    """A type of folder. Names are relative to it, and may lie in a folder of it ("1_Pooling/config.json").

    `last` is its main file, `required` are the files that it always holds, `optional` those that it may hold, `former`
    those that an earlier one may hold under other options. `marker` is the JSON file whose `format` says that a folder
    is of this type and whose `files` lists what was written; None: it is never replaced.
    """

    name: str
    last: str
    required: frozenset[str]
    optional: frozenset[str] = frozenset({*TOKENIZER_FILES, *SENTENCE_FILES})
    former: frozenset[str] = frozenset()
    marker: str | None = None
    format: str | None = None

    @property
    def files(self) -> frozenset[str]:
        return self.required | self.optional

    def removable(self, folder: Path) -> frozenset[str]:
        """Names the files in `folder` that an earlier output of this type consists of; none if there is no such output.

        Only regular files count that the marker lists and that this kind may hold; those in a folder of it, where nothing
        else lies there.
        """
        if self.marker is None or not is_regular(folder / self.marker):
            return frozenset()
        try:
            marker = read_json(folder / self.marker, Marker, limit=LARGE_FILE)
        except ReadingError:
            return frozenset()
        if marker.format != self.format:
            return frozenset()
        listed = (self.files | self.former) & {self.marker, *marker.files}
        files = {name for name in listed if "/" not in name and is_regular(folder / name)}
        for inner in top_names({name for name in listed if "/" in name}):
            inside = {name for name in listed if name.startswith(f"{inner}/")}
            if is_folder(folder / inner):
                present = {f"{inner}/{name}" for name in os.listdir(folder / inner)}
                if present <= inside and all(is_regular(folder / name) for name in present):
                    files |= present
        return frozenset(files)


def exported(model: str) -> FolderType:
    """Returns the type of an exported folder whose model is called `model`."""
    required = frozenset({model, CONFIG, RECORD})
    optional = frozenset({*TOKENIZER_FILES, *SENTENCE_FILES, f"{model}_data"})
    former = frozenset({DEFAULT_MODEL, f"{DEFAULT_MODEL}_data"})
    return FolderType("export", model, required, optional, former, RECORD, "prune-export/record")


MASKED = FolderType(
    "masked checkpoint",
    SAFETENSORS,
    frozenset({SAFETENSORS, CONFIG, PLAN_FILE}),
    marker=PLAN_FILE,
    format="prune-export/plan",
)
SLIM_CHECKPOINT = FolderType(
    "slim checkpoint",
    SLIM,
    frozenset({SLIM, CONFIG, PLAN_FILE}),
    marker=PLAN_FILE,
    format="prune-export/slim",
)
PLAIN = FolderType(
    "plain checkpoint",
    SAFETENSORS,
    frozenset({SAFETENSORS, CONFIG, SUBARCHITECTURE}),
    marker=SUBARCHITECTURE,
    format="prune-export/plain",
)
SEARCH = FolderType(
    "front of a search",
    "front.json",
    frozenset({"front.json"}),
    frozenset({"front.svg"}),
    marker="front.json",
    format="prune-export/front",
)
DENSE = FolderType("checkpoint to start from", SAFETENSORS, frozenset({SAFETENSORS, CONFIG, "source.json"}))


def top_names(names: Iterable[str]) -> frozenset[str]:
    """Returns the first components of the paths `names`: files and folders of the folder itself."""
    return frozenset(name.partition("/")[0] for name in names)


def is_folder(path: Path) -> bool:
    """Says whether `path` is a folder, and no link."""
    return stat.S_ISDIR(_mode(path))


def is_regular(path: Path) -> bool:
    """Says whether `path` is a regular file, and no link."""
    return stat.S_ISREG(_mode(path))


def _mode(path: Path) -> int:
    try:
        return os.lstat(path).st_mode
    except OSError:
        return 0
