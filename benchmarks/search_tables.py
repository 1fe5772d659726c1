#!/usr/bin/env python3
"""Puts the fronts of benchmarks.search into docs/search.md, between `<!-- front -->` and `<!-- /front -->`.

What benchmarks.uniform_training gave goes between `<!-- trained -->` and `<!-- /trained -->`.

python -m benchmarks.search_tables
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from benchmarks.measuring import RESULTS
from benchmarks.pruning_tables import NAMES
from benchmarks.readme import Content, put
from prune_export.facts.plan import parse_indices

TITLES = {
    "qa-int8": "Questions, 8 bits",
    "qa-int8-widths": "Questions, 8 bits, with narrower streams",
    "qa-int8-fptas": "Questions, 8 bits, by the published algorithm",
    "sst2-int8": "Sentiments (SST-2), 8 bits",
    "features-int8": "Embeddings, 8 bits",
    "base-int8": "A base-sized network with random weights, 8 bits",
}
PAGE = RESULTS.parent.parent / "docs" / "search.md"


def section(found: Mapping[str, Any], beside: Mapping[str, Any] | None) -> str:
    """Return the front's picture, its points by latency, what is `beside` them, and the conditions."""
    dense = found["unpruned"]
    lines = [
        f"| | ms | speed-up | MiB | {_heading(found)}divergence | W | heads, columns per layer |",
        f"|---|---|---|---|{'---|---|' if found['metric'] else ''}---|---|---|",
    ]
    for point in found["points"]:
        name = f"({point['name']})" if point["is_dominated"] else point["name"]
        lines.append(f"| {name} | {_costs(point['measured'], dense)} | {point['w']:.2f} | {_sizes(point)} |")
    lines.append(f"| unpruned | {_costs(dense, dense)} | | |")
    options, machine = found["options"], found["machine"]
    judged = round(options["samples"] * 0.375)
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in ("torch", "onnxruntime"))
    threads = f", {options['threads']} thread{'s' if options['threads'] > 1 else ''}" if options["threads"] else ""
    minutes = "" if found["seconds"] is None else f" in {found['seconds'] / 60:.0f} minutes"
    conditions = (
        f"{found['model']}, {options['target']}, {options['dtype']}, batch {options['batch_size']}, length "
        f"{options['sequence_length']}{threads}; {found['evaluations']} candidates{minutes} "
        f"on {machine['cores']} core{'s' if machine['cores'] > 1 else ''} of an {machine['processor']}. "
        f"{options['samples']:,} examples of {', '.join(found['calibration'])}, of which {judged:,} judged the points. "
        f"{machine['date']}, {versions}. "
        f"`python -m benchmarks.search --runs {found['run']}` searches again."
    )
    picture = f"![Front of {found['model']}](../benchmarks/results/search-{found['run']}.svg)"
    parts = [f"#### {TITLES[found['run']]}", picture, "\n".join(lines), conditions]
    return "\n\n".join([*parts, *([] if beside is None else baselines(beside))])


def baselines(found: Mapping[str, Any]) -> list[str]:
    """Return the table of a front and of other networks at its latencies, timed together, by latency."""
    dense = found["unpruned"]
    lines = [
        f"| | ms | speed-up | MiB | {_heading(found)}divergence | heads/columns per layer |",
        f"|---|---|---|---|{'---|---|' if found['metric'] else ''}---|---|",
    ]
    for row in sorted(found["rows"], key=lambda row: row["latency_ms"]):
        name = f"({row['name']})" if row["is_dominated"] else row["name"]
        kept = ", ".join(f"{heads}/{columns}" for heads, columns in row["kept"])
        lines.append(f"| {name} | {_costs(row, dense)} | {kept} |")
    lines.append(f"| unpruned | {_costs(dense, dense)} | |")
    text = (
        "Beside other networks of the same latency, refitted to the same examples and timed together "
        f"(`python -m benchmarks.search_baselines --runs {found['run']}`). In brackets: another row is nowhere worse."
    )
    return [text, "\n".join(lines)]


def _heading(found: Mapping[str, Any]) -> str:
    return f"{NAMES[found['metric']]} | lost | " if found["metric"] else ""


def _costs(costs: Mapping[str, Any], dense: Mapping[str, Any]) -> str:
    """Return the cells of a network's costs beside the unpruned network's."""
    cells = [_times(costs, dense)]
    if costs["metric"] is not None:
        cells += [f"{costs['metric']:.2f}", "" if costs is dense else f"{dense['metric'] - costs['metric']:.2f}"]
    return " | ".join([*cells, f"{costs['divergence']:.3f}"])


def _sizes(point: Mapping[str, Any]) -> str:
    """Return heads/columns of each layer, and the widths where the residual stream is narrower."""
    layers = ", ".join(
        f"{len(parse_indices(layer['heads'], 'heads'))}/{len(parse_indices(layer['columns'], 'columns'))}"
        for layer in point["layers"]
    )
    return f"{layers}; widths {', '.join(map(str, point['widths']))}" if point["widths"] else layers


def _results(name: str) -> Any:
    path = RESULTS / f"search-{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def trained(found: Mapping[str, Any]) -> str:
    """Return the table of uniform networks before and after their distillation, and the conditions."""
    dense, metric, machine = found["unpruned"], NAMES[found["metric"]], found["machine"]
    seeds = list(found["rows"][0]["after"])
    lines = [
        f"| | ms | speed-up | MiB | {metric} before | after | of each seed |",
        "|---|---|---|---|---|---|---|",
        f"| unpruned | {_times(dense, dense)} | {dense['before']:.2f} | | |",
    ]
    for row in found["rows"]:
        sizes, after = row["shape"], list(row["after"].values())
        shape = f"{sizes['depth']} layers, {sizes['heads']} heads, {sizes['hidden']}/{sizes['intermediate']}"
        mean, each = f"{sum(after) / len(after):.2f}", ", ".join(f"{value:.2f}" for value in after)
        lines.append(f"| {shape} | {_times(row['measured'], dense)} | {row['before']:.2f} | {mean} | {each} |")
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in ("torch", "onnxruntime"))
    conditions = (
        f"{found['model']}; fp32, batch 1, length 128, 1 thread; {found['evaluations']} candidates, then {found['steps']} "
        f"steps of 32 by the recipe bort-search, seeds {', '.join(seeds)}; judged on all of {found['evaluation']}. "
        f"{machine['date']}, an {machine['processor']}, {versions}. `python -m benchmarks.uniform_training` repeats it."
    )
    return "\n".join(lines) + f"\n\n{conditions}"


def _times(costs: Mapping[str, Any], dense: Mapping[str, Any]) -> str:
    speed_up = dense["latency_ms"] / costs["latency_ms"]
    return f"{costs['latency_ms']:.2f} | {speed_up:.2f}× | {costs['bytes'] / 2**20:.1f}"


def contents() -> list[Content]:
    """Return the texts of the page that are made of the results that are there."""
    found = [section(result, _results(f"{run}-baselines")) for run in TITLES if (result := _results(run)) is not None]
    path = RESULTS / "uniform-training.json"
    after = [(PAGE, "trained", trained(json.loads(path.read_text(encoding="utf-8"))))] if path.is_file() else []
    return [*([(PAGE, "front", "\n\n".join(found))] if found else []), *after]


def main() -> None:
    put(contents())
    print(PAGE.name)


if __name__ == "__main__":
    main()
