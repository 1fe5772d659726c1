#!/usr/bin/env python3
"""Puts results into docs/prune.md: those of benchmarks.pruning (with pictures), asked_speed and prune_cost.

The text between `<!-- qa -->` and `<!-- /qa -->`, and so on (sst2, speed, cost), is replaced; the rest is left alone.

    python -m benchmarks.pruning_tables
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.measuring import RESULTS
from benchmarks.pruning import DENSE, GRADUAL, OBS, ROWS, TASKS
from benchmarks.readme import Content, put

PAGE = RESULTS.parent.parent / "docs" / "prune.md"
NAMES = {"f1": "F1", "accuracy": "accuracy"}
_COLOURS = (
    "#bbbbbb",
    "#999999",
    "#c4a484",
    "#8c8c40",
    "#6a9fb5",
    "#4878a8",
    "#55a868",
    "#dd8452",
    "#d4b830",
    "#b07aa1",
    "#c44e52",
    "#8172b2",
)


def section(found: Mapping[str, Any], picture: str, others: Sequence[Mapping[str, Any]] = ()) -> str:
    """A task's part of the page; `others` are results with other numbers of examples."""
    lines = [table(found), *(lost_with_others(found, other) for other in others)]
    return "\n\n".join([f"![{_title(found)}]({picture})", "\n".join(lines), conditions(found), losses(found)])


def _title(found: Mapping[str, Any]) -> str:
    return f"{NAMES[found['metric']]} on {found['evaluation']} against the FLOPs kept"


def scores(found: Mapping[str, Any], row: str, flops: float, *, data: str = "metrics") -> list[float]:
    """The metric of every seed, in the order of the seeds, on the first data set or the second ("second_metrics")."""
    points = sorted(found["points"], key=lambda point: point["seed"])
    return [
        point[data][found["metric"]]
        for point in points
        if (point["row"], point["flops"]) == (row, flops) and point.get(data)
    ]


def last_method(found: Mapping[str, Any]) -> str:
    """Return the best method that was measured."""
    return OBS if any(point["row"] == OBS for point in found["points"]) else GRADUAL


def budgets(found: Mapping[str, Any]) -> list[float]:
    return sorted({point["flops"] for point in found["points"] if point["row"] != DENSE}, reverse=True)


def table(found: Mapping[str, Any]) -> str:
    """A row a method, a column a budget. Rows with several seeds show the first, and below it the mean and the range."""
    dense = scores(found, DENSE, 1.0)[0]
    asked = budgets(found)
    lines = [
        f"| {NAMES[found['metric']]} (dense {dense:.2f}), FLOPs kept | {' | '.join(f'{flops:g}' for flops in asked)} |",
        f"|---|{'---|' * len(asked)}",
    ]
    for row in ROWS:
        cells = [scores(found, row, flops) for flops in asked]
        if any(cells):
            lines.append(f"| {row} | {' | '.join(f'{cell[0]:.2f}' if cell else '' for cell in cells)} |")
        if any(len(cell) > 1 for cell in cells):
            spread = [
                f"{mean(cell):.2f} ({min(cell):.2f} to {max(cell):.2f})" if len(cell) > 1 else "" for cell in cells
            ]
            count = max(len(cell) for cell in cells)
            lines.append(f"| {row}, {count} seeds: mean and range | {' | '.join(spread)} |")
    row = last_method(found)
    lines.append(_lost(f"lost by {row}", dense, [scores(found, row, flops) for flops in asked]))
    second = "second_metrics"
    if on_second := scores(found, DENSE, 1.0, data=second):
        cells = [scores(found, row, flops, data=second) for flops in asked]
        lines.append(_lost(f"the same on {found['second']} (dense {on_second[0]:.2f})", on_second[0], cells))
    return "\n".join(lines)


