"""How much a run writes: said, and compared with what is free, before it begins."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from exporters.cost import count_parameters
from exporters.encoder import tensors
from exporters.errors import OutputError
from prune_export.checkpoint.load import Checkpoint
from prune_export.training.distillation.student_config import LAYERS, StudentConfig
from prune_export.training.movement.config import MovementConfig
from prune_export.training.recipe import Recipe
from prune_export.training.stage import Stage

_KEPT = 2  # checkpoints of a training, unless [trainer] says otherwise
_SAVES = 6  # in a training, if it is not very long
_MARGIN = 1.1  # a slim network may keep a larger share of the weights than of the FLOPs
_ADAM = 3  # a checkpoint of the Trainer holds weights and two means of each, in float32


@dataclass(frozen=True, slots=True)
class Space:
    """Bytes: at most while the run is at work, and when it is done."""

    most: int
    at_end: int

    def __str__(self) -> str:
        return f"{_size(self.most)} at most, {_size(self.at_end)} when it is done"


def space_needed(
    recipe: Recipe, stages: Sequence[Stage], original: Checkpoint, *, has_new_head: bool, keep_checkpoints: bool
) -> Space:
    """Estimates what a run of `stages` from `original` writes; with `keep_checkpoints` all of it stays."""
    model = sum(path.stat().st_size for path in original.weights_files)
    inside = sum(tensor.numel() for tensor in tensors(original.encoder.layers))
    outside = count_parameters(original.encoder) - inside
    method = recipe.method
    if isinstance(method, StudentConfig):
        layers = len(original.encoder.layers)
        smaller = min(1.0, (len(method.keep) or method.layers or LAYERS) / layers)
        model = round(model * (outside + smaller * inside) / (outside + inside))
        inside = round(smaller * inside)
    limit = recipe.trainer.get("save_total_limit", _KEPT)
    kept = limit if isinstance(limit, int) and 1 <= limit < _SAVES else _SAVES
    most = stays = model if has_new_head else 0
    before = 0  # what the next stage starts from
    for number, stage in enumerate(stages, 1):
        weights = outside + round(inside * min(1.0, _MARGIN * stage.share))
        if stage.method is not None and isinstance(method, MovementConfig) and method.shape == "unstructured":
            weights += inside  # a score for each
        saved = 4 * _ADAM * weights
        prepared = model if stage.prepare is not None else 0
        at_work = stays + before + prepared
        most = max(most, at_work + min(kept + 1, _SAVES) * saved, at_work + kept * saved + model)
        is_result = stage.publish or number == len(stages)
        if keep_checkpoints:
            stays, before = at_work + kept * saved + model, 0
        else:
            stays, before = (stays + model, 0) if is_result else (stays, model)
    return Space(max(most, stays), stays)


def check_space(folder: Path, needed: Space) -> None:
    """Checks that the file system of `folder` has room for what the run there has not written yet.

    Raises:
        OutputError: it has not.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    written = sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    free = shutil.disk_usage(there).free
    if needed.most - written > free:
        raise OutputError(
            f"{folder}: the run needs up to {_size(needed.most - written)} of disk, and {_size(free)} are free; make room, "
            "choose another output, or keep fewer checkpoints (trainer.save_total_limit)"
        )


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"
