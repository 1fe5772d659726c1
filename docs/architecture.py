#!/usr/bin/env python3
"""Draws docs/architecture.svg out of the contracts that import-linter checks, and lists the layers in docs/architecture.md.

python -m docs.architecture
"""

from __future__ import annotations

import ast
import tomllib
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = Path(__file__).with_name("architecture.md")
PICTURE = Path(__file__).with_name("architecture.svg")
_MARKS = ("<!-- layers -->\n", "<!-- /layers -->\n")

_WIDTH, _ROW, _GAP, _TITLE = 860, 34, 6, 30
_FONT = "ui-sans-serif, system-ui, Helvetica, Arial, sans-serif"


@dataclass(frozen=True)
class Contract:
    """A contract of layers, the highest first; each holds the modules that may not import each other."""

    name: str
    layers: tuple[tuple[str, ...], ...]


def contracts() -> tuple[Contract, ...]:
    """Returns the contracts of layers in pyproject.toml."""
    settings: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "importlinter"
    ]
    return tuple(
        Contract(contract["name"], tuple(tuple(layer.split(" | ")) for layer in contract["layers"]))
        for contract in settings["contracts"]
        if contract["type"] == "layers"
    )


def purpose(module: str) -> str:
    """Returns the first sentence of a module's docstring, without its full stop."""
    path = ROOT / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    words = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(words.split("\n\n")[0].split()).rstrip(".")


def picture() -> str:
    """Returns the SVG: a bar per layer, the highest on top; a package on the left, prune_export, stands on exporters."""
    parts, y = [], 10
    for contract in reversed(contracts()):
        parts.append(_text(12, y + 20, contract.name, weight="600"))
        y += _TITLE
        for layer in contract.layers:
            width = (_WIDTH - 24 - _GAP * (len(layer) - 1)) / len(layer)
            for index, module in enumerate(layer):
                x = 12 + index * (width + _GAP)
                parts.append(
                    f'<rect x="{x:.0f}" y="{y}" width="{width:.0f}" height="{_ROW}" rx="5" fill="#eef3f8" stroke="#7c93ab"/>'
                )
                name = module.partition(".")[2]
                parts.append(_text(x + 10, y + 22, name, weight="600"))
                if len(layer) == 1:
                    parts.append(_text(x + 140, y + 22, _short(purpose(module)), size=12))
            y += _ROW + _GAP
        y += 12
    lines = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y}" width="{_WIDTH}" font-family="{_FONT}">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n{lines}\n</svg>\n'
    )


def _text(x: float, y: float, words: str, *, weight: str = "400", size: int = 13) -> str:
    return (
        f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size}" font-weight="{weight}" fill="#1b2a3a">{escape(words)}</text>'
    )


def _short(words: str) -> str:
    return words if len(words) <= 112 else words[:112].rsplit(" ", 1)[0] + " …"


def table() -> str:
    """Returns the list of layers, the highest first."""
    lines = []
    for contract in reversed(contracts()):
        lines += [f"**{contract.name}**", "", "| layer | what it is |", "|---|---|"]
        lines += [f"| `{module}` | {purpose(module)} |" for layer in contract.layers for module in layer]
        lines.append("")
    return "\n".join(lines) + "\n"


def page() -> str:
    """Returns the page with the list of layers as it is now."""
    words = PAGE.read_text(encoding="utf-8")
    before, rest = words.split(_MARKS[0])
    return before + _MARKS[0] + "\n" + table() + _MARKS[1] + rest.split(_MARKS[1])[1]


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")
