"""Masked checkpoints: what every pruning method ends in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from exporters.errors import CheckpointError
from prune_export.checkpoint.beside import check_beside, copy_beside, files_beside
from prune_export.checkpoint.load import Checkpoint
from prune_export.checkpoint.masking import masked_tensors
from prune_export.checkpoint.weights import read_weights
from prune_export.facts.file_names import PLAN_FILE, SAFETENSORS
from prune_export.facts.plan import Plan, check_fits, plan_to_json
from prune_export.files.tensors import save_tensors
from prune_export.files.transaction import transaction
from prune_export.outputs.destination import Destination, folder_destination
from prune_export.outputs.folder_types import MASKED


def masked_destination(folder: str | Path, source: Path, *, overwrite: bool) -> tuple[Destination, tuple[str, ...]]:
    """Decides where the masked checkpoint of the one in `source` goes, and which files of that are copied.

    Raises:
        CheckpointError: a file that is copied is a link that leads out of `source`.
        OutputError: the folder is there already, is `source`, or cannot be written.
    """
    place = folder_destination(folder, MASKED, overwrite=overwrite)
    place.refuse_source(source)
    copied = files_beside(source)
    check_beside(source, copied)
    place.check(copied)
    return place, copied


def write_masked(
    checkpoint: Checkpoint,
    plan: Plan,
    folder: str | Path,
    *,
    overwrite: bool = False,
    changed: Mapping[str, Tensor] | None = None,
    **provenance: Any,
) -> None:
    """Writes `checkpoint` with zeros where `plan` drops something into a new `folder`.

    `changed` holds tensors, under Hugging Face's names, to be written instead of the checkpoint's own, with the plan's zeros
    in them already (None: the checkpoint's own, with zeros put in). The result loads in any transformers and holds
    pruning.json: the plan, and `provenance` (method, seed, …) beside it.

    Raises:
        CheckpointError: the checkpoint is not of full size (hub or slim format).
        PlanError: the plan does not fit it.
        OutputError: the folder is there already, is the checkpoint's own, or cannot be written.
    """
    if checkpoint.form not in ("plain", "masked"):
        raise CheckpointError(
            f"'{checkpoint.source.name}' is in {checkpoint.form} format; a masked checkpoint needs weights of full size"
        )
    check_fits(plan, checkpoint.encoder)
    weights = read_weights(checkpoint.source.folder, checkpoint.family)
    if changed is None:
        changed = masked_tensors(weights, checkpoint.family, checkpoint.config, checkpoint.encoder, plan)
    place, copied = masked_destination(folder, checkpoint.source.folder, overwrite=overwrite)
    with transaction(place.placement) as aside:
        copy_beside(checkpoint.source.folder, aside, copied)
        save_tensors({**weights, **changed}, aside / SAFETENSORS)
        record = plan_to_json(plan) | {"files": [*copied, SAFETENSORS, PLAN_FILE]} | provenance
        (aside / PLAN_FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
