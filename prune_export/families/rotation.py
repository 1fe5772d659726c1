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


def frequencies_of(theta: Any, size: int, name: str) -> Tensor:
    """Returns `rotary_frequencies` of a base that config.json has under `name`.

    Raises:
        UnsupportedError: it is no number above 0, or too near to it for float32.
    """
    frequencies = rotary_frequencies(float(theta), size) if type(theta) in (int, float) and theta > 0 else None
    if frequencies is None or not torch.isfinite(frequencies).all():
        raise UnsupportedError(
            f"config.json: {name} is {clipped(repr(theta))}; expected a number above 0, the base of the rotary frequencies"
        )
    return frequencies


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


def values_of_rotation(config: Any, dimensions: Dimensions) -> dict[str, Any]:
    """Returns the frequencies of the scores of a network whose layers are alike, from `rope_parameters`.

    Raises:
        UnsupportedError: heads have no pairs, or frequencies are scaled.
    """
    check_head_size(config, dimensions)
    entry = config.rope_parameters
    check_is_not_scaled(entry, "rope_parameters have")
    part = entry.get("partial_rotary_factor", 1.0)
    if part != 1.0:
        raise UnsupportedError(
            f"config.json: rope_parameters have the partial_rotary_factor {clipped(str(part))}; expected 1, all dimensions "
            "of a head"
        )
    return {"frequencies": frequencies_of(entry["rope_theta"], dimensions.head_size, "rope_theta"), "window": None}


def check_head_size(config: Any, dimensions: Dimensions) -> None:
    """Checks that the dimensions of a head form pairs, and that config.json names no other size of heads.

    Raises:
        UnsupportedError: it does.
    """
    size = dimensions.head_size
    said = getattr(config, "head_dim", size)
    if size % 2 or type(said) is not int or said != size:
        raise UnsupportedError(
            f"config.json: expected an even head size, hidden_size / num_attention_heads; found {size} and head_dim "
            f"{clipped(str(said))}"
        )