def lost_with_others(found: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Returns what the best method loses with the examples of `other`, at the budgets of `found`."""
    row, lines = last_method(found), []
    for data, name in (("metrics", found["evaluation"]), ("second_metrics", found.get("second"))):
        if dense := scores(other, DENSE, 1.0, data=data):
            cells = [scores(other, row, flops, data=data) for flops in budgets(found)]
            counts = sorted({len(cell) for cell in cells if cell})
            seeds = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
            lines.append(_lost(f"lost with {other['samples']:,} examples, {seeds} seeds, {name}", dense[0], cells))
    return "\n".join(lines)


def _lost(name: str, dense: float, cells: Sequence[Sequence[float]]) -> str:
    """Return a line with what is lost at each budget, mean over seeds."""
    return f"| *{name}* | {' | '.join(f'*{dense - mean(cell):.2f}*' if cell else '' for cell in cells)} |"


def conditions(found: Mapping[str, Any]) -> str:
    """Return the conditions of the figures."""
    machine = found["machine"]
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in ("torch", "onnxruntime"))
    return (
        f"Calibrated with {found['samples']:,} examples of {', '.join(found['calibration'])}, judged on all "
        f"{found['examples']:,} of {found['evaluation']}{_second(found)}. FLOPs are those of the encoder layers at length "
        f"{found['sequence_length']}; every point keeps at most its budget. {machine['date']}, {versions}. "
        f"`python -m benchmarks.pruning --task {found['task']}` measures again."
    )


def _second(found: Mapping[str, Any]) -> str:
    return f", and on the answerable questions of {found['second']}" if found.get("second") else ""


def losses(found: Mapping[str, Any]) -> str:
    """Return the kept heads and columns per layer, and each block's error on samples that no weight was fitted to."""
    points = [point for point in found["points"] if point["row"] == last_method(found) and point["seed"] == 0]
    points.sort(key=lambda point: -point["flops"])
    layers = range(len(points[0]["kept"])) if points else range(0)
    lines = [
        f"| heads/columns kept (error in %) | {' | '.join(f'layer {layer}' for layer in layers)} |",
        f"|---|{'---|' * len(layers)}",
    ]
    for point in points:
        cells = []
        for layer, (heads, columns) in enumerate(point["kept"]):
            errors = {part: after for place, part, _, after in point["held_out_errors"] if place == layer}
            both = " / ".join(
                f"{100 * errors[part]:.1f}" if part in errors else "–" for part in ("attention output", "down")
            )
            cells.append(f"{heads}/{columns} ({both})")
        lines.append(f"| {point['flops']:g} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Lines of the metric over the FLOPs that stay, one a row; bars where there are several seeds."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    dense = scores(found, DENSE, 1.0)[0]
    # A fixed salt and no date: the same figures give the same file.
    with rc_context({"svg.hashsalt": "prune-export", "font.size": 9, "axes.edgecolor": "#aaaaaa"}):
        figure: Any = Figure(figsize=(7.6, 4.4), layout="constrained")
        axis = figure.subplots()
        axis.axhline(dense, color="black", linewidth=0.8, linestyle=":")
        for colour, row in zip(_COLOURS, ROWS, strict=True):
            measured = [(flops, scores(found, row, flops)) for flops in budgets(found)]
            shown = [(1.0, [dense])] + [(flops, values) for flops, values in measured if values]
            if len(shown) == 1:
                continue
            places, values = [flops for flops, _ in shown], [mean(cell) for _, cell in shown]
            spread = [
                [value - min(cell) for value, (_, cell) in zip(values, shown, strict=True)],
                [max(cell) - value for value, (_, cell) in zip(values, shown, strict=True)],
            ]
            width = 2.0 if row == last_method(found) else 1.2
            axis.errorbar(
                places, values, yerr=spread, label=row, color=colour, marker=".", linewidth=width, elinewidth=0.8
            )
        axis.invert_xaxis()
        axis.set_xlabel("FLOPs kept (fraction of the encoder's)")
        axis.set_ylabel(NAMES[found["metric"]])
        axis.set_title(_title(found), fontsize=10)
        axis.grid(color="#eeeeee")
        axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
        figure.savefig(path, metadata={"Date": None})


def speed(found: Mapping[str, Any]) -> str:
    """Return target, predicted and measured speed-ups over the unpruned network of the same dtype."""
    lines = ["| | target | predicted | measured (range over rounds) | off by | ms |", "|---|---|---|---|---|---|"]
    for dtype, part in found["dtypes"].items():
        milliseconds = f"{part['unpruned_ms']:.1f} (predicted {part['unpruned_predicted_ms']:.1f})"
        lines.append(f"| {dtype}, unpruned | | | 1.00× | | {milliseconds} |")
        for row in part["asked"]:
            low, high = row["measured_range"]
            off = 100 * (row["measured"] / row["predicted"] - 1)
            cells = (
                f"{row['asked']:g}×",
                f"{row['predicted']:.2f}×",
                f"{row['measured']:.2f}× ({low:.2f} to {high:.2f})",
                f"{off:+.1f} %",
                f"{row['measured_ms']:.1f} (predicted {row['predicted_ms']:.1f})",
            )
            lines.append(f"| {dtype} | {' | '.join(cells)} |")
    machine = found["machine"]
    samples = " and ".join(sorted({f"{part['samples']}" for part in found["dtypes"].values()}))
    noise = ", ".join(f"{dtype} {100 * part['noise']:.0f} %" for dtype, part in found["dtypes"].items())
    lines.append(
        f"\n{found['model']}, pruned with {samples} examples, batch {found['batch_size']}, length "
        f"{found['sequence_length']}, {machine['cores']} cores of an {machine['processor']}, each row in a process of its "
        f"own, rounds alternating; ratios of a round are off by {noise}. {machine['date']}. "
        "`python -m benchmarks.asked_speed` measures again."
    )
    return "\n".join(lines)


def cost(found: Mapping[str, Any]) -> str:
    """Time and memory of the whole command."""
    lines = ["| | samples | FLOPs kept | seconds | peak memory |", "|---|---|---|---|---|"]
    for row in found["rows"]:
        lines.append(
            f"| {row['model']} | {row['samples']:,} | {row['flops']:g} | {row['seconds']['median']:,.0f} | "
            f"{row['peak_mib']['median']:,.0f} MiB |"
        )
    machine = found["machine"]
    lines.append(f"\n{machine['cores']} cores of an {machine['processor']}, {machine['date']}.")
    return "\n".join(lines)


def sections(folder: Path) -> Sequence[tuple[str, dict[str, Any]]]:
    """The results that are there."""
    paths = [(task, folder / f"pruning-{task}.json") for task in TASKS]
    return [(task, json.loads(path.read_text(encoding="utf-8"))) for task, path in paths if path.is_file()]


def contents() -> list[Content]:
    """Return the texts of the page that are made of the results that are there."""
    pages = []
    for task, found in sections(RESULTS):
        others = [
            json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob(f"pruning-{task}-*.json"))
        ]
        pages.append((PAGE, task, section(found, f"../benchmarks/results/{picture(task)}", others)))
    for name, path, content in (("speed", "asked-speed", speed), ("cost", "prune-cost", cost)):
        if (file := RESULTS / f"{path}.json").is_file():
            pages.append((PAGE, name, content(json.loads(file.read_text(encoding="utf-8")))))
    return pages


def picture(task: str) -> str:
    return f"pruning-{task}.svg"


def main() -> None:
    found = sections(RESULTS)
    if not found:
        raise SystemExit("no results: run python -m benchmarks.pruning first")
    for task, results in found:
        draw(results, RESULTS / picture(task))
    put(contents())
    print(f"{PAGE.name}: {', '.join(task for task, _ in found)}")


if __name__ == "__main__":
    main()
