"""How many units each block keeps under a budget, and which: as little as possible of the scores is lost.

Scores add up: a network loses the sum of the scores of what goes (the diagonal approximation of Kwon et al. 2022, section
4.1). Where every head costs alike and every column does (FLOPs, parameters), the best choice is found by trying every number
of heads (their algorithm 1). Otherwise (time), each block has a price for every count, and a dynamic programme picks one
count a block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from exporters.errors import UsageError
from prune_export.pruning.costs import Costs
from prune_export.pruning.scores import LayerScores

Kept = tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]  # (heads, columns) of each distinct layer, by place

# The dynamic programme counts in parts of the budget and rounds each block's price up: it never goes over the budget,
# and misses it by less than a block's share of this.
_TICKS = 20_000

_ROUNDING = 1e-12  # of sums of costs in another order


@dataclass(frozen=True, slots=True)
class Rules:
    """What a choice must respect.

    Columns stay in multiples of `align` (or all of a block's). `keep_layers` are the distinct layers that lose nothing.
    Without `drop_blocks` no block may lose everything.
    """

    align: int = 1
    keep_layers: frozenset[int] = frozenset()
    drop_blocks: bool = True


DEFAULT_RULES = Rules()


@dataclass(frozen=True, slots=True)
class _Group:
    """Units that stay or go together."""

    layer: int
    units: tuple[int, ...]
    score: float

    @property
    def worth(self) -> float:
        return self.score / len(self.units)


def select(scores: Sequence[LayerScores], costs: Costs, budget: float, rules: Rules = DEFAULT_RULES) -> Kept:
    """What stays, for at most `budget` in the unit of `costs`.

    Raises:
        UsageError: nothing that the rules allow is within the budget; the message says what the least is.
    """
    everything = tuple((tuple(range(len(layer.heads))), tuple(range(len(layer.columns)))) for layer in scores)
    if budget >= min(costs.dense, costs.total(tuple((len(heads), len(columns)) for heads, columns in everything))):
        return everything
    least = least_cost(scores, costs, rules)
    if budget < least * (1 - _ROUNDING):
        part = _upward(least / costs.dense)
        fastest = f", {math.floor(1000 / part) / 1000:g} times as fast" if costs.unit == "ms" else ""
        raise UsageError(
            f"the budget of {budget:,.6g} {costs.unit} ({budget / costs.dense:.3g} of the unpruned network's) cannot be "
            f"met: the least that is left here is {_upward(least):,.6g} ({part:g}{fastest}); ask for that or more"
        )
    if costs.cases:
        return _best_case(scores, costs, budget, rules)
    head_cost, column_cost = _uniform(costs.heads), _uniform(costs.columns)
    if head_cost is None or column_cost is None:
        return _best_case(scores, costs, budget, rules)
    return _by_numbers(scores, head_cost, column_cost, budget - costs.fixed, rules)


def least_cost(scores: Sequence[LayerScores], costs: Costs, rules: Rules = DEFAULT_RULES) -> float:
    """The least that the rules leave, in the unit of `costs`."""
    return min(case.total(_fewest(scores, case, rules)) for case in costs.cases or (costs,))


def select_counts(scores: Sequence[LayerScores], heads: int, columns: int, rules: Rules = DEFAULT_RULES) -> Kept:
    """The best `heads` and `columns` of the whole network; columns in whole groups, and so perhaps a few less.

    Raises:
        UsageError: the rules leave more; the message says how much.
    """
    (forced_heads, free_heads), (forced_columns, free_columns) = _groups(scores, rules)
    have = sum(len(group.units) for group in forced_columns)
    if len(forced_heads) > heads or have > columns:
        raise UsageError(
            f"the budget of {_counted(scores, heads, columns)} cannot be met: the least that is left here is "
            f"{_counted(scores, len(forced_heads), have, at_least=True)}; ask for that or more"
        )
    count = heads - len(forced_heads)
    chosen = list(forced_columns)
    for group in free_columns:
        if have + len(group.units) > columns:
            break
        chosen.append(group)
        have += len(group.units)
    return _kept(len(scores), [*forced_heads, *free_heads[:count]], chosen)


def _counted(scores: Sequence[LayerScores], heads: int, columns: int, *, at_least: bool = False) -> str:
    """Counts beside fractions; those of `at_least` are enough when they are asked for."""
    words = []
    for name, count in (("heads", heads), ("columns", columns)):
        total = sum(len(getattr(layer, name)) for layer in scores)
        part = count / max(total, 1)
        words.append(f"{count:,} of {total:,} {name} ({_upward(part) if at_least else part:.3g})")
    return " and ".join(words)


def _upward(value: float) -> float:
    """`value` with three digits, no less than it is: who asks for it gets it."""
    if value <= 0:
        return 0.0
    step = 10.0 ** (math.floor(math.log10(value)) - 2)
    return max(value, round(math.ceil(value / step) * step, 12))


# --- every head alike, every column alike -----------------------------------------------------------------------------


def _by_numbers(
    scores: Sequence[LayerScores], head_cost: float, column_cost: float, budget: float, rules: Rules
) -> Kept:
    """Tries every number of heads, and fills up with columns."""
    (forced_heads, free_heads), (forced_columns, free_columns) = _groups(scores, rules)
    budget -= head_cost * len(forced_heads) + column_cost * sum(len(group.units) for group in forced_columns)
    head_gains = _cumulated([group.score for group in free_heads])
    column_gains = _cumulated([group.score for group in free_columns])
    prices = _cumulated([column_cost * len(group.units) for group in free_columns])
    best, choice = -1.0, (0, 0)
    for count in range(len(free_heads) + 1):
        left = budget - count * head_cost
        if left < 0:
            break
        filled = int(np.searchsorted(prices, left, side="right")) - 1
        gain = float(head_gains[count] + column_gains[filled])
        if gain > best:
            best, choice = gain, (count, filled)
    heads, columns = choice
    return _kept(len(scores), [*forced_heads, *free_heads[:heads]], [*forced_columns, *free_columns[:columns]])


def _cumulated(values: list[float]) -> NDArray[np.float64]:
    return np.concatenate([[0.0], np.cumsum(np.array(values, dtype=np.float64))])


def _uniform(costs: tuple[tuple[float, ...], ...]) -> float | None:
    """What one unit costs, if that is the same everywhere and nothing else is paid."""
    steps = np.concatenate([np.diff(np.array(part)) for part in costs if len(part) > 1] or [np.zeros(1)])
    if any(part[0] != 0 for part in costs) or np.ptp(steps) > 0:
        return None
    return float(steps[0])


def _groups(
    scores: Sequence[LayerScores], rules: Rules
) -> tuple[tuple[list[_Group], list[_Group]], tuple[list[_Group], list[_Group]]]:
    """Heads, then columns: groups that have to stay, and the others, the most worth first."""
    found = []
    for kind, size in (("heads", 1), ("columns", rules.align)):
        forced: list[_Group] = []
        free: list[_Group] = []
        for index, layer in enumerate(scores):
            groups = _in_groups(index, getattr(layer, kind), size)
            count = len(groups) if index in rules.keep_layers else 0 if rules.drop_blocks else 1
            forced += groups[:count]
            free += groups[count:]
        free.sort(key=lambda group: -group.worth)
        found.append((forced, free))
    return found[0], found[1]


def _in_groups(layer: int, scores: Tensor, size: int) -> list[_Group]:
    """The units of a block, the best first, in groups of `size` (the last may be smaller)."""
    order = scores.argsort(descending=True, stable=True).tolist()
    parts = [tuple(order[start : start + size]) for start in range(0, len(order), size)]
    return [_Group(layer, part, float(scores[list(part)].sum())) for part in parts]


def _kept(layers: int, heads: Sequence[_Group], columns: Sequence[_Group]) -> Kept:
    def units(groups: Sequence[_Group], layer: int) -> tuple[int, ...]:
        return tuple(sorted(unit for group in groups if group.layer == layer for unit in group.units))

    return tuple((units(heads, layer), units(columns, layer)) for layer in range(layers))


# --- a price for every count ------------------------------------------------------------------------------------------


def _best_case(scores: Sequence[LayerScores], costs: Costs, budget: float, rules: Rules) -> Kept:
    """The case in which least is lost. One that forces more to go than another loses need not be worked out."""
    best: Kept | None = None
    least = np.inf
    for case in costs.cases or (costs,):
        if _forced_loss(scores, case) >= least:
            continue
        if (kept := _by_table(scores, case, budget, rules)) is not None and (lost := _lost(scores, kept)) < least:
            best, least = kept, lost
    if best is not None:
        return best
    # The budget is so near the least that prices rounded up go over it.
    least_case = min(costs.cases or (costs,), key=lambda case: case.total(_fewest(scores, case, rules)))
    return tuple(
        (_best_units(layer.heads, heads), _best_units(layer.columns, columns))
        for layer, (heads, columns) in zip(scores, _fewest(scores, least_case, rules), strict=True)
    )


def _forced_loss(scores: Sequence[LayerScores], case: Costs) -> float:
    """The scores of heads that a case has no price for."""
    parts = zip(scores, case.heads, strict=True)
    return sum(float(layer.heads.sum()) for layer, prices in parts if len(prices) > 1 and np.isinf(prices[1]))


def _lost(scores: Sequence[LayerScores], kept: Kept) -> float:
    lost = 0.0
    for layer, (heads, columns) in zip(scores, kept, strict=True):
        lost += float(layer.heads.sum() - layer.heads[list(heads)].sum())
        lost += float(layer.columns.sum() - layer.columns[list(columns)].sum())
    return lost


def _by_table(scores: Sequence[LayerScores], costs: Costs, budget: float, rules: Rules) -> Kept | None:
    """One count for each block, by dynamic programming over the time spent (multiple-choice knapsack)."""
    blocks: list[tuple[Tensor, tuple[float, ...], list[int]]] = []
    for index, layer in enumerate(scores):
        for values, prices, step in (
            (layer.heads, costs.heads[index], 1),
            (layer.columns, costs.columns[index], rules.align),
        ):
            blocks.append((values, prices, _priced(prices, _allowed(len(values), step, index, rules))))
    room = budget - costs.fixed
    least: NDArray[np.float64] = np.zeros(_TICKS + 1)
    choices: list[NDArray[np.int32]] = []
    spent: list[list[int]] = []
    for values, prices, counts in blocks:
        kept = _cumulated(values.sort(descending=True).values.tolist())
        best = np.full(_TICKS + 1, np.inf)
        choice = np.zeros(_TICKS + 1, dtype=np.int32)
        ticks = [_ticks(prices[count], room) for count in counts]
        for option, (count, price) in enumerate(zip(counts, ticks, strict=True)):
            if price > _TICKS:
                continue
            candidate = least[: _TICKS + 1 - price] + (kept[-1] - kept[count])
            better = candidate < best[price:]
            best[price:][better] = candidate[better]
            choice[price:][better] = option
        least = best
        choices.append(choice)
        spent.append(ticks)
    if not np.isfinite(least[-1]):
        return None
    left, counts_kept = _TICKS, []
    for (_, _, counts), choice, ticks in zip(reversed(blocks), reversed(choices), reversed(spent), strict=True):
        option = int(choice[left])
        counts_kept.append(counts[option])
        left -= ticks[option]
    counts_kept.reverse()
    best_of = [_best_units(values, count) for (values, _, _), count in zip(blocks, counts_kept, strict=True)]
    return tuple((best_of[2 * index], best_of[2 * index + 1]) for index in range(len(scores)))


def _best_units(scores: Tensor, count: int) -> tuple[int, ...]:
    return tuple(sorted(scores.argsort(descending=True, stable=True)[:count].tolist()))


def _ticks(price: float, room: float) -> int:
    if price <= 0:
        return 0
    return _TICKS + 1 if room <= 0 else min(_TICKS + 1, int(np.ceil(price / room * _TICKS - 1e-9)))


def _allowed(units: int, step: int, layer: int, rules: Rules) -> list[int]:
    """The counts that a block may keep."""
    if layer in rules.keep_layers:
        return [units]
    counts = sorted({*range(0, units, step), units})
    return counts if rules.drop_blocks or units == 0 else counts[1:]


def _priced(prices: tuple[float, ...], counts: list[int]) -> list[int]:
    """The counts that a case has a price for."""
    return [count for count in counts if np.isfinite(prices[count])]


def _fewest(scores: Sequence[LayerScores], costs: Costs, rules: Rules) -> tuple[tuple[int, int], ...]:
    """The fewest heads and columns of each layer."""
    return tuple(_least(scores, costs, index, rules) for index in range(len(scores)))


def _least(scores: Sequence[LayerScores], costs: Costs, index: int, rules: Rules) -> tuple[int, int]:
    """The fewest heads and columns; where a case allows none of the counts, one that it has no price for."""
    layer = scores[index]
    heads = _allowed(len(layer.heads), 1, index, rules)
    columns = _allowed(len(layer.columns), rules.align, index, rules)
    return (_priced(costs.heads[index], heads) or heads)[0], (_priced(costs.columns[index], columns) or columns)[0]
