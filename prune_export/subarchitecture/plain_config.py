"""The configuration of a plain network: the parent's, with other sizes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from exporters.distances import Distances
from exporters.encoder import DotProduct, Gated, RelativeBias, Rotary, Ungated
from exporters.errors import UnsupportedError, UsageError
from exporters.kinds import check_kinds
from prune_export.checkpoint.load import Checkpoint
from prune_export.families.describe import norm_type
from prune_export.families.names import Family
from prune_export.subarchitecture.shape import Shape, check_shape
from prune_export.subarchitecture.space import Space

# The keys of config.json for each size, under all names that the families have for it.
_KEYS = {
    "layers": ("num_hidden_layers", "n_layers", "n_layer"),
    "heads": ("num_attention_heads", "num_key_value_heads", "n_heads", "n_head"),
    "hidden": ("hidden_size", "dim", "n_embd", "pooler_hidden_size"),
    "intermediate": ("intermediate_size", "hidden_dim", "n_inner"),
    "embedding": ("embedding_size",),
}
_PER_LAYER = ("layer_types",)  # keys that list something for every layer


def plain_config(parent: Checkpoint, shape: Shape) -> Any:
    """Returns the transformers configuration of a network of `shape`, otherwise like that of `parent`.

    An embedding size of its own (ELECTRA) stays, unless it is the hidden size.

    Raises:
        UsageError: no such network exists, a size is above the parent's, or the network would be narrower than one whose
            decoder is the word embeddings by name (DeBERTa's newer fill-mask head).
        UnsupportedError: see `check_parent`.
    """
    check_parent(parent)
    config = parent.config
    old = parent.family.dimensions(config)
    check_shape(shape, old)
    if shape.hidden < old.hidden and keeps_width(parent):
        raise UsageError(
            f"hidden: expected {old.hidden}, the parent's, because the decoder of its fill-mask head is the word embeddings "
            f"themselves, which a narrower network has in another basis; found {shape.hidden}"
        )
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


def keeps_width(parent: Checkpoint) -> bool:
    """Says whether the parent's decoder is the word embeddings by name."""
    decoder = parent.family.heads[parent.task].get("decoder.weight")
    return decoder is not None and decoder.name == word_name(parent.family)


def plain_shapes(parent: Checkpoint, space: Space) -> tuple[Shape, ...]:
    """Returns the shapes of a space that plain networks made of `parent` can have; see `Space.shapes`.

    Raises:
        UsageError: there is none.
    """
    dimensions = parent.family.dimensions(parent.config)
    shapes = space.shapes(dimensions)
    if keeps_width(parent):
        shapes = tuple(shape for shape in shapes if shape.hidden == dimensions.hidden)
    if not shapes:
        raise UsageError(
            f"space: hidden: expected {dimensions.hidden}, the parent's, because the decoder of its fill-mask head is the "
            f"word embeddings themselves; found {', '.join(map(str, space.hidden))}"
        )
    return shapes


def word_name(family: Family) -> str:
    """Returns the name of the word embeddings in checkpoints of a family."""
    return family.body(family.embeddings["word"].name)


def check_parent(parent: Checkpoint) -> None:
    """Checks that a plain network can be made of `parent`.

    Raises:
        UnsupportedError: its weights are not of full size, layers share their weights, or its norms are neither
            LayerNorm nor RMSNorm.
    """
    name, encoder = parent.source.name, parent.encoder
    if parent.form not in ("plain", "masked"):
        raise UnsupportedError(f"'{name}' is in {parent.form} format; expected a checkpoint with weights of full size")
    if len(encoder.distinct_layers) < len(encoder.layers):
        raise UnsupportedError(
            f"'{name}': layers of {parent.family.model_type} share their weights; expected a parent whose layers have "
            "their own"
        )
    check_kinds(
        encoder.layers, f"--uniform, of '{name}',", known=(DotProduct, RelativeBias, Rotary, Distances, Ungated, Gated)
    )
    if norm_type(parent.config) != "layer_norm":
        raise UnsupportedError(
            f"'{name}': its norms are '{norm_type(parent.config)}'; expected a parent with LayerNorms or RMSNorms"
        )
