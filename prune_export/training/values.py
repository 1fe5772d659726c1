"""Values of the right type and range: tables, as a file has them, into the frozen dataclasses that they stand for."""

from __future__ import annotations

import difflib
import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from msgspec import Meta

from exporters.errors import UsageError
from prune_export.files.reading import clipped, shown
from prune_export.training.keys import is_within, range_words

_NAMES = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}


def build(kind: type[Any], data: Mapping[str, Any], source: str, prefix: str) -> Any:
    """The dataclass `kind` with the values `data`; `source` and `prefix` (a section and a dot) name them in messages.

    Raises:
        UsageError: a key is unknown or missing, or a value is of the wrong type or out of its range.
    """
    known = {field.name: field for field in fields(kind)}
    for key in data:
        if key not in known:
            raise UsageError(
                f"{source}: unknown key '{prefix}{clipped(key)}'; the nearest known one is '{prefix}{nearest(key, known)}'"
            )
    missing = [
        name
        for name, field in known.items()
        if name not in data and field.default is MISSING and field.default_factory is MISSING
    ]
    if missing:
        raise UsageError(f"{source}: '{prefix}{missing[0]}' is missing")
    hints = get_type_hints(kind, include_extras=True)
    return kind(**{key: _value(hints[key], value, source, f"{prefix}{key}") for key, value in data.items()})


def nearest(key: str, known: Mapping[str, Any]) -> str:
    """The name in `known` that is most like `key`."""
    return max(known, key=lambda name: difflib.SequenceMatcher(None, key[:100], name).ratio())


def _value(hint: Any, value: Any, source: str, where: str, limits: tuple[Meta, ...] = ()) -> Any:
    """`value` as `hint` says; whole numbers serve as floats, lists as tuples."""
    origin, options = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _value(options[0], value, source, where, (*limits, *options[1:]))
    if is_dataclass(hint) and isinstance(hint, type) and isinstance(value, dict):
        return build(hint, value, source, f"{where}.")
    if origin in (Union, types.UnionType):
        if any(is_dataclass(option) and type(value) is option for option in options):
            return value  # [method], which has been read already
        options = tuple(option for option in options if option is not types.NoneType)
        return _value(options[0], value, source, where, limits)
    if origin is Literal:
        if value in options:
            return value
        raise UsageError(f"{source}: {where}: expected one of {', '.join(map(str, options))}; found {shown(value)}")
    if origin is tuple:
        return _tuple(options, value, source, where)
    if origin is Mapping or hint in (dict, Mapping) or origin is dict:
        if isinstance(value, dict):
            return value
        raise UsageError(f"{source}: {where}: expected a table; found {shown(value)}")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 2**1023 else math.inf
    if isinstance(hint, type) and not is_dataclass(hint) and type(value) is hint:
        if isinstance(value, int | float) and not isinstance(value, bool):
            _check_number(value, source, where, limits)
        return value
    raise UsageError(f"{source}: {where}: expected {_NAMES.get(hint, 'a table')}; found {shown(value)}")


def _check_number(value: float, source: str, where: str, limits: tuple[Meta, ...]) -> None:
    is_finite = isinstance(value, int) or math.isfinite(value)  # Python's whole numbers may be larger than any float
    if is_finite and all(is_within(limit, value) for limit in limits):
        return
    kind = "whole number" if isinstance(value, int) else "number" if is_finite else "finite number"
    words = " ".join(filter(None, (range_words(limit, value) for limit in limits)))
    raise UsageError(f"{source}: {where}: expected a {kind} {words}".rstrip() + f"; found {shown(value)}")


def _tuple(options: tuple[Any, ...], value: Any, source: str, where: str) -> tuple[Any, ...]:
    many = options[-1] is Ellipsis
    if many and not isinstance(value, list):
        value = [value]  # one value serves as a list of one
    if not isinstance(value, list) or (not many and len(value) != len(options)):
        raise UsageError(f"{source}: {where}: expected a list of {len(options)}; found {shown(value)}")
    kinds = [options[0]] * len(value) if many else options
    return tuple(_value(kind, part, source, where) for kind, part in zip(kinds, value, strict=True))
