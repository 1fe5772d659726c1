"""The folder of a training: known by its marker, and replaced only if a training wrote all of it.

run.json        the marker
recipe.toml     the recipe as it was used
log.jsonl  evaluation.json  tensorboard/<stage>/…
checkpoints/<stage>/checkpoint-<step>/…     the Trainer's
stages/<stage>/…                            what stages begin and end with
final/…  <budget>/…                         masked checkpoints, or final/ a slim one
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from exporters.errors import OutputError
from prune_export.facts.file_names import PLAN_FILE
from prune_export.facts.format import Format
from prune_export.files.errors import file_type
from prune_export.files.reading import LARGE_FILE, ReadingError, read_json
from prune_export.files.transaction import Placement, remove_files
from prune_export.outputs.destination import can_exchange
from prune_export.outputs.folder_types import DENSE, MASKED, SLIM_CHECKPOINT, FolderType, Marker, is_regular

MARKER, FORMAT = "run.json", Format("prune-export/run", 1)
RECIPE, LOG, EVALUATION = "recipe.toml", "log.jsonl", "evaluation.json"
FINAL, CHECKPOINTS, STAGES, BOARD = "final", "checkpoints", "stages", "tensorboard"

# Beside a checkpoint of the Trainer, written last: without it, the checkpoint is the rest of a killed run.
COMPLETE = "complete"

RUN = FolderType("run", MARKER, frozenset({MARKER, RECIPE}), frozenset(), marker=MARKER, format=FORMAT.name)

_FILES = frozenset({MARKER, RECIPE, LOG, EVALUATION})
_MODEL = "|".join(map(re.escape, sorted(MASKED.files | SLIM_CHECKPOINT.files | DENSE.files)))
_TRAINER = (
    rf"model\.safetensors|training_args\.bin|trainer_state\.json|{COMPLETE}|"
    r"(optimizer|scheduler|scaler)\.(pt|bin)|rng_state(_\d+)?\.pth|"
    r"latest|zero_to_fp32\.py|global_step\d+/\w+\.pt"  # DeepSpeed's
)
_STAGE = r"\d\d-[^/]+"
_BELOW = {
    BOARD: re.compile(rf"{BOARD}/{_STAGE}/events\.out\.tfevents\.[^/]+"),
    CHECKPOINTS: re.compile(rf"{CHECKPOINTS}/{_STAGE}/checkpoint-\d+/({_TRAINER})"),
    STAGES: re.compile(rf"{STAGES}/{_STAGE}/({_MODEL})"),
}


class RunMarker(Marker):
    """`recipe_sha256` is the digest of recipe.toml as the run wrote it."""

    recipe_sha256: str = ""


class ResultMarker(Marker):
    """What pruning.json says of a result: the stage that wrote it."""

    stage: str | None = None


def marker_of(folder: Path) -> RunMarker | None:
    """Reads the marker of a training's folder; None if there is none."""
    if not is_regular(folder / MARKER):
        return None
    try:
        marker = read_json(folder / MARKER, RunMarker)
    except ReadingError:
        return None
    return marker if marker.format == FORMAT.name else None


def is_untouched(folder: Path, marker: RunMarker) -> bool:
    """Says whether the run in `folder` failed before anything was made, with its recipe as it was written."""
    if {path.name for path in folder.iterdir()} != {MARKER, RECIPE} or not is_regular(folder / RECIPE):
        return False
    return hashlib.sha256((folder / RECIPE).read_bytes()).hexdigest() == marker.recipe_sha256


def result_files(folder: Path) -> frozenset[str]:
    """Names the files of the checkpoint in `folder` that is a result of the run around it; none if it is not."""
    files = MASKED.removable(folder) or SLIM_CHECKPOINT.removable(folder)
    if not files:
        return files
    try:
        stage = read_json(folder / PLAN_FILE, ResultMarker, limit=LARGE_FILE).stage
    except ReadingError:
        return frozenset()
    return files if stage is not None and folder.name in (FINAL, stage) else frozenset()


def refuse_links(folder: Path, results: Iterable[str]) -> None:
    """Refuses a run with a link, a pipe, a device or a socket among its files or results.

    What is written to one of them would land elsewhere, or nowhere.

    Raises:
        OutputError: there is one.
    """
    for name in (*_FILES, *_BELOW, FINAL, *results):
        inside = (folder / name).rglob("*") if (folder / name).is_dir() else ()
        for path in (folder / name, *inside):
            mode = path.lstat().st_mode if os.path.lexists(path) else None
            if mode is not None and not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                raise OutputError(
                    f"{path} is {file_type(mode)}; expected a file or folder of the run itself. Move it away, or choose "
                    "another output"
                )


def run_placement(folder: Path, *, overwrite: bool) -> Placement:
    """Decides how the files of a new run are put into `folder`; with `overwrite` those of an earlier run there go."""
    existing = set(os.listdir(folder)) if folder.is_dir() else set()
    whole = not folder.exists() or (
        {path.split("/")[0] for path in run_files(folder)} == existing and can_exchange(folder)
    )
    return Placement(folder, MARKER, whole, overwrite, run_files)


def run_files(folder: Path) -> frozenset[str]:
    """Names the files of the run in `folder`, relative to it; none if it is no run. Other files there do not count.

    Raises:
        OutputError: a folder of the run holds a file that no training writes.
    """
    if marker_of(folder) is None:
        return frozenset()
    files = {name for name in _FILES if is_regular(folder / name)}
    for entry in os.scandir(folder):
        if not entry.is_dir(follow_symlinks=False):
            continue
        pattern = _BELOW.get(entry.name)
        result = result_files(Path(entry))
        if pattern is None and not result and entry.name != FINAL:
            continue  # not of the run
        for path in Path(entry).rglob("*"):
            if path.is_dir() and not path.is_symlink():
                continue
            name = path.relative_to(folder).as_posix()
            if not is_regular(path) or not (
                path.relative_to(entry).as_posix() in result if pattern is None else pattern.fullmatch(name)
            ):
                raise OutputError(
                    f"{path}: no training writes that; expected nothing but a run's files in {folder / entry.name}. Move it "
                    "away, or choose another output"
                )
            files.add(name)
    return frozenset(files)


def remove_checkpoint(folder: Path) -> None:
    """Removes the Trainer's files from its checkpoint `folder`, and the folder if nothing else lies there."""
    _remove(folder, _TRAINER)


def remove_model(folder: Path) -> None:
    """Removes the files of the checkpoint in `folder` that a stage began or ended with, and the folder likewise."""
    _remove(folder, _MODEL)


def _remove(folder: Path, pattern: str) -> None:
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if is_regular(path)]
    names = [name for name in names if re.fullmatch(pattern, name)]
    with suppress(OSError):
        parent = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            remove_files(parent, (folder.name, *(f"{folder.name}/{name}" for name in names)))
        finally:
            os.close(parent)
