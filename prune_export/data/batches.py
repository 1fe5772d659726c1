"""Batches with little padding: sequences of similar length together, as many as a budget of tokens allows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from exporters.errors import UsageError
from prune_export.data.features import Feature, Ids


def plan_batches(
    lengths: Sequence[int], *, max_tokens: int, max_rows: int | None = None
) -> tuple[tuple[int, ...], ...]:
    """Groups sequences into batches: indices into `lengths`, each once, the longest first.

    A batch holds at most `max_tokens` tokens, padding included, and `max_rows` sequences; a sequence that is longer than
    `max_tokens` is a batch of its own. Because the longest come first, memory runs out at once or not at all, and buffers
    are allocated at their full size.

    Raises:
        UsageError: `max_tokens` or `max_rows` is below 1.
    """
    if max_tokens < 1 or (max_rows is not None and max_rows < 1):
        raise UsageError(f"--batch-tokens {max_tokens}, {max_rows} rows: expected 1 or more")
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    batches: list[list[int]] = []
    for index in order:
        # The first of a batch is its longest, and decides how wide all its rows are.
        if not batches or (len(batches[-1]) + 1) * lengths[batches[-1][0]] > max_tokens or len(batches[-1]) == max_rows:
            batches.append([])
        batches[-1].append(index)
    return tuple(tuple(batch) for batch in batches)


def collate(features: Sequence[Feature], tokenizer: Any, *, length: int | None = None) -> dict[str, Any]:
    """Returns one batch of int64 arrays `[batch, length]`: `input_ids`, `attention_mask`, `token_type_ids`.

    Padded to `length` (None: the longest) on the tokenizer's side. Labelled features add `start_positions` and
    `end_positions`, or `labels` (float32 for a regression), all `[batch]`, as transformers' models take them.
    """
    width = max(len(feature.input_ids) for feature in features) if length is None else length
    shape = (len(features), width)
    ids: Ids = np.full(shape, tokenizer.pad_token_id, dtype=np.int64)
    mask: Ids = np.zeros(shape, dtype=np.int64)
    types: Ids = np.full(shape, tokenizer.pad_token_type_id, dtype=np.int64)
    for row, feature in enumerate(features):
        first = padding_before(feature, width, tokenizer)
        columns = slice(first, first + len(feature.input_ids))
        ids[row, columns], mask[row, columns], types[row, columns] = feature.input_ids, 1, feature.token_type_ids
    batch: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    if features[0].start is not None:
        before = [padding_before(feature, width, tokenizer) for feature in features]
        for name, positions in (
            ("start_positions", [f.start for f in features]),
            ("end_positions", [f.end for f in features]),
        ):
            batch[name] = np.array(positions, dtype=np.int64) + before
    if features[0].label is not None:
        regression = any(isinstance(feature.label, float) for feature in features)
        batch["labels"] = np.array([f.label for f in features], dtype=np.float32 if regression else np.int64)
    return batch


def padding_before(feature: Feature, width: int, tokenizer: Any) -> int:
    """Counts the padding tokens before the feature in a row of `width` tokens."""
    return width - len(feature.input_ids) if tokenizer.padding_side == "left" else 0
