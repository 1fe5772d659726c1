"""Recipes in TOML: read strictly, changed by `--set`, written as they were used."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from exporters.errors import MissingDependencyError, UsageError
from exporters.secrets import holds_secret
from prune_export.files.reading import ReadingError, one_line, read_text, shown, user_path
from prune_export.hub_token import register_stored_token
from prune_export.options.checking import checked
from prune_export.training.recipe import ALTERNATIVES, METHODS, Method, Recipe
from prune_export.training.values import build, nearest

_LARGEST_RECIPE = 1 << 20
_DEEPEST = 8  # tomli_w takes twice as long for every level of a list


@checked
def read_recipe(path: str | Path, changes: Sequence[str] = ()) -> Recipe:
    """The recipe in the TOML file `path`, with `changes` ("section.key=value", the value in TOML's form or a bare string).

    Raises:
        UsageError: it cannot be read, a key is unknown (the message names the nearest known one), or a value is of the wrong
            type or out of its range.
    """
    try:
        data = _toml(read_text(user_path(path), limit=_LARGEST_RECIPE).removeprefix("\ufeff"))
    except ReadingError as error:
        raise UsageError(f"{path}: cannot be read: {error}; expected a recipe (TOML)") from error
    _change(data, changes)
    return recipe_from(data, source=str(path))


def _toml(text: str) -> dict[str, Any]:
    try:
        data = tomllib.loads(text)
    except (
        ValueError,
        RecursionError,
    ) as error:  # beside TOMLDecodeError: integers of thousands of digits, no such day
        reason = "nested too deep" if isinstance(error, RecursionError) else one_line(error)
        raise ReadingError(f"not readable as TOML: {reason}") from error
    level: list[Any] = [data]
    for _ in range(_DEEPEST):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    if level:
        raise ReadingError("not readable as TOML: nested too deep")
    return data


def recipe_from(data: Mapping[str, Any], *, source: str = "recipe") -> Recipe:
    """The recipe in parsed TOML; `source` names it in messages.

    Raises:
        UsageError: as for `read_recipe`.
    """
    check_no_secret(data, source)
    data = dict(data)
    method = data.pop("method", {"kind": "none"})
    if not isinstance(method, dict):
        raise UsageError(f"{source}: [method] is a table; found {shown(method)}")
    made: Recipe = build(Recipe, {**data, "method": _method(dict(method), source)}, source, "")
    return made


def check_no_secret(data: Any, source: str) -> None:
    """Checks that nothing in a recipe, at any depth, looks like an access token or is one that is known.

    A run's recipe.toml, its records and every checkpoint hold the recipe.

    Raises:
        UsageError: the message names the key, without its value.
    """
    register_stored_token()
    waiting = [("", data)]
    while waiting:
        where, found = waiting.pop()
        if isinstance(found, Mapping):
            waiting += [(f"{where}.{key}".strip("."), value) for key, value in found.items()]
            waiting += [(f"a key of {where}" if where else "a key", str(key)) for key in found]
        elif isinstance(found, list | tuple):
            waiting += [(where, value) for value in found]
        elif isinstance(found, str) and holds_secret(found):
            raise UsageError(
                f"{source}: {where}: holds what looks like an access token or a password, and recipes are copied into every "
                "run; leave it out, and set HF_TOKEN instead"
            )


def _method(data: dict[str, Any], source: str) -> Method:
    kind = data.pop("kind", None)
    if not isinstance(kind, str) or kind not in METHODS:
        near = f"; did you mean {nearest(str(kind), METHODS)}?" if kind is not None else ""
        raise UsageError(f"{source}: method.kind: expected one of {', '.join(METHODS)}; found {shown(kind)}{near}")
    made: Method = build(METHODS[kind], data, source, "method.")
    return made


def checked_recipe(recipe: Recipe) -> Recipe:
    """A recipe that was made in Python, read as one from a file is: whole numbers serve as floats, lists as tuples.

    Raises:
        UsageError: as for `read_recipe`.
    """
    if not is_dataclass(recipe.method) or type(recipe.method) not in METHODS.values():
        raise UsageError(f"recipe: method: expected one of prune_export's; found {shown(recipe.method)}")
    return recipe_from(_tables(recipe))


def recipe_to_toml(recipe: Recipe) -> str:
    """The recipe with every default written out; `read_recipe` gives the same one back.

    Raises:
        MissingDependencyError: tomli-w is not installed.
    """
    return str(_writer().dumps(_tables(recipe)))


def _writer() -> Any:
    try:
        import tomli_w
    except ImportError as error:
        raise MissingDependencyError("training needs tomli-w: pip install 'prune-export[train]'") from error
    return tomli_w


def _tables(recipe: Recipe) -> dict[str, Any]:
    data = asdict(recipe)
    kind = next(name for name, config in METHODS.items() if type(recipe.method) is config)
    data["method"] = {"kind": kind, **data["method"]}
    plain: dict[str, Any] = _plain(data)
    return plain


def _plain(value: Any) -> Any:
    """Without None, which TOML has no word for, and with lists."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


def _change(data: dict[str, Any], changes: Sequence[str]) -> None:
    """Sets what `changes` say; of keys that exclude each other, one that is set takes the place of the others.

    Raises:
        UsageError: a change is of the wrong form, or two exclude each other.
    """
    values = [_set(data, change) for change in changes]
    is_set = {key for key, value in values if value is not False}
    for section, pairs in ALTERNATIVES.items():
        for pair in pairs:
            keys = [f"{section}.{name}" for name in pair]
            if is_set.issuperset(keys):
                raise UsageError(f"--set {keys[0]} and --set {keys[1]}: expected one of them")
            for key, other in (keys, reversed(keys)):
                if key in is_set and isinstance(table := data.get(section), dict):
                    table.pop(other.split(".")[1], None)


def _set(data: dict[str, Any], change: str) -> tuple[str, Any]:
    """Sets one value; returns its key, without spaces, and the value."""
    key, equals, text = change.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise UsageError(f"--set {key}: expected SECTION.KEY=VALUE, as in --set optimiser.learning_rate=1e-4")
    try:
        value = _toml(f"value = {text}")["value"]
    except ReadingError:
        value = text.strip()  # a string without quotes
    place = data
    for part in path[:-1]:
        inner = place.setdefault(part, {})
        if not isinstance(inner, dict):
            raise UsageError(f"--set {key}: {part} is a value, not a section")
        place = inner
    place[path[-1]] = value
    return ".".join(path), value
