"""What was asked for: a fraction of FLOPs or parameters, a latency, or fractions of heads and columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from exporters.errors import UsageError

Kind = Literal["flops", "parameters", "speedup", "latency-ms", "units"]

# Pruning far in one step starves layers: the dense network's scores no longer hold for what reconstruction has made of the
# rest. A rung keeps this part of the one before; a step that would be shorter than the second number is left out.
RUNG = 0.65
_SHORTEST_STEP = 0.85
_NEAR_RUNG = 0.8  # the one rung of budgets that are too near for RUNG
_SHORTEST_NEAR_STEP = 0.9


@dataclass(frozen=True, slots=True)
class Budget:
    """`value` is a fraction of the unpruned network (flops, parameters), a factor (speedup), milliseconds (latency-ms), or
    for "units" the fraction of heads; `columns` is then that of columns."""

    kind: Kind
    value: float
    columns: float = 1.0

    @property
    def name(self) -> str:
        """A name for a folder."""
        if self.kind == "units":
            return f"heads-{self.value:g}-columns-{self.columns:g}"
        return f"{self.kind}-{self.value:g}"


def ladder(fraction: float, *, gradual: bool = True) -> tuple[float, ...]:
    """The fractions to prune to, one after the other, the last of them `fraction`; the same rungs for every budget."""
    rungs = []
    rung = RUNG
    while gradual and rung * _SHORTEST_STEP > fraction > 0:
        rungs.append(rung)
        rung *= RUNG
    if gradual and not rungs and fraction < _NEAR_RUNG * _SHORTEST_NEAR_STEP:
        rungs.append(_NEAR_RUNG)
    return (*rungs, fraction)


def budgets(
    *,
    flops: float | Sequence[float] | None = None,
    parameters: float | Sequence[float] | None = None,
    speedup: float | Sequence[float] | None = None,
    latency_ms: float | Sequence[float] | None = None,
    heads: float | None = None,
    columns: float | None = None,
) -> tuple[Budget, ...]:
    """What was asked for, at least one.

    Raises:
        UsageError: nothing was, or a number is out of range.
    """
    found = []
    for kind, values in (
        ("flops", flops),
        ("parameters", parameters),
        ("speedup", speedup),
        ("latency-ms", latency_ms),
    ):
        for value in [values] if isinstance(values, int | float) else values or ():
            found.append(_checked(Budget(kind, float(value))))  # type: ignore[arg-type]
    if heads is not None or columns is not None:
        found.append(_checked(Budget("units", 1.0 if heads is None else heads, 1.0 if columns is None else columns)))
    if not found:
        raise UsageError(
            "no budget: give --flops, --parameters, --speedup, --latency-ms, or --heads and --columns (what to keep)"
        )
    if len({budget.name for budget in found}) < len(found):
        raise UsageError("the same budget was given twice")
    return tuple(found)


def _checked(budget: Budget) -> Budget:
    option = "--heads, --columns" if budget.kind == "units" else f"--{budget.kind}"
    match budget.kind:
        case "flops" | "parameters":
            fine, expected = 0 < budget.value <= 1, "a fraction above 0, at most 1"
        case "units":
            fine = all(0 <= value <= 1 for value in (budget.value, budget.columns))
            expected = "fractions from 0 to 1"
        case "speedup":
            fine, expected = 1 <= budget.value < float("inf"), "a factor of 1 or more"
        case "latency-ms":
            fine, expected = 0 < budget.value < float("inf"), "milliseconds above 0"
    if not fine:
        raise UsageError(f"{option} {budget.value:g}: expected {expected}")
    return budget
