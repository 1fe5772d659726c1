"""Training examples to score heads and columns with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from exporters.errors import DataError
from prune_export.data.features import Feature
from prune_export.pruning.calibration import Calibration, make_calibration
from prune_export.training.stage import Context


def training_calibration(context: Context, samples: int) -> Calibration:
    """So many of the training examples, one window of each, drawn by the recipe's seed.

    Raises:
        DataError: there are less than two examples.
    """
    windows = one_window_each(context.features)
    if len(windows) < 2:
        raise DataError(f"data.train: found {len(windows)} examples to score with; expected 2 or more")
    order = np.random.default_rng(context.recipe.seed).permutation(len(windows))[:samples]
    chosen = [windows[int(index)] for index in sorted(order)]
    name, inputs = ", ".join(context.recipe.data.train), context.original.encoder.inputs
    return make_calibration(name, chosen, context.tokenizer, inputs, seed=context.recipe.seed)


def one_window_each(features: Sequence[Feature]) -> list[Feature]:
    """The first window of each example that holds an answer, or its first where none does."""
    chosen: dict[int, Feature] = {}
    for feature in features:
        answered = feature.start is not None and feature.start != feature.cls
        before = chosen.get(feature.example)
        if before is None or (answered and before.start == before.cls):
            chosen[feature.example] = feature
    return list(chosen.values())
