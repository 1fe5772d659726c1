"""What was asked for: a fraction of FLOPs or parameters, a latency, or fractions of heads and columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from exporters.errors import UsageError
from prune_export.options.prune import Budgets

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


def budgets(options: Budgets) -> tuple[Budget, ...]:
    """Returns what was asked for, at least one.

    Raises:
        UsageError: nothing was, or the same twice.
    """
    found: list[Budget] = []
    several: tuple[tuple[Kind, float | Sequence[float] | None], ...] = (
        ("flops", options.flops),
        ("parameters", options.parameters),
        ("speedup", options.speedup),
        ("latency-ms", options.latency_ms),
    )
    for kind, given in several:
        values = given if isinstance(given, Sequence) else () if given is None else (given,)
        found += [Budget(kind, value) for value in values]
    if options.heads is not None or options.columns is not None:
        found.append(Budget("units", *(1.0 if part is None else part for part in (options.heads, options.columns))))
    if not found:
        raise UsageError(
            "no budget: give --flops, --parameters, --speedup, --latency-ms, or --heads and --columns (what to keep)"
        )
    names = [budget.name for budget in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"two budgets are called {twice[0]}: give one of them")
    return tuple(found)
