"""The types of a recipe's keys, with their ranges and meanings, and the strict conversion of values to them."""

from __future__ import annotations

import difflib
import math
import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from exporters.errors import UsageError
from prune_export.files.reading import clipped, shown
from prune_export.options.ranges import FRACTION, KEPT_FRACTION, NOT_NEGATIVE, POSITIVE, Range

MOST = 10**9  # steps, tokens, examples: more is a slip of the pen

Count = Annotated[int, Range(1, MOST, whole=True)]
CountOrZero = Annotated[int, Range(0, MOST, whole=True)]
SomeExamples = Annotated[int, Range(2, MOST, whole=True)]
Epochs = Annotated[float, Range(0, 10**6, above=True)]
EpochsOrZero = Annotated[float, Range(0, 10**6)]
Fraction = Annotated[float, FRACTION]
Share = Annotated[float, KEPT_FRACTION]
Positive = Annotated[float, POSITIVE]
NotNegative = Annotated[float, NOT_NEGATIVE]


# --- reading ----------------------------------------------------------------------------------------------------------

_NAMES = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}


def build(kind: type[Any], data: Mapping[str, Any], source: str, prefix: str) -> Any:
    """Returns the dataclass `kind` with the values `data`; whole numbers become floats, single values lists, where needed.

    `source` and `prefix` (a section and a dot) name the values in messages.

    Raises:
        UsageError: a key is unknown or missing, or a value is of the wrong type or out of its range.
    """
    known = {field.name: field for field in fields(kind)}
    for key in data:
        if key not in known:
            raise UsageError(
                f"{source}: unknown key '{prefix}{clipped(key)}'; the nearest known one is '{prefix}{nearest(key, known)}'"
            )
    for name, field in known.items():
        if name not in data and field.default is MISSING and field.default_factory is MISSING:
            raise UsageError(f"{source}: '{prefix}{name}' is missing")
    hints = get_type_hints(kind, include_extras=True)
    return kind(**{key: _value(hints[key], value, source, f"{prefix}{key}") for key, value in data.items()})


def nearest(key: str, known: Iterable[str]) -> str:
    """Returns the name in `known` that is most like `key`."""
    return max(known, key=lambda name: difflib.SequenceMatcher(None, key[:100], name).ratio())


def _value(hint: Any, value: Any, source: str, where: str, limits: tuple[Range, ...] = ()) -> Any:
    """Returns `value` converted to the annotation `hint`."""

    def refused(expected: str) -> UsageError:
        return UsageError(f"{source}: {where}: expected {expected}; found {shown(value)}")

    origin, options = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _value(
            options[0], value, source, where, (*limits, *(note for note in options[1:] if isinstance(note, Range)))
        )
    if origin in (Union, types.UnionType):  # a type, or None
        return _value(options[0], value, source, where, limits)
    if origin is Literal:
        if value in options:
            return value
        raise refused(f"one of {', '.join(map(str, options))}")
    if origin is tuple:
        is_open = options[-1] is Ellipsis
        items = value if isinstance(value, list) or not is_open else [value]
        if not isinstance(items, list) or (not is_open and len(items) != len(options)):
            raise refused(f"a list of {len(options)}")
        kinds = [options[0]] * len(items) if is_open else options
        return tuple(_value(kind, item, source, where) for kind, item in zip(kinds, items, strict=True))
    if origin is Mapping:
        if isinstance(value, dict):
            return value
        raise refused("a table")
    if is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, hint):  # [method], which is read already
            return value
        if isinstance(value, dict):
            return build(hint, value, source, f"{where}.")
        raise refused("a table")
    if hint is float and type(value) is int:
        value = float(value) if abs(value) < 2**1023 else math.inf
    if type(value) is not hint:
        raise refused(_NAMES[hint])
    if hint is int or hint is float:
        is_finite = hint is int or math.isfinite(value)  # Python's whole numbers may be larger than any float
        if not is_finite or not all(limit.holds(value) for limit in limits):
            kind = "whole number" if hint is int else "number" if is_finite else "finite number"
            raise refused(" ".join(["a", kind, *filter(None, (limit.phrase(value) for limit in limits))]))
    return value
