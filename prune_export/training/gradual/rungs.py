"""The way to a list of budgets, in steps of about the same size."""

from __future__ import annotations

import math
from collections.abc import Sequence

from exporters.errors import UsageError


def rungs(budgets: Sequence[float], step: float) -> tuple[tuple[float, bool], ...]:
    """Fractions of the FLOPs to prune to, falling; True where that is one of `budgets`.

    Between two budgets (and before the first) lie as few steps, each the same factor, as keep that factor at `step` or
    above.

    Raises:
        UsageError: no budget, one that is not between 0 and 1, or two that are the same.
    """
    if not budgets or not all(0 < budget < 1 for budget in budgets) or len(set(budgets)) < len(budgets):
        found = ", ".join(f"{budget:g}" for budget in budgets) or "none"
        raise UsageError(f"budget.flops: expected one or more different fractions between 0 and 1; found {found}")
    found_rungs: list[tuple[float, bool]] = []
    before = 1.0
    for budget in sorted(budgets, reverse=True):
        count = max(1, math.ceil(math.log(budget / before) / math.log(step) - 1e-9))
        factor = (budget / before) ** (1 / count)
        found_rungs += [(before * factor**place, False) for place in range(1, count)]
        found_rungs.append((budget, True))
        before = budget
    return tuple(found_rungs)
