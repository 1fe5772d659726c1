"""The folder of a run: marked, held by one training at a time, and with room for what the training writes."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from exporters.cost import count_parameters
from exporters.encoder import tensors
from exporters.errors import OutputError, UsageError
from prune_export.checkpoint.load import Checkpoint
from prune_export.files.holding import held
from prune_export.files.transaction import transaction
from prune_export.outputs.destination import folder_destination
from prune_export.outputs.run import (
    FINAL,
    FORMAT,
    MARKER,
    RECIPE,
    RUN,
    is_untouched,
    marker_of,
    refuse_links,
    result_files,
    run_placement,
)
from prune_export.training.methods import method_of
from prune_export.training.recipe import Recipe
from prune_export.training.recipe_file import read_recipe, recipe_to_toml
from prune_export.training.stage import Stage
from prune_export.training.starting_checkpoint import check_inputs

_KEPT = 2  # checkpoints of a training, unless [trainer] says otherwise
_SAVES = 6  # in a training, if it is not very long
_MARGIN = 1.1  # a slim network may keep a larger share of the weights than of the FLOPs
_ADAM = 3  # a checkpoint of the Trainer holds weights and two means of each, in float32


@contextmanager
def held_run(
    folder: Path, recipe: Recipe, recipe_path: Path | None, results: Sequence[str], *, resume: bool, overwrite: bool
) -> Iterator[None]:
    """Marks `folder` as that of a run, writes the recipe into it, and holds a lock on it while the block runs.

    `recipe_path` is the file that the recipe came from, `results` are the names of the checkpoints beside `final`.

    Raises:
        OutputError: the folder holds a run already, or other files, or another training is at work there.
        UsageError: the run to be resumed was begun with another recipe.
    """
    with held(folder, "training"):
        _open(folder, recipe, recipe_path, results, resume=resume, overwrite=overwrite)
        yield


def _open(
    folder: Path, recipe: Recipe, recipe_path: Path | None, results: Sequence[str], *, resume: bool, overwrite: bool
) -> None:
    folder = folder_destination(folder, RUN, overwrite=True).folder
    if check_run(folder, recipe, recipe_path, results, resume=resume, overwrite=overwrite):
        return
    text = recipe_to_toml(recipe)
    with transaction(run_placement(folder, overwrite=True)) as aside:
        (aside / RECIPE).write_text(text, encoding="utf-8")
        record = FORMAT.marked({"recipe_sha256": hashlib.sha256(text.encode()).hexdigest()})
        (aside / MARKER).write_text(json.dumps(record) + "\n", encoding="utf-8")


def check_run(
    folder: Path, recipe: Recipe, recipe_path: Path | None, results: Sequence[str], *, resume: bool, overwrite: bool
) -> bool:
    """Checks that a run may begin or be resumed in `folder`, without writing. Returns whether it is resumed.

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
            if (folder / name).exists() and any((folder / name).iterdir()) and not result_files(folder / name):
                raise OutputError(f"{folder / name} holds other things than a result of this run; move it away")
        untouched = is_untouched(folder, marker)
        if resume and not untouched:
            _check_same(used, recipe)
            return True
        if not overwrite and not untouched:
            raise OutputError(f"{folder} holds a run already; --resume goes on with it, --overwrite begins it anew")
        if recipe_path is not None and used.exists() and recipe_path.expanduser().samefile(used):
            raise OutputError(
                f"{used} is the recipe that is read, and would be replaced; put it elsewhere, or choose another output"
            )
        if not untouched:
            check_inputs(recipe, folder)
    return False


def _check_same(used: Path, recipe: Recipe) -> None:
    """Checks that a run is resumed with the recipe that it began with; only its folder may differ."""
    before, now = (asdict(read) | {"output": ""} for read in (read_recipe(used), recipe))
    for section in now:
        if before[section] != now[section]:
            raise UsageError(
                f"{used}: the run was begun with another recipe: {section} was {before[section]!r}, now {now[section]!r}; "
                "go on with the recipe as it was, or choose another output"
            )


# --- disk space -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DiskSpace:
    """The disk space of a run in bytes: at most while it is at work, and when it is done."""

    most: int
    at_end: int

    def __str__(self) -> str:
        return f"{_size(self.most)} at most, {_size(self.at_end)} when it is done"


def space_needed(
    recipe: Recipe, stages: Sequence[Stage], original: Checkpoint, *, has_new_head: bool, keep_checkpoints: bool
) -> DiskSpace:
    """Estimates the disk space of a run of `stages` from `original`; with `keep_checkpoints` nothing is removed."""
    model = sum(path.stat().st_size for path in original.weights_files)
    inside = sum(tensor.numel() for tensor in tensors(original.encoder.layers))  # weights inside the layers
    outside = count_parameters(original.encoder) - inside
    layers = len(original.encoder.layers)
    kept_layers = method_of(recipe).layers(recipe.method, layers) / layers
    if kept_layers < 1:
        model = round(model * (outside + kept_layers * inside) / (outside + inside))
        inside = round(kept_layers * inside)
    limit = recipe.trainer.get("save_total_limit", _KEPT)
    kept = limit if isinstance(limit, int) and 1 <= limit < _SAVES else _SAVES
    most = permanent = model if has_new_head else 0
    before = 0  # what the next stage starts from
    for number, stage in enumerate(stages, 1):
        weights = outside + round(inside * min(1.0, _MARGIN * stage.flops_fraction))
        weights += round(stage.added_weights * inside)
        saved = 4 * _ADAM * weights
        prepared = model if stage.prepare is not None else 0
        at_work = permanent + before + prepared
        most = max(most, at_work + min(kept + 1, _SAVES) * saved, at_work + kept * saved + model)
        is_result = stage.publish or number == len(stages)
        if keep_checkpoints:
            permanent, before = at_work + kept * saved + model, 0
        else:
            permanent, before = (permanent + model, 0) if is_result else (permanent, model)
    return DiskSpace(max(most, permanent), permanent)


def check_space(folder: Path, needed: DiskSpace) -> None:
    """Checks that the file system of `folder` has room for the rest of the run there.

    Raises:
        OutputError: it has not.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    written = sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    free = shutil.disk_usage(existing).free
    if needed.most - written > free:
        raise OutputError(
            f"{folder}: the run needs up to {_size(needed.most - written)} of disk, and {_size(free)} are free; make room, "
            "choose another output, or keep fewer checkpoints (trainer.save_total_limit)"
        )


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"
