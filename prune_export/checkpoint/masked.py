"""Masked checkpoints: what every pruning method ends in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from exporters import artifact
from exporters.errors import CheckpointError
from prune_export.checkpoint.load import Checkpoint
from prune_export.checkpoint.masking import masked_tensors
from prune_export.checkpoint.source import PLAN_FILE, SAFETENSORS, TOKENIZER_FILES
from prune_export.checkpoint.weights import read_weights
from prune_export.plan import Plan, check_fits, plan_to_json


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
        OutputError: the folder is there already, or cannot be written.
    """
    if checkpoint.form not in ("plain", "masked"):
        raise CheckpointError(
            f"'{checkpoint.source.name}' is in {checkpoint.form} format; a masked checkpoint needs weights of full size"
        )
    check_fits(plan, checkpoint.encoder)
    weights = read_weights(checkpoint.source.folder, checkpoint.family.prefix)
    if changed is None:
        changed = masked_tensors(weights, checkpoint.family, checkpoint.config, checkpoint.encoder, plan)
    place = replace(artifact.destination(folder, overwrite=overwrite), model=SAFETENSORS)
    with artifact.staging(place) as aside:
        for name in ("config.json", *TOKENIZER_FILES):
            if (checkpoint.source.folder / name).is_file():
                shutil.copyfile(checkpoint.source.folder / name, aside / name)
        tensors = {name: value.contiguous() for name, value in {**weights, **changed}.items()}
        save_file(tensors, aside / SAFETENSORS, metadata={"format": "pt"})
        record = plan_to_json(plan) | provenance
        (aside / PLAN_FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
