"""Reads recipes from TOML, with the changes of `--set`, checks them for contradictions, and writes them as used."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from exporters.errors import MissingDependencyError, UsageError
from exporters.secrets import holds_secret
from prune_export.files.reading import ReadingError, one_line, read_text, shown, user_path
from prune_export.hub_token import register_stored_token
from prune_export.options.checking import checked
from prune_export.training.keys import build, nearest
from prune_export.training.methods import ALTERNATIVES, METHODS, method_of
from prune_export.training.recipe import MethodConfig, Recipe

_LARGEST_RECIPE = 1 << 20
_DEEPEST = 8  # tomli_w takes twice as long for every level of a list


@checked
def read_recipe(path: str | Path, changes: Sequence[str] = ()) -> Recipe:
    """Reads the recipe in the TOML file `path`, with `changes`.

    A change is "section.key=value", with the value in TOML's form or as a string without quotes.

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
    except (ValueError, RecursionError) as error:  # ValueError: integers of thousands of digits, no such day
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
    """Returns the recipe in parsed TOML; `source` names it in messages.

    Raises:
        UsageError: as for `read_recipe`.
    """
    check_no_secret(data, source)
    data = dict(data)
    method = data.pop("method", {"kind": "none"})
    if not isinstance(method, dict):
        raise UsageError(f"{source}: [method] is a table; found {shown(method)}")
    recipe: Recipe = build(Recipe, {**data, "method": _method(dict(method), source)}, source, "")
    return recipe


def check_no_secret(data: Any, source: str) -> None:
    """Checks that no value of a recipe, at any depth, is an access token or looks like one.

    The recipe is copied into the run's recipe.toml, its records and every checkpoint.

    Raises:
        UsageError: the message names the key, without its value.
    """
    register_stored_token()
    waiting = [("", data)]
    while waiting:
        where, value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += [(f"{where}.{key}".strip("."), inner) for key, inner in value.items()]
            waiting += [(f"a key of {where}" if where else "a key", str(key)) for key in value]
        elif isinstance(value, list | tuple):
            waiting += [(where, inner) for inner in value]
        elif isinstance(value, str) and holds_secret(value):
            raise UsageError(
                f"{source}: {where}: holds what looks like an access token or a password, and recipes are copied into every "
                "run; leave it out, and set HF_TOKEN instead"
            )


def _method(data: dict[str, Any], source: str) -> MethodConfig:
    kind = data.pop("kind", None)
    if not isinstance(kind, str) or kind not in METHODS:
        near = f"; did you mean {nearest(str(kind), METHODS)}?" if kind is not None else ""
        raise UsageError(f"{source}: method.kind: expected one of {', '.join(METHODS)}; found {shown(kind)}{near}")
    config: MethodConfig = build(METHODS[kind].config, data, source, "method.")
    return config


def check_recipe(recipe: Recipe) -> Recipe:
    """Checks every value of a recipe, and that no two contradict each other.

    Returns:
        The recipe with the types that values from a file have.

    Raises:
        UsageError: a value is of the wrong type or out of its range, two contradict each other, or one has no effect.
    """
    recipe = _normalized(recipe)
    schedule, budget, method = recipe.schedule, recipe.budget, method_of(recipe)
    for section, pairs in ALTERNATIVES.items():
        for pair in pairs:
            values = [getattr(getattr(recipe, section), name, None) for name in pair]
            if all(value is not None and value is not False and value != () for value in values):
                raise UsageError(f"{section}: expected either {pair[0]} or {pair[1]}; found both")
    if schedule.steps is None and schedule.epochs is None and method.uses_schedule:
        raise UsageError("schedule: expected either steps or epochs; found neither")
    for unit in ("steps", "epochs"):
        if not method.uses_schedule and getattr(schedule, unit) is not None:
            *first, last = (f"{length}_{unit}" for length in method.lengths)
            keys = f"{', '.join(first)} and {last}" if first else last
            raise UsageError(f"schedule.{unit}: method.kind = '{method.kind}' has lengths of its own: method.{keys}")
    if schedule.warmup + schedule.cooldown > 1:
        raise UsageError(
            f"schedule.warmup + schedule.cooldown = {schedule.warmup + schedule.cooldown:g}: expected at most 1"
        )
    for name in ("flops", "heads", "columns"):
        if not method.prunes and getattr(budget, name) not in (None, ()):
            raise UsageError(
                f"budget.{name}: method.kind = '{method.kind}' prunes to no budget; expected another kind, or no budget"
            )
    if recipe.teacher is not None and recipe.distillation is None and not method.distils:
        raise UsageError("teacher: nothing is learnt from it; add the section [distillation], or leave the teacher out")
    if recipe.data.eval is None and recipe.data.eval_samples is not None:
        raise UsageError("data.eval_samples: there is no data.eval to take them from")
    return recipe


def _normalized(recipe: Recipe) -> Recipe:
    """Returns a recipe that was made in Python with the types of one from a file: numbers as floats, lists as tuples."""
    if type(recipe.method) not in {method.config for method in METHODS.values()}:
        raise UsageError(f"recipe: method: expected one of prune_export's; found {shown(recipe.method)}")
    return recipe_from(_tables(recipe))


def recipe_to_toml(recipe: Recipe) -> str:
    """Returns the recipe as TOML with every default; `read_recipe` reads the same recipe from it.

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
    data["method"] = {"kind": method_of(recipe).kind, **data["method"]}
    return {key: _plain(value) for key, value in data.items() if value is not None}


def _plain(value: Any) -> Any:
    """Returns `value` with lists, and without None, which TOML lacks."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


def _change(data: dict[str, Any], changes: Sequence[str]) -> None:
    """Applies `changes` to `data`; of keys that exclude each other, one that is set replaces the others.

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
    """Applies one change; returns its key, without spaces, and its value."""
    key, equals, text = change.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise UsageError(f"--set {key}: expected SECTION.KEY=VALUE, as in --set optimiser.learning_rate=1e-4")
    try:
        value = _toml(f"value = {text}")["value"]
    except ReadingError:
        value = text.strip()  # a string without quotes
    table = data
    for section in path[:-1]:
        inner = table.setdefault(section, {})
        if not isinstance(inner, dict):
            raise UsageError(f"--set {key}: {section} is a value, not a section")
        table = inner
    table[path[-1]] = value
    return ".".join(path), value
