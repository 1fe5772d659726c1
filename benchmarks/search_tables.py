#!/usr/bin/env python3
"""Puts the fronts of benchmarks.search into docs/search.md, between `<!-- front -->` and `<!-- /front -->`.

python -m benchmarks.search_tables
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from benchmarks.measuring import RESULTS
from benchmarks.pruning_tables import NAMES
from benchmarks.readme import Content, put
from benchmarks.search import RUNS
from prune_export.facts.plan import parse_indices

PAGE = RESULTS.parent.parent / "docs" / "search.md"


def section(found: Mapping[str, Any]) -> str:
    """Return the front's picture, its points by latency, and the conditions."""
    dense, metric = found["unpruned"], NAMES[found["metric"]]
    lines = [
        f"| | ms | speed-up | MiB | {metric} | lost | divergence | W | heads, columns per layer |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for point in found["points"]:
        costs = point["measured"]
        name = f"({point['name']})" if point["is_dominated"] else point["name"]
        lines.append(
            f"| {name} | {costs['latency_ms']:.2f} | {dense['latency_ms'] / costs['latency_ms']:.2f}× | "
            f"{costs['bytes'] / 2**20:.1f} | {costs['metric']:.2f} | {dense['metric'] - costs['metric']:.2f} | "
            f"{costs['divergence']:.3f} | {point['w']:.2f} | {_sizes(point)} |"
        )
    lines.append(
        f"| unpruned | {dense['latency_ms']:.2f} | 1.00× | {dense['bytes'] / 2**20:.1f} | {dense['metric']:.2f} | | "
        f"{dense['divergence']:.3f} | | |"
    )
    options, machine = found["options"], found["machine"]
    judged = round(options["samples"] * 0.375)
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in ("torch", "onnxruntime"))
    conditions = (
        f"{found['model']}, {options['target']}, {options['dtype']}, batch {options['batch_size']}, length "
        f"{options['sequence_length']}; {found['evaluations']} candidates in {found['seconds'] / 60:.0f} minutes on "
        f"{machine['cores']} cores of an {machine['processor']}. {options['samples']:,} examples of "
        f"{', '.join(found['calibration'])}, of which {judged:,} judged the points. {machine['date']}, {versions}. "
        "`python -m benchmarks.search` searches again."
    )
    picture = f"![Front of {found['model']}](../benchmarks/results/search-{found['run']}.svg)"
    return "\n\n".join([picture, "\n".join(lines), conditions])


def _sizes(point: Mapping[str, Any]) -> str:
    """Return heads/columns of each layer, and the widths where the residual stream is narrower."""
    layers = ", ".join(
        f"{len(parse_indices(layer['heads'], 'heads'))}/{len(parse_indices(layer['columns'], 'columns'))}"
        for layer in point["layers"]
    )
    return f"{layers}; widths {', '.join(map(str, point['widths']))}" if point["widths"] else layers


def contents() -> list[Content]:
    """Return the texts of the page that are made of the results that are there."""
    paths = [RESULTS / f"search-{run}.json" for run in RUNS]
    found = [section(json.loads(path.read_text(encoding="utf-8"))) for path in paths if path.is_file()]
    return [(PAGE, "front", "\n\n".join(found))] if found else []


def main() -> None:
    put(contents())
    print(PAGE.name)


if __name__ == "__main__":
    main()
