"""The budgets of pruning: fractions of FLOPs, parameters or heads and columns, a speed-up, a latency, a size of the file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from exporters.errors import UsageError
from prune_export.options.prune import Budgets

Kind = Literal["flops", "parameters", "speedup", "latency-ms", "max-mib", "units"]

# Pruning far in one step starves layers: the dense network's scores no longer hold for the reconstructed rest. An
# intermediate step keeps the first number of the one before. A last step that would keep more than the second is left out.
_STEP = 0.65
_SHORTEST_STEP = 0.85
_NEAR_STEP = 0.8  # the only intermediate step to budgets that are too near for _STEP
_SHORTEST_NEAR_STEP = 0.9


@dataclass(frozen=True, slots=True)
class Budget:
    """One budget.

    `value` is a fraction of the unpruned network (flops, parameters), a factor (speedup), milliseconds (latency-ms), or
    MiB of the exported file (max-mib). For "units" it is the fraction of heads that is kept, and `columns` that of columns.
    """

    kind: Kind
    value: float
    columns: float = 1.0

    @property
    def name(self) -> str:
        """Returns the name of the budget's folder, such as "flops-0.5"."""
        if self.kind == "units":
            return f"heads-{self.value:g}-columns-{self.columns:g}"
        return f"{self.kind}-{self.value:g}"


def target_fractions(fraction: float, *, gradual: bool = True) -> tuple[float, ...]:
    """Returns the fractions to prune to, one after the other; the last is `fraction`.

    The intermediate ones are the same for every budget, so that budgets share steps.
    """
    targets = []
    target = _STEP
    while gradual and target * _SHORTEST_STEP > fraction > 0:
        targets.append(target)
        target *= _STEP
    if gradual and not targets and fraction < _NEAR_STEP * _SHORTEST_NEAR_STEP:
        targets.append(_NEAR_STEP)
    return (*targets, fraction)


def budgets_of(options: Budgets) -> tuple[Budget, ...]:
    """Returns the budgets that the options give, at least one.

    Raises:
        UsageError: there is none, or the same one twice.
    """
    budgets: list[Budget] = []
    by_kind: tuple[tuple[Kind, float | Sequence[float] | None], ...] = (
        ("flops", options.flops),
        ("parameters", options.parameters),
        ("speedup", options.speedup),
        ("latency-ms", options.latency_ms),
        ("max-mib", options.max_mib),
    )
    for kind, given in by_kind:
        values = given if isinstance(given, Sequence) else () if given is None else (given,)
        budgets += [Budget(kind, value) for value in values]
    if options.heads is not None or options.columns is not None:
        heads, columns = (1.0 if kept is None else kept for kept in (options.heads, options.columns))
        budgets.append(Budget("units", heads, columns))
    if not budgets:
        raise UsageError(
            "no budget: give --flops, --parameters, --speedup, --latency-ms, --max-mib, or --heads and --columns (what to "
            "keep)"
        )
    names = [budget.name for budget in budgets]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"two budgets are called {twice[0]}: give one of them")
    return tuple(budgets)
