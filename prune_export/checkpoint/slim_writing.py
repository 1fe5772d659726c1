"""Writes slim checkpoints; `slim.py` says what they hold."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from exporters.axes import leaves, named_tensors
from exporters.encoder import Attention, ConstantBlock, Encoder, MaskedLanguageHead, Rotary
from prune_export.checkpoint.beside import check_beside, copy_beside, tokenizer_files
from prune_export.checkpoint.slim import FORMAT, SCORES
from prune_export.facts.file_names import CONFIG, PLAN_FILE, SLIM
from prune_export.files.tensors import save_tensors
from prune_export.files.transaction import transaction
from prune_export.outputs.destination import folder_destination
from prune_export.outputs.folder_types import SLIM_CHECKPOINT


def write_slim(encoder: Encoder, config: Any, folder: Path, *, beside: Path | None = None, **provenance: Any) -> None:
    """Writes `encoder` and its configuration into `folder`, which is made if needed.

    The tokenizer's files in `beside` are copied. `provenance` (stage, steps, …) goes into pruning.json.

    As with every checkpoint that is saved while training, an older slim one there is replaced; files that are not of one are
    not. All files are prepared aside and moved into place.

    Raises:
        OutputError: the folder holds files of these names that are not of a slim checkpoint, or cannot be written.
        CheckpointError: a file that is copied is a link that leads out of its folder.
    """
    copied = () if beside is None else tokenizer_files(beside)
    if beside is not None:
        check_beside(beside, copied)
    tensors = {f"embeddings.{path}": value for path, value in named_tensors(encoder.embeddings).items()}
    for index, layer in enumerate(encoder.distinct_layers):
        for path, value, axes in leaves(layer):
            if isinstance(value, Tensor):
                is_shared = path.startswith(SCORES) and "head" not in axes.names  # all layers hold the same tensor
                tensors[path.removeprefix("attention.") if is_shared else f"layers.{index}.{path}"] = value
    if encoder.final_norm is not None:
        tensors |= {f"final_norm.{path}": value for path, value in named_tensors(encoder.final_norm).items()}
    tensors |= {f"head.{path}": value for path, value in named_tensors(encoder.head).items()}
    if isinstance(encoder.head, MaskedLanguageHead) and encoder.head.decoder.weight is encoder.embeddings.word:
        del tensors["head.decoder.weight"]  # tied
    record = FORMAT.marked(
        {
            "files": [CONFIG, PLAN_FILE, SLIM, *copied],
            "task": encoder.task,
            "order": list(encoder.layer_indices),
            "layers": [_layer_record(layer.attention) for layer in encoder.distinct_layers],
        }
        | provenance
    )
    if encoder.is_sliced:
        record["sliced"] = {"widths": list(encoder.widths), "epsilons": [norm.epsilon for norm in encoder.norms]}
    earlier = SLIM_CHECKPOINT.removable(folder)
    is_slim = earlier >= {name for name in SLIM_CHECKPOINT.required if os.path.lexists(folder / name)}
    kind = SLIM_CHECKPOINT
    if beside is None:  # a tokenizer there is the user's own
        kind = replace(kind, optional=frozenset())
    place = folder_destination(folder, kind, overwrite=is_slim)
    place.check(copied)
    with transaction(place.placement) as aside:
        if beside is not None:
            copy_beside(beside, aside, copied)
        config.to_json_file(aside / CONFIG, use_diff=False)
        (aside / PLAN_FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        save_tensors(tensors, aside / SLIM)


def _layer_record(attention: Attention | ConstantBlock) -> dict[str, Any]:
    """Returns what pruning.json says of a layer."""
    if not isinstance(attention, Attention):
        return {"heads": None}
    pairs = attention.scores.pairs if isinstance(attention.scores, Rotary) else None
    return {"heads": list(attention.heads)} | ({} if pairs is None else {"pairs": [list(own) for own in pairs]})
