#!/usr/bin/env python3
"""The table of docs/published.md: every recipe in miniature, from benchmarks/results/recipes.json.

python -m benchmarks.recipes_tables
"""

from __future__ import annotations

import json
from typing import Any

from benchmarks.measuring import RESULTS
from benchmarks.readme import DOCS, Content, put

NAME = "recipes"

HEADINGS = ("system", "published", "miniature: FLOPs kept", "dense → pruned", "error / allowed", "command")


def recipes_section(found: dict[str, Any]) -> str:
    """Return a row per recipe, and the conditions of the figures."""
    rows = [HEADINGS, ("---",) * len(HEADINGS), *map(recipe_row, found["rows"])]
    machine = found["machine"]
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in ("torch", "transformers", "onnxruntime"))
    steps = sorted({row["steps"] for row in found["rows"]})
    conditions = (
        "Each miniature is the recipe with other networks (MiniLM of 6 layers), other data (parts of real data; texts of SST-2 "
        f"for MNLI) and lengths ({steps[0]} to {steps[-1]} steps of {found['batch_size']} examples of at most "
        f"{found['length']} tokens); in so few steps scores and gates move only at a higher rate, 1. All are judged on "
        f"{found['examples']} examples, where chance is worth 4 points. Such a run shows that the way from the recipe to a "
        "proven ONNX file is open, not what the method can do. The pruned network is the exported file; the proof of an "
        "export asks for an error below 1 of the allowed one. "
        f"{machine['date']}, {versions}. `make recipes` runs all of them again."
    )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n\n" + conditions


def recipe_row(row: dict[str, Any]) -> tuple[str, ...]:
    """Return the cells of one recipe, in the order of HEADINGS."""
    after = ", ".join(f"{value:.1f}" for value in row["after"])
    return (
        row["system"],
        row["published"],
        ", ".join(f"{kept:.2f}" for kept in row["flops_kept"]),
        f"{row['metric']} {row['before']:.1f} → {after} ({row['evaluation']})",
        ", ".join(f"{share:.1g}" for share in row["error_over_allowed"]),
        f"`prune-export train examples/recipes/{row['recipe']}.toml`",
    )


def contents() -> list[Content]:
    """Return the text of the page that is made of the results."""
    path = RESULTS / f"{NAME}.json"
    if not path.is_file():
        return []
    return [(DOCS / "published.md", NAME, recipes_section(json.loads(path.read_text(encoding="utf-8"))))]


def main() -> None:
    put(contents())


if __name__ == "__main__":
    main()
