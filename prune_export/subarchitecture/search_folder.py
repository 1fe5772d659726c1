"""The folder of a search.

evaluations.jsonl   the journal: a search that was killed goes on from it
front.json          the front, with all that is needed to make its networks again
front.svg           the front as a picture, where matplotlib is installed
checkpoint/         the chosen point: a masked checkpoint, a slim one where the residual stream is narrower, or a plain one
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec

from exporters.errors import OutputError
from prune_export.benchmark.picture import can_draw
from prune_export.facts.format import Format
from prune_export.files.transaction import remove_files, transaction
from prune_export.outputs.destination import folder_destination
from prune_export.outputs.folder_types import MASKED, SEARCH, SLIM_CHECKPOINT, FolderType
from prune_export.subarchitecture.front_picture import draw_front
from prune_export.subarchitecture.front_point import SearchFront

FORMAT = Format("prune-export/front", 1)
JOURNAL, FRONT, PICTURE, CHECKPOINT = "evaluations.jsonl", "front.json", "front.svg", "checkpoint"


def check_folder(folder: Path) -> None:
    """Checks that `folder` is new, empty, or that of a search, and makes it.

    Raises:
        OutputError: it holds other files only, or cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = os.listdir(folder)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror}") from error
    if names and JOURNAL not in names:
        raise OutputError(f"{folder}: holds other files; expected a new folder, or that of a search that is to go on")


def make_room(folder: Path, kind: FolderType) -> None:
    """Removes an earlier point's checkpoint of another type than `kind` from `folder`: the files that its marker lists."""
    for other in (MASKED, SLIM_CHECKPOINT):
        if other is not kind and (files := other.removable(folder)):
            opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                remove_files(opened, tuple(files))
            finally:
                os.close(opened)


def write_front(front: SearchFront, record: dict[str, Any], folder: Path) -> None:
    """Writes front.json and its picture; those of the same search before are replaced.

    Raises:
        OutputError: files of these names are there that no search wrote, or they cannot be written.
    """
    drawn = can_draw()
    data = FORMAT.marked(
        {
            "files": [FRONT, *([PICTURE] if drawn else [])],
            **record,
            "evaluations": front.evaluations,
            "unpruned": msgspec.to_builtins(front.unpruned),
            "points": msgspec.to_builtins(front.points),
            **({"evaluated": front.evaluated} if front.evaluated else {}),
        }
    )
    place = folder_destination(folder, SEARCH, overwrite=True)
    with transaction(place.placement) as aside:
        if drawn:
            draw_front(front, aside / PICTURE)
        (aside / FRONT).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
