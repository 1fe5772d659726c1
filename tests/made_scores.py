"""Scores of layers made up for tests of selection."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st

from prune_export.pruning.scores import LayerScores

NUMBERS = st.floats(0.01, 1.0).map(lambda value: round(value, 4))


def layer_scores(heads: list[float], columns: list[float]) -> LayerScores:
    return LayerScores(torch.tensor(heads, dtype=torch.float64), torch.tensor(columns, dtype=torch.float64))


def kept_score(scores: list[LayerScores], kept: Any) -> float:
    return sum(
        float(part.heads[list(heads)].sum() + part.columns[list(columns)].sum())
        for part, (heads, columns) in zip(scores, kept, strict=True)
    )
