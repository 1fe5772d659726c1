"""Conversion of the inputs that users have into the int64 arrays that a graph takes, or one error that says why not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters.errors import UsageError

Ids = NDArray[np.int64]

# Further inputs of transformers' encoders that change the answers; ignoring one would give a wrong answer.
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
    """The ranges of a graph's ids and lengths; None: not known, as for a model of another exporter.

    `positions` is the most tokens of a row; if `pad_token_id` is set (RoBERTa), tokens with that id are not counted.
    """

    vocabulary: int | None = None
    positions: int | None = None
    token_types: int | None = None
    pad_token_id: int | None = None

    def to_metadata(self) -> dict[str, str]:
        """Returns the limits as metadata of a graph, which `limits_of` reads back."""
        limits = {field.name: getattr(self, field.name) for field in fields(self)}
        return {f"{_PREFIX}{name}": str(value) for name, value in limits.items() if value is not None}


def limits_of(metadata: Mapping[str, str]) -> Limits:
    """Reads the limits in a graph's metadata; a value that is no number is ignored."""
    texts = {field.name: metadata.get(f"{_PREFIX}{field.name}", "") for field in fields(Limits)}
    return Limits(
        **{name: int(text) for name, text in texts.items() if text.isascii() and text.isdecimal() and len(text) < 10}
    )


def feed(inputs: Any, expected: tuple[str, ...], limits: Limits) -> dict[str, Ids]:
    """Returns the inputs `expected` by the graph as contiguous int64 arrays `[batch, sequence]`.

    A single row becomes a batch of one. Lists, PyTorch tensors and arrays of any integer type, of booleans and of
    floating-point numbers that are whole are converted. Other inputs that change no answer are left out.

    Raises:
        UsageError: an input is missing, of another form, or out of range; the message says what was expected.
    """
    if not expected:
        raise UsageError("the model takes no inputs; expected an exported encoder")
    if not isinstance(inputs, Mapping):
        raise UsageError(f"inputs: expected a mapping with {', '.join(expected)}; found {type(inputs).__name__}")
    given = {str(name): value for name, value in inputs.items() if value is not None}
    if missing := [name for name in expected if name not in given]:
        names = ", ".join(given) or "nothing"
        raise UsageError(
            f"the model takes the input {', '.join(missing)}; expected {', '.join(expected)}, found {names:.200}"
        )
    if refused := [name for name in _REFUSED if name in given and name not in expected]:
        raise UsageError(f"the model does not take {', '.join(refused)}; expected {', '.join(expected)} alone")
    arrays = {name: _array(name, given[name]) for name in expected}
    first = expected[0]
    for name, values in arrays.items():
        if values.shape != arrays[first].shape:
            raise UsageError(
                f"{name}: expected the shape of {first}, {list(arrays[first].shape)}; found {list(values.shape)}"
            )
        if not values.shape[1]:
            raise UsageError(f"{name}: expected one token or more; found the shape {list(values.shape)}")
    _check_ranges(arrays, limits)
    return arrays


def _array(name: str, given: Any) -> Ids:
    try:
        # Also PyTorch's tensors, on any device, without importing PyTorch.
        values = np.asarray(given.detach().cpu().numpy() if hasattr(given, "detach") else given)
    except Exception as error:  # lists of different lengths, and errors of other array classes
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


def _refusal(name: str, given: str) -> UsageError:
    return UsageError(f"{name}: expected whole numbers, int64 [batch, sequence]; found {given}")


def _check_ranges(arrays: Mapping[str, Ids], limits: Limits) -> None:
    ids = arrays.get("input_ids")
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
    _check_range("attention_mask", arrays.get("attention_mask"), 2)
    _check_range("token_type_ids", arrays.get("token_type_ids"), limits.token_types)


def _check_range(name: str, values: Ids | None, end: int | None) -> None:
    """Checks a range; a negative index would silently be counted from the end."""
    if values is None or not values.size:
        return
    least, most = int(values.min()), int(values.max())
    if least < 0 or (end is not None and most >= end):
        expected = "0 or more" if end is None else f"0 to {end - 1}"
        raise UsageError(f"{name}: expected {expected}; found {least if least < 0 else most}")
