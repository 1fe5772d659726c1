"""Recipes in TOML: read strictly, changed by `--set`, written as they were used."""

from __future__ import annotations

import difflib
import tomllib
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from exporters.errors import MissingDependencyError, UsageError
from exporters.secrets import holds_secret
from prune_export.arguments import checked
from prune_export.files.reading import ReadingError, clipped, one_line, read_text, shown, user_path
from prune_export.hub_token import register_stored_token
from prune_export.training.recipe import METHODS, Method, Recipe

_LARGEST_RECIPE = 1 << 20
_DEEPEST = 8  # tomli_w takes twice as long for every level of a list


@checked
def read_recipe(path: str | Path, changes: Sequence[str] = ()) -> Recipe:
    """The recipe in the TOML file `path`, with `changes` ("section.key=value", the value in TOML's form or a bare string).

    Raises:
        UsageError: it cannot be read, a key is unknown (the message names the nearest known one), or a value is of the wrong
            type.
    """
    try:
        data = _toml(read_text(user_path(path), limit=_LARGEST_RECIPE))
    except ReadingError as error:
        raise UsageError(f"{path}: cannot be read: {error}; expected a recipe (TOML)") from error
    for change in changes:
        _change(data, change)
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
    made: Recipe = _build(Recipe, {**data, "method": _method(dict(method), source)}, source, "")
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
        near = f"; did you mean {_nearest(str(kind), METHODS)}?" if kind is not None else ""
        raise UsageError(f"{source}: method.kind: expected one of {', '.join(METHODS)}; found {shown(kind)}{near}")
    made: Method = _build(METHODS[kind], data, source, "method.")
    return made


def recipe_to_toml(recipe: Recipe) -> str:
    """The recipe with every default written out; `read_recipe` gives the same one back.

    Raises:
        MissingDependencyError: tomli-w is not installed.
    """
    data = asdict(recipe)
    kind = next(name for name, config in METHODS.items() if type(recipe.method) is config)
    data["method"] = {"kind": kind, **data["method"]}
    return str(_writer().dumps(_plain(data)))


def _writer() -> Any:
    try:
        import tomli_w
    except ImportError as error:
        raise MissingDependencyError("training needs tomli-w: pip install 'prune-export[train]'") from error
    return tomli_w


def _plain(value: Any) -> Any:
    """Without None, which TOML has no word for, and with lists."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


def _change(data: dict[str, Any], change: str) -> None:
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


# --- values of the right type ------------------------------------------------------------------------------------------


def _build(kind: type[Any], data: Mapping[str, Any], source: str, prefix: str) -> Any:
    known = {field.name: field for field in fields(kind)}
    for key in data:
        if key not in known:
            raise UsageError(
                f"{source}: unknown key '{prefix}{clipped(key)}'; the nearest known one is '{_near(prefix, key, known)}'"
            )
    missing = [
        name
        for name, field in known.items()
        if name not in data and field.default is MISSING and field.default_factory is MISSING
    ]
    if missing:
        raise UsageError(f"{source}: '{prefix}{missing[0]}' is missing")
    hints = get_type_hints(kind)
    return kind(**{key: _value(hints[key], value, source, f"{prefix}{key}") for key, value in data.items()})


def _near(prefix: str, key: str, known: Mapping[str, Any]) -> str:
    return f"{prefix}{_nearest(key, known)}"


def _nearest(key: str, known: Mapping[str, Any]) -> str:
    return max(known, key=lambda name: difflib.SequenceMatcher(None, key[:100], name).ratio())


def _value(hint: Any, value: Any, source: str, where: str) -> Any:
    """`value` as `hint` says; whole numbers serve as floats, lists as tuples."""
    if is_dataclass(hint) and isinstance(hint, type) and isinstance(value, dict):
        return _build(hint, value, source, f"{where}.")
    origin, options = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if any(is_dataclass(option) and type(value) is option for option in options):
            return value  # [method], which has been read already
        options = tuple(option for option in options if option is not types.NoneType)
        return _value(options[0], value, source, where)
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
        return float(value)
    if isinstance(hint, type) and not is_dataclass(hint) and type(value) is hint:
        return value
    names = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}
    raise UsageError(f"{source}: {where}: expected {names.get(hint, 'a table')}; found {shown(value)}")


def _tuple(options: tuple[Any, ...], value: Any, source: str, where: str) -> tuple[Any, ...]:
    many = options[-1] is Ellipsis
    if many and not isinstance(value, list):
        value = [value]  # one value serves as a list of one
    if not isinstance(value, list) or (not many and len(value) != len(options)):
        raise UsageError(f"{source}: {where}: expected a list of {len(options)}; found {shown(value)}")
    kinds = [options[0]] * len(value) if many else options
    return tuple(_value(kind, part, source, where) for kind, part in zip(kinds, value, strict=True))
