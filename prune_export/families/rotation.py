"""Frequencies of rotary scores (Su et al. 2021, "RoFormer"), the same for all families that have them."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from exporters.errors import UnsupportedError
from prune_export.families.names import Dimensions
from prune_export.files.reading import clipped


@cache
def rotary_frequencies(theta: float, size: int) -> Tensor:
    """Returns the frequencies of the pairs of a head of `size`: float32, `[size / 2]`, in transformers' order of operations.

    Su et al. 2021, "RoFormer", section 3.3: theta to the power of -2 p / size.
    """
    return 1.0 / (theta ** (torch.arange(0, size, 2, dtype=torch.float32) / size))


def check_is_not_scaled(entry: Any, name: str) -> None:
    """Checks a table of rotary parameters, which config.json has under `name`.

    Raises:
        UnsupportedError: its frequencies are scaled.
    """
    kind = entry.get("rope_type", "default")
    if kind != "default":
        raise UnsupportedError(
            f"config.json: {name} the rope_type {clipped(str(kind))!r}; expected 'default', frequencies that are not scaled"
        )


def check_head_size(config: Any, dimensions: Dimensions) -> None:
    """Checks that the dimensions of a head form pairs, and that config.json names no other size of heads.

    Raises:
        UnsupportedError: it does.
    """
    if dimensions.head_size % 2 or getattr(config, "head_dim", None) not in (None, dimensions.head_size):
        raise UnsupportedError(
            f"config.json: expected an even head size, hidden_size / num_attention_heads; found {dimensions.head_size} and "
            f"head_dim {clipped(str(getattr(config, 'head_dim', None)))}"
        )
