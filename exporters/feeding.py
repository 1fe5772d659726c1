"""What a model is fed: arrays as users have them become the int64 arrays that its graph takes, or one error says why not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters.errors import UsageError

Ids = NDArray[np.int64]

# What transformers' encoders take beside our inputs and what changes their answers; to leave it out would be a wrong answer.
_REFUSED = (
    "position_ids",
    "inputs_embeds",
    "head_mask",
    "encoder_hidden_states",
    "encoder_attention_mask",
    "past_key_values",
)
_PREFIX = "prune_export."


@dataclass(frozen=True, slots=True)
class Limits:
    """How far ids and lengths of a graph may go; None: not known, as of a model that is not ours.

    `positions` is the most tokens of a row; where `pad_token_id` is there (RoBERTa), tokens with that id are not counted.
    """

    vocabulary: int | None = None
    positions: int | None = None
    token_types: int | None = None
    pad_token_id: int | None = None

    def to_metadata(self) -> dict[str, str]:
        """As the graph carries it; `limits_of` reads it back."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {f"{_PREFIX}{name}": str(value) for name, value in found.items() if value is not None}


def limits_of(metadata: Mapping[str, str]) -> Limits:
    """The limits in a graph's metadata; a value that is no number is not believed."""
    found = {field.name: metadata.get(f"{_PREFIX}{field.name}", "") for field in fields(Limits)}
    return Limits(
        **{name: int(text) for name, text in found.items() if text.isascii() and text.isdecimal() and len(text) < 10}
    )


def feed(inputs: Any, wanted: tuple[str, ...], limits: Limits) -> dict[str, Ids]:
    """Of `inputs` those that the graph takes (`wanted`), as int64 arrays `[batch, sequence]` in one piece of memory.

    A row alone becomes a batch of one. Arrays of any integer type, of truth values, of floating-point numbers that are
    whole, lists and PyTorch tensors are converted. Of further inputs those that change no answer are left out.

    Raises:
        UsageError: an input is missing, of another form, or out of range; the message says what was expected.
    """
    if not wanted:
        raise UsageError("the model takes no inputs; expected an exported encoder")
    if not isinstance(inputs, Mapping):
        raise UsageError(f"inputs: expected a mapping with {', '.join(wanted)}; found {type(inputs).__name__}")
    given = {str(name): value for name, value in inputs.items() if value is not None}
    if missing := [name for name in wanted if name not in given]:
        names = ", ".join(given) or "nothing"
        raise UsageError(
            f"the model takes the input {', '.join(missing)}; expected {', '.join(wanted)}, found {names:.200}"
        )
    if refused := [name for name in _REFUSED if name in given and name not in wanted]:
        raise UsageError(f"the model does not take {', '.join(refused)}; expected {', '.join(wanted)} alone")
    found = {name: _array(name, given[name]) for name in wanted}
    first = wanted[0]
    for name, values in found.items():
        if values.shape != found[first].shape:
            raise UsageError(
                f"{name}: expected the shape of {first}, {list(found[first].shape)}; found {list(values.shape)}"
            )
        if not values.shape[1]:
            raise UsageError(f"{name}: expected one token or more; found the shape {list(values.shape)}")
    _check_ranges(found, limits)
    return found


def _array(name: str, given: Any) -> Ids:
    try:
        # PyTorch's tensors, on whatever device; this module does without PyTorch.
        values = np.asarray(given.detach().cpu().numpy() if hasattr(given, "detach") else given)
    except Exception as error:  # lists of different lengths, and whatever somebody's own class raises
        raise _refusal(
            name, f"{type(given).__name__} that is no array: {' '.join(str(error).split())[:100]}"
        ) from error
    if values.ndim == 1:
        values = values[None]
    if values.ndim != 2:
        raise _refusal(name, f"{values.dtype} of shape {list(values.shape)}")
    if values.dtype.kind not in "biuf" and values.size:
        raise _refusal(name, str(values.dtype))
    if values.dtype.kind == "f" and not _whole(values.astype(np.float64)):
        raise _refusal(name, f"{values.dtype} with numbers that are not whole")
    if values.dtype.kind == "u" and values.dtype.itemsize == 8 and values.size and values.max() >= 1 << 63:
        raise _refusal(name, f"{values.max()}")
    return np.ascontiguousarray(values, dtype=np.int64)


def _whole(values: NDArray[np.float64]) -> bool:
    return bool(np.all(np.isfinite(values) & (values == np.floor(values)) & (np.abs(values) < 2**53)))


def _refusal(name: str, found: str) -> UsageError:
    return UsageError(f"{name}: expected whole numbers, int64 [batch, sequence]; found {found}")


def _check_ranges(found: Mapping[str, Ids], limits: Limits) -> None:
    ids = found.get("input_ids")
    if ids is not None and limits.positions is not None:
        counts = (
            np.full(len(ids), ids.shape[1]) if limits.pad_token_id is None else (ids != limits.pad_token_id).sum(axis=1)
        )
        if counts.size and counts.max() > limits.positions:
            raise UsageError(
                f"input_ids: expected at most {limits.positions} tokens, for which the model has positions; "
                f"found {counts.max()}"
            )
    _check_range("input_ids", ids, limits.vocabulary)
    _check_range("attention_mask", found.get("attention_mask"), 2)
    _check_range("token_type_ids", found.get("token_type_ids"), limits.token_types)


def _check_range(name: str, values: Ids | None, end: int | None) -> None:
    """A negative index would be counted from the end, without a word."""
    if values is None or not values.size:
        return
    least, most = int(values.min()), int(values.max())
    if least < 0 or (end is not None and most >= end):
        expected = "0 or more" if end is None else f"0 to {end - 1}"
        raise UsageError(f"{name}: expected {expected}; found {least if least < 0 else most}")
