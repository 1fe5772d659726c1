"""Typed access to parsed JSON: a wrong shape becomes one line that says where."""

from __future__ import annotations

from typing import Any, TypeVar

from exporters.errors import DataError
from prune_export.files.reading import clipped

T = TypeVar("T")
_NAMES = {dict: "an object", list: "a list", str: "a string", int: "a whole number"}


def field(parent: Any, key: str, kind: type[T], where: str) -> T:
    """Returns `parent[key]`, which must be of type `kind`; `where` names the parent in the message.

    Raises:
        DataError: it is missing or of another type.
    """
    if not isinstance(parent, dict):
        raise DataError(f"{where}: expected an object; found {type(parent).__name__}")
    if key not in parent:
        raise DataError(f"{where}: has no '{key}'; found {clipped(', '.join(map(str, list(parent)[:6]))) or 'nothing'}")
    value = parent[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise DataError(f"{where}.{key}: expected {_NAMES[kind]}; found {type(value).__name__}")
    return value


def unique(ids: list[str], name: str) -> None:
    """Checks that no question's id occurs twice: predictions are matched by id.

    Raises:
        DataError: one does.
    """
    seen: set[str] = set()
    for identifier in ids:
        if identifier in seen:
            raise DataError(f"{name}: the id '{clipped(identifier)}' stands there twice; predictions are matched by id")
        seen.add(identifier)
