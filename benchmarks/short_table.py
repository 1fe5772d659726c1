"""The README's table of speed, from benchmarks/results/training-qa.json: what pruning alone gives is a row of it."""

from __future__ import annotations

from typing import Any

BUDGETS = (0.5, 0.25)  # the runs of gradual pruning that are shown
DENSE = "dense"


def short_section(found: dict[str, Any]) -> str:
    """Return the table of one network, dense and pruned, and the conditions of its figures.

    Times and speed-ups are those of one run of `benchmarks.training speed`. Pruning alone is the median time of the dense
    ONNX model divided by that of the slim one.
    """
    part = found["speed"]
    measured = [part["rows"][name] for name in (DENSE, *(f"gradual {flops:g}" for flops in BUDGETS))]
    times = [row["milliseconds"] for row in measured]
    scores = [_f1(found, DENSE, 1.0), *(_f1(found, "gradual", flops) for flops in BUDGETS)]
    torch = part["rows"]["PyTorch"]["milliseconds"]
    rows = [
        ["MiniLM, question answering", "dense", *(f"{flops:g} of the FLOPs" for flops in BUDGETS)],
        ["---"] * (1 + len(measured)),
        [f"F1 on {found['evaluation']}", *(f"{score:.2f}" for score in scores)],
        ["ONNX, fp32", *(f"{milliseconds:.1f} ms" for milliseconds in times)],
        [f"speed-up over dense PyTorch ({torch:.1f} ms)", *(f"{row['speed_up']:.2f}×" for row in measured)],
        [
            "**pruning alone**: over the dense ONNX model, same runtime and dtype",
            *(f"{times[0] / milliseconds:.2f}×" for milliseconds in times),
        ],
    ]
    machine = part["machine"]
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in ("torch", "onnxruntime"))
    conditions = (
        f"Batch {part['batch_size']}, length {part['sequence_length']}, {machine['cores']} cores of an "
        f"{machine['processor']}, medians of one run; ratios of a round are off by {100 * part['noise']:.0f} %. The pruned "
        "models were pruned gradually, with training. The dense model has F1 "
        f"{_f1(found, 'trained-on', 1.0):.2f} after as many training steps as {BUDGETS[0]:g} of the FLOPs took. "
        f"{machine['date']}, {versions}."
    )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n\n" + conditions


def _f1(found: dict[str, Any], name: str, flops: float) -> float:
    """Return the F1 of a run's ONNX export."""
    run = next(run for run in found["runs"] if (run["run"], run["flops"]) == (name, flops))
    score: float = run["onnx"]["f1"]
    return score
