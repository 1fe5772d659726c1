"""Hints about a checkpoint that cannot be read: what may have happened to it, and how to mend it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from prune_export.families.names import Family
from prune_export.files.reading import clipped

_TRANSFORMER = "0_Transformer"  # sentence-transformers before 2.0
_FARM = ("language_model.bin", "language_model_config.json")

# Patterns in the names of unfinished weights, and what still has to be done to them.
_UNFINISHED = (
    (r"\.(lora_[AB]|base_layer)\.", "merge the adapter first, with peft's merge_and_unload()"),
    (r"\.parametrizations\.", "call torch.nn.utils.parametrize.remove_parametrizations first"),
    (r"_orig$", "call torch.nn.utils.prune.remove first"),
    (
        r"mask",
        "the weights may be meant to be masked: apply the mask first, for example with torch.nn.utils.prune.remove",
    ),
)


def other_folder_hint(folder: Path) -> str:
    """Says what `folder`, which has no config.json, is; empty if that is not known."""
    if (folder / _TRANSFORMER / "config.json").is_file():
        return (
            f". It is a folder of an old sentence-transformers, whose network lies in {_TRANSFORMER}: give that, or load it "
            "with today's sentence-transformers and save it again"
        )
    if any((folder / name).is_file() for name in _FARM):
        return (
            ". It is a folder of FARM: convert it to a checkpoint of transformers, with "
            "AdaptiveModel.load(…).convert_to_transformers() and save_pretrained, and give that"
        )
    return ""


def unfinished_hint(names: Iterable[str]) -> str | None:
    """Says what still has to be done to weights with such names; None if there is nothing."""
    for name in names:
        for part, hint in _UNFINISHED:
            if re.search(part, name):
                return f"'{clipped(name)}' is there: {hint}"
    return None


def resized_hint(tensors: Mapping[str, Tensor], family: Family, config: Any) -> str | None:
    """Says what was removed from `tensors` without config.json saying so; None if there is nothing."""
    sizes = family.dimensions(config)
    layers = family.layer_paths(config)
    norms = [
        (family.body(row.module), sizes.embedding) for path, row in family.embeddings.items() if path == "norm.weight"
    ]
    norm_module = family.module(f"{family.input_norm('attention')}.weight")
    norms += [(f"{layer}.{norm_module}", sizes.hidden) for layer in layers]
    for norm, expected in norms:
        if (features := _rows(tensors, f"{norm}.weight")) not in (None, expected):
            return (
                f"'{norm}' has {features} features where config.json says {expected}: where all have as many, say so there; "
                "a hidden size that differs from layer to layer cannot be read, so put the weights back to full size, with "
                "zeros for what was cut"
            )
    pruned: dict[str, list[int]] = {}
    for index, layer in enumerate(layers):
        rows, columns = (
            _rows(tensors, f"{layer}.{family.layers[field].name}", family.layers[field].parts)
            for field in ("attention.query_weight", "feed_forward.up.weight")
        )
        if columns not in (None, sizes.intermediate):
            return (
                f"Layer {index} has {columns} of the {sizes.intermediate} columns of its feed-forward block. Blocks that "
                "are resized layer by layer have no place in config.json, and cannot be read: put the weights back to full "
                "size, with zeros in the rows and columns that were cut (those are what is removed here), or, where every "
                "layer has as many, say so in config.json"
            )
        if rows is not None and rows < sizes.heads * sizes.head_size and rows % sizes.head_size == 0:
            pruned[str(index)] = list(range(rows // sizes.head_size, sizes.heads))
    if not pruned or getattr(config, "pruned_heads", None):
        return None
    return (
        f'config.json seems to have lost its pruned_heads: add "pruned_heads": {json.dumps(pruned)} (how many are gone of '
        "each layer is what counts; which, changes no answer)"
    )


def _rows(tensors: Mapping[str, Tensor], name: str, parts: int = 1) -> int | None:
    """Returns the rows of the tensor `name`, per part; None where it is missing or has none."""
    tensor = tensors.get(name)
    return int(tensor.shape[0]) // parts if tensor is not None and tensor.ndim else None
