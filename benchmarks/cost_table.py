"""The table of docs/speed.md that says what a proven export costs, from benchmarks/results/export_cost.json."""

from __future__ import annotations

from typing import Any

from benchmarks.export_cost import ROWS


def cost_section(found: dict[str, Any]) -> str:
    """A table of all networks, what it holds for, and the ratios to optimum-cli."""
    machine = found["machine"]
    lines = ["| network | | seconds (median, range) | peak memory |", "|---|---|---|---|"]
    ratios = []
    for name, network in found["networks"].items():
        title = f"{name}, {network['mib']:,.0f} MiB"
        for row in (row for row in ROWS if row in network["rows"]):
            seconds, peak = network["rows"][row]["seconds"], network["rows"][row]["peak_mib"]
            shown = row if row == "imports" else f"`{row}`"
            spread = f"{seconds['median']:.1f} ({seconds['min']:.1f} to {seconds['max']:.1f})"
            lines.append(f"| {title} | {shown} | {spread} | {peak['median']:,.0f} MiB |")
            title = ""
        if "time_of_optimum_cli" in network:
            time, memory = network["time_of_optimum_cli"], network["memory_of_optimum_cli"]
            ratios.append(f"{name} {time:.2f} of the time and {memory:.2f} of the memory")
    wanted = ("torch", "transformers", "onnxruntime")
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in wanted if name in machine["versions"])
    conditions = (
        f"Whole commands, {found['rounds']} alternating rounds on {machine['cores']} cores of an {machine['processor']} "
        f"({machine['date']}, {versions}). Beside `optimum-cli export onnx`, medians of the ratios within rounds: "
        f"{'; '.join(ratios)}. `python -m benchmarks.export_cost` repeats it."
    )
    return "\n".join(lines) + "\n\n" + conditions
