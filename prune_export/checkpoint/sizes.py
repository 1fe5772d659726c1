"""Limits to what config.json may ask for, checked on its raw numbers: transformers itself sets no limit to anything."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from exporters.errors import CheckpointError
from prune_export.families.names import Dimensions, Family
from prune_export.files.reading import nested, shown

# The largest encoders that were published have 48 layers, 64 heads, a hidden size of 4,096 and a million tokens.
MOST_LAYERS = 1_000
MOST_HEADS = 4_096
MOST_HIDDEN = 131_072
MOST_INTERMEDIATE = 1 << 20
MOST_ROWS = 16 << 20  # of a table: vocabulary, positions, token types
MOST_LABELS = 1 << 17  # transformers keeps two dictionaries of them and copies both at every turn
LARGEST_INTEGER = 1 << 63

# Every name under which transformers takes a size of a supported family, its attribute_map's included.
_LIMITS = {
    **dict.fromkeys(("num_hidden_layers", "n_layers", "num_hidden_groups", "inner_group_num"), MOST_LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_heads"), MOST_HEADS),
    **dict.fromkeys(("hidden_size", "dim", "embedding_size"), MOST_HIDDEN),
    **dict.fromkeys(("intermediate_size", "hidden_dim"), MOST_INTERMEDIATE),
    **dict.fromkeys(("vocab_size", "max_position_embeddings", "type_vocab_size"), MOST_ROWS),
    "num_labels": MOST_LABELS,
}
_FLOAT32 = 4


def check_raw_sizes(raw: dict[str, Any], path: Path) -> None:
    """Checks the numbers in config.json before anything is made of them.

    Raises:
        CheckpointError: a size is no whole number or beyond the limits, or a number anywhere is.
    """
    for name, limit in _LIMITS.items():
        value = raw.get(name)
        if value is not None and (type(value) is not int or not 0 <= value <= limit):
            raise CheckpointError(
                f"{path}: expected a whole number of at most {limit:,} for {name}; found {shown(value)}"
            )
    for name in ("id2label", "label2id"):
        labels = raw.get(name)
        if labels is not None and (not isinstance(labels, dict) or len(labels) > MOST_LABELS):
            count = f"{len(labels):,}" if isinstance(labels, dict) else shown(labels)
            raise CheckpointError(f"{path}: expected {name} to map at most {MOST_LABELS:,} labels; found {count}")
    if not all(key.isdecimal() and len(key) <= 7 for key in raw.get("id2label") or ()):
        raise CheckpointError(f"{path}: expected id2label to map whole numbers to labels")
    padding = raw.get("pad_token_id")
    if padding is not None and type(padding) is not int:
        raise CheckpointError(f"{path}: expected a whole number for pad_token_id; found {shown(padding)}")
    for _, value in nested(raw):
        if (isinstance(value, int) and abs(value) > LARGEST_INTEGER) or (
            isinstance(value, float) and not math.isfinite(value)
        ):
            raise CheckpointError(f"{path}: expected numbers of at most 64 bits; found {shown(value)}")


def check_memory(family: Family, config: Any, sizes: Dimensions, path: Path) -> None:
    """Checks that the network of full size fits into this machine's memory: the reference model has that size.

    Raises:
        CheckpointError: it does not, or has too many layers.
    """
    if sizes.layers > MOST_LAYERS:
        raise CheckpointError(f"{path}: expected at most {MOST_LAYERS:,} layers; found {sizes.layers:,}")
    distinct = len(set(family.layer_paths(config)))
    layer = 4 * sizes.hidden**2 + 2 * sizes.hidden * sizes.intermediate
    tables = (sizes.vocabulary + sizes.positions + sizes.types) * sizes.embedding + sizes.distance_rows * sizes.hidden
    needed = _FLOAT32 * (distinct * layer + tables + sizes.hidden * (sizes.embedding + sizes.labels))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > memory:
        raise CheckpointError(
            f"{path}: describes a network of {needed / 1e9:,.1f} GB; this machine has {memory / 1e9:,.1f} GB of memory"
        )
