"""The folder of a run: marked, and held by one training at a time."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from exporters.errors import OutputError, UsageError
from prune_export.files import journal
from prune_export.files.transaction import transaction
from prune_export.outputs.destination import folder_destination
from prune_export.outputs.run import (
    FINAL,
    FORMAT,
    MARKER,
    RECIPE,
    RUN,
    is_result,
    is_untouched,
    marker_of,
    refuse_links,
    run_placement,
)
from prune_export.training.inputs import check_inputs
from prune_export.training.recipe import Recipe
from prune_export.training.recipe_file import read_recipe, recipe_to_toml


@contextmanager
def held_run(
    folder: Path, recipe: Recipe, read: Path | None, results: Sequence[str], *, resume: bool, overwrite: bool
) -> Iterator[None]:
    """Marks `folder` as that of a run, with the recipe as used, and holds it while the block runs.

    `read` is the file that the recipe came from, `results` are the names of the checkpoints that will lie beside `final`.

    Raises:
        OutputError: the folder holds a run already, or other things, or another training is at work there.
        UsageError: the run to be resumed was begun with another recipe.
    """
    name = hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()[:32]
    try:
        lock = journal.lock(f"run-{name}")
    except BlockingIOError:
        raise OutputError(f"another training is at work in {folder}; wait for it, or choose another output") from None
    try:
        _open(folder, recipe, read, results, resume=resume, overwrite=overwrite)
        yield
    finally:
        if lock is not None:
            os.close(lock)


def _open(
    folder: Path, recipe: Recipe, read: Path | None, results: Sequence[str], *, resume: bool, overwrite: bool
) -> None:
    folder = folder_destination(folder, RUN, overwrite=True).folder
    if check_run(folder, recipe, read, results, resume=resume, overwrite=overwrite):
        return
    text = recipe_to_toml(recipe)
    with transaction(run_placement(folder, overwrite=True)) as aside:
        (aside / RECIPE).write_text(text, encoding="utf-8")
        record = FORMAT.marked({"recipe_sha256": hashlib.sha256(text.encode()).hexdigest()})
        (aside / MARKER).write_text(json.dumps(record) + "\n", encoding="utf-8")


def check_run(
    folder: Path, recipe: Recipe, read: Path | None, results: Sequence[str], *, resume: bool, overwrite: bool
) -> bool:
    """Checks that a run may begin, or go on, in `folder`, and writes nothing; returns whether it goes on.

    Raises:
        OutputError, UsageError: as for `held_run`.
    """
    used = folder / RECIPE
    if folder.exists() and any(folder.iterdir()):
        refuse_links(folder, results)
        marker = marker_of(folder)
        if marker is None:
            raise OutputError(
                f"{folder} holds other things than a run (there is no {MARKER} of ours); choose another output"
            )
        for name in (FINAL, *results):
            if (folder / name).exists() and any((folder / name).iterdir()) and not is_result(folder / name):
                raise OutputError(f"{folder / name} holds other things than a result of this run; move it away")
        untouched = is_untouched(folder, marker)
        if resume and not untouched:
            _check_same(used, recipe)
            return True
        if not overwrite and not untouched:
            raise OutputError(f"{folder} holds a run already; --resume goes on with it, --overwrite begins it anew")
        if read is not None and used.exists() and read.expanduser().samefile(used):
            raise OutputError(
                f"{used} is the recipe that is read, and would be replaced; put it elsewhere, or choose another output"
            )
        if not untouched:
            check_inputs(recipe, folder)
    return False


def _check_same(used: Path, recipe: Recipe) -> None:
    """A run goes on with the recipe that it began with; only where it lies may differ."""
    before, now = (asdict(found) | {"output": ""} for found in (read_recipe(used), recipe))
    for section in now:
        if before[section] != now[section]:
            raise UsageError(
                f"{used}: the run was begun with another recipe: {section} was {before[section]!r}, now {now[section]!r}; "
                "go on with the recipe as it was, or choose another output"
            )
