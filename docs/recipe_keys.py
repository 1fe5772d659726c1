#!/usr/bin/env python3
"""Writes docs/recipes.md: every key of a recipe, out of the dataclasses that recipes are read into.

python -m docs.recipe_keys
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from prune_export.options.option import Option
from prune_export.options.ranges import Range
from prune_export.training.methods import ALTERNATIVES, METHODS
from prune_export.training.recipe import (
    BudgetSection,
    DataSection,
    Distillation,
    OptimiserSection,
    Recipe,
    ScheduleSection,
)

PAGE = Path(__file__).with_name("recipes.md")

_BEGINNING = """\
# Recipes

<!-- Made by `python -m docs.recipe_keys` from prune_export/training: change the text there. -->

`prune-export train recipe.toml` trains by a recipe, a TOML file; [methods.md](methods.md) explains the methods, and
`examples/recipes` holds a recipe for each published system and one that runs out of the box. A recipe is read strictly:
unknown keys, wrong types, numbers out of range, and keys that exclude each other are refused before anything is loaded.

`--set section.key=value` changes a value, and takes the place of one that it excludes (`--set schedule.steps=100` where the
recipe has `epochs`). `--dry-run` checks the recipe, its model, data and teachers, shows stages, steps, disk and time, and
writes nothing. One value serves as a list of one.
"""
_NAMES = {str: "text", int: "whole number", float: "number", bool: "true or false"}


def page() -> str:
    """The whole page."""
    parts = [_BEGINNING, *_section("Above all sections", Recipe)]
    for kind in (DataSection, ScheduleSection, BudgetSection, OptimiserSection, Distillation):
        parts += _section(None, kind)
    for name, method in METHODS.items():
        parts += _section(f'`[method]`, `kind = "{name}"`', method.config)
    pairs = [
        f"`{section}.{one}` and `{section}.{other}`" for section, all_ in ALTERNATIVES.items() for one, other in all_
    ]
    parts.append("## Keys that exclude each other\n")
    parts.append("\n".join(f"- {pair}" for pair in pairs) + "\n")
    return "\n".join(parts)


def _section(title: str | None, kind: type[Any]) -> Iterator[str]:
    text = inspect.getdoc(kind) or ""
    if title is None:
        title, _, text = text.partition(": ")
    elif text.startswith("`"):
        text = text.partition(": ")[2]
    yield f"## {title}\n"
    yield f"{text[:1].upper()}{text[1:]}\n"
    hints = get_type_hints(kind, include_extras=True)
    rows = [row for field in fields(kind) if (row := _row(field, hints[field.name])) is not None]
    if rows:
        yield "\n".join(["| key | value | default | meaning |", "|---|---|---|---|", *rows]) + "\n"


def _row(field: Field[Any], hint: Any) -> str | None:
    """None for sections, which have tables of their own."""
    if get_origin(hint) is not Annotated:
        return None
    meaning = next(part.help for part in hint.__metadata__ if isinstance(part, Option))
    return f"| `{field.name}` | {_words(hint)} | {_default(field)} | {meaning.replace('|', chr(92) + '|')} |"


def _words(hint: Any, limits: tuple[Any, ...] = ()) -> str:
    """Which values a key takes."""
    origin, options = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _words(options[0], (*limits, *options[1:]))
    if origin in (Union, types.UnionType):
        return _words(next(option for option in options if option is not types.NoneType), limits)
    if origin is Literal:
        return ", ".join(f"`{option}`" for option in options)
    if origin is tuple:
        kind = _words(options[0])
        return f"list: {kind}" if options[-1] is Ellipsis else f"list of {len(options)}: {kind}"
    words = "".join(part.phrase() for part in limits if isinstance(part, Range)).removeprefix("of ")
    return ", ".join(filter(None, (_NAMES.get(hint, "table"), words)))


def _default(field: Field[Any]) -> str:
    if field.default is MISSING and field.default_factory is MISSING:
        return "required"
    value = field.default if field.default is not MISSING else {}
    if value is None or value in ((), {}):
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return str(list(value))
    return f"`{value}`" if isinstance(value, str) else f"{value:.6g}" if isinstance(value, float) else str(value)


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
