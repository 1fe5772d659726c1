"""The configuration of a plain network: the parent's, with other sizes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from exporters.encoder import DotProduct, Gated, RelativeBias, Rotary, Ungated
from exporters.errors import UnsupportedError
from exporters.kinds import check_kinds
from prune_export.checkpoint.load import Checkpoint
from prune_export.families.describe import norm_type
from prune_export.subarchitecture.shape import Shape, check_shape

# The keys of config.json for each size, under all names that the families have for it.
_KEYS = {
    "layers": ("num_hidden_layers", "n_layers", "n_layer"),
    "heads": ("num_attention_heads", "num_key_value_heads", "n_heads", "n_head"),
    "hidden": ("hidden_size", "dim", "n_embd"),
    "intermediate": ("intermediate_size", "hidden_dim", "n_inner"),
    "embedding": ("embedding_size",),
}
_PER_LAYER = ("layer_types",)  # keys that list something for every layer


def plain_config(parent: Checkpoint, shape: Shape) -> Any:
    """Returns the transformers configuration of a network of `shape`, otherwise like that of `parent`.

    An embedding size of its own (ELECTRA) stays, unless it is the hidden size.

    Raises:
        UsageError: no such network exists, or a size is above the parent's.
        UnsupportedError: see `check_parent`.
    """
    check_parent(parent)
    config = parent.config
    old = parent.family.dimensions(config)
    check_shape(shape, old)
    embedding = shape.hidden if old.embedding == old.hidden else old.embedding
    sizes = {
        "layers": shape.depth,
        "heads": shape.heads,
        "hidden": shape.hidden,
        "intermediate": shape.intermediate,
        "embedding": embedding,
    }
    raw = config.to_dict()
    for size, keys in _KEYS.items():
        raw |= {key: sizes[size] for key in keys if raw.get(key) is not None}
    raw |= {key: raw[key][: shape.depth] for key in _PER_LAYER if raw.get(key) is not None}
    raw.pop("torch_dtype", None)
    raw |= {"architectures": [parent.family.class_name(parent.task)], "dtype": "float32"}
    smaller = type(config).from_dict(raw)
    smaller.dtype = torch.float32
    expected = replace(
        old,
        layers=shape.depth,
        heads=shape.heads,
        hidden=shape.hidden,
        intermediate=shape.intermediate,
        embedding=embedding,
    )
    assert parent.family.dimensions(smaller) == expected, f"{parent.family.model_type}: a size has another key"
    return smaller


def check_parent(parent: Checkpoint) -> None:
    """Checks that a plain network can be made of `parent`.

    Raises:
        UnsupportedError: its weights are not of full size, layers share their weights, scores have terms by distance, or its
        norms are neither LayerNorm nor RMSNorm.
    """
    name, encoder = parent.source.name, parent.encoder
    if parent.form not in ("plain", "masked"):
        raise UnsupportedError(f"'{name}' is in {parent.form} format; expected a checkpoint with weights of full size")
    if len(encoder.distinct_layers) < len(encoder.layers):
        raise UnsupportedError(
            f"'{name}': layers of {parent.family.model_type} share their weights; expected a parent whose layers have "
            "their own"
        )
    if not issubclass(parent.family.scores_kind, DotProduct | RelativeBias | Rotary):
        raise UnsupportedError(
            f"'{name}': {parent.family.model_type} scores pairs of tokens by their distance, for which no smaller heads are "
            "made; search without --uniform"
        )
    check_kinds(encoder.layers, f"--uniform, of '{name}',", known=(DotProduct, RelativeBias, Rotary, Ungated, Gated))
    if norm_type(parent.config) != "layer_norm":
        raise UnsupportedError(
            f"'{name}': its norms are '{norm_type(parent.config)}'; expected a parent with LayerNorms or RMSNorms"
        )
