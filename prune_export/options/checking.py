"""The arguments of public functions, held against their annotations: converted where that is harmless, refused otherwise."""

from __future__ import annotations

import types
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass, replace
from functools import cache, wraps
from inspect import Parameter, signature
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from exporters.errors import UsageError
from prune_export.files.reading import shown

P = ParamSpec("P")
R = TypeVar("R")

_LARGEST = 1 << 63
_WORDS: dict[Any, str] = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    Path: "a path",
    types.NoneType: "None",
}


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Gives `function` arguments of the types that its annotations say.

    Numbers of NumPy become Python's, whole numbers serve as floats, one value serves as a sequence of one (a tuple), and
    any ordered collection as a sequence. Nothing else is converted: a string is no number, and a number is neither True nor
    False.

    Raises:
        UsageError: an argument is of another type; the message says which, and what was expected.
    """
    own = signature(function)

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        bound = own.bind(*args, **kwargs)
        hints = _hints(function)
        for name, value in bound.arguments.items():
            if name in hints and own.parameters[name].kind is not Parameter.VAR_KEYWORD:
                bound.arguments[name] = conforming(value, hints[name], f"{function.__qualname__}: {name}")
        return function(*bound.args, **bound.kwargs)

    return wrapper


@cache
def _hints(owner: Any) -> dict[str, Any]:
    return get_type_hints(owner)  # when first called: by then everything that they name is imported


def conforming(value: Any, hint: Any, where: str) -> Any:
    """`value` as `hint` says; `where` names it in the message.

    Raises:
        UsageError: it is of another type.
    """
    try:
        return _match(value, hint)
    except _MismatchError as error:
        found = shown(error.found) if error.found is value else f"{shown(error.found)} in it"
        raise UsageError(f"{where}: expected {_described(hint)}; found {found}{error.reason}") from None


class _MismatchError(Exception):
    """Something, perhaps inside of a value, is of the wrong type."""

    def __init__(self, found: object, reason: str = "") -> None:
        super().__init__()
        self.found = found
        self.reason = reason  # follows what was found


def _match(value: Any, hint: Any) -> Any:
    origin = get_origin(hint)
    if hint is Any or isinstance(hint, TypeVar):
        return value
    if origin in (Union, types.UnionType):
        return _first_match(value, get_args(hint))
    if origin is Literal:
        return _one_of(value, get_args(hint))
    if origin is tuple and get_args(hint)[-1] is not Ellipsis:
        return _pair(value, get_args(hint))
    if origin in (Sequence, tuple):
        return _sequence(value, get_args(hint)[0])
    if origin is Mapping or hint is Mapping:
        return _mapping(value, *(get_args(hint) or (Any, Any)))
    return _scalar(value, hint)


def _is_sequence(hint: Any) -> bool:
    kinds: tuple[Any, ...] = (Sequence, tuple)
    return get_origin(hint) in kinds


def _first_match(value: Any, hints: Sequence[Any]) -> Any:
    reason = ""
    for hint in sorted(hints, key=_is_sequence):  # one value before one in a sequence
        try:
            return _match(value, hint)
        except _MismatchError as error:
            reason = reason or (error.reason if error.found is value else "")
    raise _MismatchError(value, reason)


def _one_of(value: Any, choices: Sequence[Any]) -> Any:
    for choice in choices:
        if type(value) is type(choice) and value == choice:
            return choice
    raise _MismatchError(value)


def _sequence(value: Any, hint: Any) -> tuple[Any, ...]:
    if isinstance(value, str | bytes | Mapping | PathLike) or not isinstance(value, Collection):
        return (_match(value, hint),)
    if isinstance(value, Set):  # whose order is by chance
        raise _MismatchError(value)
    try:
        parts = list(value)
    except Exception as error:  # of somebody else's class, such as an array without dimensions
        raise _MismatchError(value) from error
    return tuple(_match(part, hint) for part in parts)


def _pair(value: Any, hints: Sequence[Any]) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple) or len(value) != len(hints):
        raise _MismatchError(value)
    return tuple(_match(part, hint) for part, hint in zip(value, hints, strict=True))


def _mapping(value: Any, key_hint: Any, value_hint: Any) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise _MismatchError(value)
    return {_match(key, key_hint): _match(inner, value_hint) for key, inner in value.items()}


def _scalar(value: Any, hint: Any) -> Any:
    if hint is bool:
        if type(value).__module__ == "numpy" and type(value).__name__ in ("bool", "bool_"):
            return bool(value)
    elif hint in (int, float):
        return _number(value, hint)
    elif hint is Path and isinstance(value, PathLike):
        return Path(_string_path(value))
    if not isinstance(value, hint):
        raise _MismatchError(value)
    return _dataclass(value) if is_dataclass(value) else value


def _number(value: Any, kind: Callable[[Any], int | float]) -> int | float:
    if isinstance(value, bool) or not isinstance(value, Integral if kind is int else Real):
        raise _MismatchError(value)
    if isinstance(value, Integral) and not -_LARGEST <= int(value) < _LARGEST:  # more than anything here counts
        raise _MismatchError(value, ", which is too large" if int(value) > 0 else ", which is too small")
    try:
        found = kind(value)
    except (OverflowError, ValueError) as error:  # a fraction beyond every float, a NaN that is to be whole
        raise _MismatchError(value) from error
    if found != found:  # not a number
        raise _MismatchError(value)
    return found


def _string_path(value: PathLike[Any]) -> str:
    path = value.__fspath__()
    if not isinstance(path, str):
        raise _MismatchError(value)
    return path


def _dataclass(value: Any) -> Any:
    """A plan, a recipe, examples: the same with its fields as they are annotated."""
    kind: Any = type(value)
    hints = _hints(kind)
    changed = {}
    for field in fields(value):
        found = getattr(value, field.name)
        matched = _match(found, hints[field.name])
        if matched is not found and (type(matched) is not type(found) or matched != found):
            changed[field.name] = matched
    return replace(value, **changed) if changed else value


def _described(hint: Any) -> str:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        # A sequence last: "or" behind it would read as if it were about what is in it.
        parts = [_described(part) for part in sorted(get_args(hint), key=_is_sequence)]
        return " or ".join(dict.fromkeys(parts))
    if origin is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if origin is tuple and get_args(hint)[-1] is not Ellipsis:
        return f"({', '.join(map(_described, get_args(hint)))})"
    if origin in (Sequence, tuple):
        return f"a sequence, each {_described(get_args(hint)[0])}"
    if origin is Mapping or hint is Mapping:
        return "a mapping"
    return _WORDS.get(hint) or f"a {getattr(hint, '__name__', hint)}"
