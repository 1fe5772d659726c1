"""Makes argument parsers of dataclasses of options."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import MISSING
from pathlib import Path
from typing import Any

from prune_export.cli.command import Printing
from prune_export.options.option import Option, OptionField, fields_of
from prune_export.options.ranges import Range


class NumberError(argparse.ArgumentTypeError):
    """A word is no number, or is out of the option's range; it is reported without the hint at `--help`."""


def add_options(parser: argparse.ArgumentParser, *kinds: Any) -> None:
    """Adds the options of the dataclasses `kinds`. The parsed namespace holds only the options that are given."""
    groups: dict[str, Any] = {}
    exclusive: dict[str, Any] = {}
    fields = [field for kind in kinds for field in fields_of(kind) if isinstance(field.option, Option)]
    fields.sort(key=lambda field: field.group == Printing.TITLE)  # the last group of every verb
    excluded = {field.option.excludes for field in fields if isinstance(field.option, Option)}
    for field in fields:
        group: Any = parser
        if field.group is not None:
            group = groups.setdefault(field.group, None) or parser.add_argument_group(field.group)
            groups[field.group] = group
        assert isinstance(field.option, Option)
        if field.name in excluded:
            group = exclusive[field.name] = group.add_mutually_exclusive_group()
        _add(exclusive.get(field.option.excludes or "", group), field, field.option)


def _add(group: Any, field: OptionField, option: Option) -> None:
    common: dict[str, Any] = {"help": field.help.replace("%", "%%"), "default": argparse.SUPPRESS}
    if option.is_positional:
        group.add_argument(field.name, metavar=option.metavar, type=_type(option), **common)
        return
    common |= {"dest": field.name, "required": field.default is MISSING and option.is_required}
    if isinstance(field.default, bool):
        _add_switch(group, field, option, common)
    else:
        common |= {"metavar": option.metavar, "choices": option.choices or None, "nargs": option.nargs}
        group.add_argument(field.flag, type=_type(option), action=option.action or "store", **common)


def _add_switch(group: Any, field: OptionField, option: Option, common: dict[str, Any]) -> None:
    if option.is_two_way:
        group.add_argument(field.flag, action=argparse.BooleanOptionalAction, **common)
    elif field.default:
        group.add_argument(f"--no-{field.flag[2:]}", action="store_false", **common)
    else:
        group.add_argument(field.flag, action="store_true", **common)


def _type(option: Option) -> Callable[[str], Any] | None:
    if option.is_path:
        return path
    return None if option.allowed is None else number(option.allowed)


def number(allowed: Range) -> Callable[[str], int | float]:
    """Returns the `type` of an option that takes a number in the range `allowed`; its error says what was expected."""

    def parse(text: str) -> int | float:
        try:
            return allowed.parsed(text)
        except ValueError as error:
            raise NumberError(str(error)) from None

    return parse


def path(text: str) -> Path:
    """Parses a path. An empty string is refused: it would be the working directory."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path; found an empty string")
    return Path(text)
