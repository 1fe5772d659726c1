"""The batch that every row is fed: the same token ids, wherever it is made."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prune_export.benchmark.rows import Conditions, Shape

_SEED = 0


def make_batch(shape: Shape, conditions: Conditions) -> dict[str, NDArray[np.int64]]:
    """Returns random token ids, their mask and token types, int64 `[batch_size, sequence_length]`, padded on the right."""
    size = (shape.batch_size, shape.sequence_length)
    ids = np.random.default_rng(_SEED).integers(0, conditions.vocabulary, size, dtype=np.int64)
    # RoBERTa counts positions by what is not padding, so no real token may look like it.
    ids[ids == conditions.pad_token_id] = (conditions.pad_token_id + 1) % conditions.vocabulary
    mask = np.ones(size, dtype=np.int64)
    for row, length in enumerate(lengths(shape, conditions.padding)):
        mask[row, length:] = 0
        ids[row, length:] = conditions.pad_token_id
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros(size, dtype=np.int64)}


def lengths(shape: Shape, padding: float) -> list[int]:
    """Returns the number of real tokens per row.

    Rows of a real batch differ: their fractions of padding are evenly spread around `padding`, as widely as possible.
    The longest row comes first; none is empty.
    """
    width = min(padding, 1 - padding) if shape.batch_size > 1 else 0.0
    fractions = np.linspace(padding - width, padding + width, shape.batch_size)
    return [max(1, round(shape.sequence_length * (1 - float(fraction)))) for fraction in fractions]
