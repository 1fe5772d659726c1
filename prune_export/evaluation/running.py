"""Runs a network over features, in batches with little padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters.errors import OutputError
from prune_export.data.batches import collate, padding_before, plan_batches
from prune_export.data.features import Feature
from prune_export.network.opening import Network

Row = dict[str, NDArray[np.float32]]


def run_features(
    network: Network,
    features: Sequence[Feature],
    tokenizer: Any,
    *,
    max_tokens: int,
    per_token: bool,
    advance: Callable[[int], None] = lambda _: None,
) -> list[Row]:
    """Returns the network's outputs per feature, in the order of the features.

    A row is `[length, …]` without the padding where the outputs are `per_token`, otherwise the output of the sequence.
    `advance` is called with the number of features of each batch.

    Raises:
        OutputError: an output is not finite, or the network cannot run.
    """
    rows: list[Row] = [{} for _ in features]
    for batch in plan_batches([len(feature.input_ids) for feature in features], max_tokens=max_tokens):
        inputs = collate([features[index] for index in batch], tokenizer)
        outputs = network.run(inputs)
        width = inputs["input_ids"].shape[1]
        for name, values in outputs.items():
            if not np.isfinite(values).all():
                raise OutputError(f"{network.name}: {name} holds numbers that are not finite; the model is of no use")
            for row, index in enumerate(batch):
                before = padding_before(features[index], width, tokenizer)
                last = before + len(features[index].input_ids)
                rows[index][name] = values[row, before:last] if per_token else values[row]
        advance(len(batch))
    return rows
