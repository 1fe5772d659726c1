"""What was asked for: a fraction of FLOPs or parameters, a latency, or fractions of heads and columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from exporters.errors import UsageError
from prune_export.numbers import FACTOR, FRACTION, KEPT_FRACTION, POSITIVE, Range

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
    found: list[Budget] = []
    several: tuple[tuple[Kind, Any, Range], ...] = (
        ("flops", flops, KEPT_FRACTION),
        ("parameters", parameters, KEPT_FRACTION),
        ("speedup", speedup, FACTOR),
        ("latency-ms", latency_ms, POSITIVE),
    )
    for kind, given, allowed in several:
        values = given if isinstance(given, Iterable) and not isinstance(given, str) else [given]
        if given is not None:
            found += [Budget(kind, allowed.checked(f"--{kind}", value)) for value in values]
    parts = [
        1.0 if value is None else FRACTION.checked(option, value)
        for option, value in (("--heads", heads), ("--columns", columns))
    ]
    if heads is not None or columns is not None:
        found.append(Budget("units", *parts))
    if not found:
        raise UsageError(
            "no budget: give --flops, --parameters, --speedup, --latency-ms, or --heads and --columns (what to keep)"
        )
    names = [budget.name for budget in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"two budgets are called {twice[0]}: give one of them")
    return tuple(found)
