"""Selects the units that each block keeps under a budget, so that the removed ones have the smallest sum of scores.

A network is taken to lose the sum of the removed units' scores: the diagonal approximation of Kwon et al. 2022, section 4.1.
Where all heads cost the same and all columns do (FLOPs, parameters), the best choice is found by trying every number of
heads (their algorithm 1). Otherwise (time), each block has a cost for every count, and a dynamic programme picks one count
per block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from exporters.encoder import Encoder
from exporters.errors import UsageError
from prune_export.pruning.costs import Costs
from prune_export.pruning.scores import LayerScores

Kept = tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]  # the indices of (heads, columns) of each distinct layer

# The dynamic programme counts in parts of the budget and rounds each block's cost up to whole parts: it never exceeds the
# budget, and leaves at most one part per block unused.
_TICKS = 20_000

_ROUNDING = 1e-12  # relative difference of sums in another order


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules that a selection observes.

    A block keeps its columns in multiples of `align`, or all of them. `keep_layers` are the distinct layers that keep
    everything. Without `drop_blocks` every block keeps something.
    """

    align: int = 1
    keep_layers: frozenset[int] = frozenset()
    drop_blocks: bool = True


DEFAULT_RULES = Rules()


def layers_to_keep(encoder: Encoder, layers: Sequence[int]) -> frozenset[int]:
    """Returns the indices of `layers` (`--keep-layers`) among the distinct layers.

    Raises:
        UsageError: the network has no such layer.
    """
    indices = encoder.layer_indices
    if wrong := [layer for layer in layers if layer >= len(indices)]:
        raise UsageError(f"--keep-layers {wrong[0]}: the network has layers 0 to {len(indices) - 1}")
    return frozenset(indices[layer] for layer in layers)


@dataclass(frozen=True, slots=True)
class _Group:
    """Units that are kept or removed together."""

    layer: int
    units: tuple[int, ...]
    score: float

    @property
    def score_per_unit(self) -> float:
        return self.score / len(self.units)


def select(scores: Sequence[LayerScores], costs: Costs, budget: float, rules: Rules = DEFAULT_RULES) -> Kept:
    """Returns the units to keep, whose cost is at most `budget` in the unit of `costs`.

    Raises:
        UsageError: the rules allow no network within the budget; the message gives the smallest cost that they allow.
    """
    everything = tuple((tuple(range(len(layer.heads))), tuple(range(len(layer.columns)))) for layer in scores)
    if budget >= min(costs.dense, costs.total(tuple((len(heads), len(columns)) for heads, columns in everything))):
        return everything
    least = least_cost(scores, costs, rules)
    if budget < least * (1 - _ROUNDING):
        fraction = _rounded_up(least / costs.dense)
        fastest = f", {math.floor(1000 / fraction) / 1000:g} times as fast" if costs.unit == "ms" else ""
        raise UsageError(
            f"the budget of {budget:,.6g} {costs.unit} ({budget / costs.dense:.3g} of the unpruned network's) cannot be "
            f"met: the least that is left here is {_rounded_up(least):,.6g} ({fraction:g}{fastest}); ask for that or more"
        )
    if not costs.cases:
        head_cost, column_cost = _uniform_cost(costs.heads), _uniform_cost(costs.columns)
        if head_cost is not None and column_cost is not None:
            return _select_at_uniform_costs(scores, head_cost, column_cost, budget - costs.fixed, rules)
    return _select_best_case(scores, costs, budget, rules)


def least_cost(scores: Sequence[LayerScores], costs: Costs, rules: Rules = DEFAULT_RULES) -> float:
    """Returns the cost of the smallest network that the rules allow, in the unit of `costs`."""
    return min(case.total(_fewest(scores, case, rules)) for case in costs.cases or (costs,))


def select_counts(scores: Sequence[LayerScores], heads: int, columns: int, rules: Rules = DEFAULT_RULES) -> Kept:
    """Returns the best `heads` heads and `columns` columns of the whole network.

    Columns are kept in whole groups, so that there may be a few less than `columns`.

    Raises:
        UsageError: the rules keep more; the message says how much.
    """
    (forced_heads, free_heads), (forced_columns, free_columns) = _groups(scores, rules)
    kept_columns = sum(len(group.units) for group in forced_columns)
    if len(forced_heads) > heads or kept_columns > columns:
        raise UsageError(
            f"the budget of {_in_words(scores, heads, columns)} cannot be met: the least that is left here is "
            f"{_in_words(scores, len(forced_heads), kept_columns, round_up=True)}; ask for that or more"
        )
    chosen_heads = [*forced_heads, *free_heads[: heads - len(forced_heads)]]
    chosen_columns = list(forced_columns)
    for group in free_columns:
        if kept_columns + len(group.units) > columns:
            break
        chosen_columns.append(group)
        kept_columns += len(group.units)
    return _kept(len(scores), chosen_heads, chosen_columns)


def _in_words(scores: Sequence[LayerScores], heads: int, columns: int, *, round_up: bool = False) -> str:
    """Returns both counts with their fractions of the network's."""
    words = []
    for name, count in (("heads", heads), ("columns", columns)):
        total = sum(len(getattr(layer, name)) for layer in scores)
        fraction = count / max(total, 1)
        words.append(f"{count:,} of {total:,} {name} ({_rounded_up(fraction) if round_up else fraction:.3g})")
    return " and ".join(words)


def _rounded_up(value: float) -> float:
    """Returns `value` rounded up to three digits: a budget of that can be met."""
    if value <= 0:
        return 0.0
    step = 10.0 ** (math.floor(math.log10(value)) - 2)
    return max(value, round(math.ceil(value / step) * step, 12))


# --- all heads cost the same, and all columns do ----------------------------------------------------------------------


def _select_at_uniform_costs(
    scores: Sequence[LayerScores], head_cost: float, column_cost: float, budget: float, rules: Rules
) -> Kept:
    """Tries every number of heads, each with as many columns as the rest of the budget allows."""
    (forced_heads, free_heads), (forced_columns, free_columns) = _groups(scores, rules)
    budget -= head_cost * len(forced_heads) + column_cost * sum(len(group.units) for group in forced_columns)
    head_scores = _cumulated([group.score for group in free_heads])
    column_scores = _cumulated([group.score for group in free_columns])
    column_costs = _cumulated([column_cost * len(group.units) for group in free_columns])
    best, (heads, columns) = -1.0, (0, 0)
    for head_count in range(len(free_heads) + 1):
        rest = budget - head_count * head_cost
        if rest < 0:
            break
        column_count = int(np.searchsorted(column_costs, rest, side="right")) - 1
        kept_score = float(head_scores[head_count] + column_scores[column_count])
        if kept_score > best:
            best, (heads, columns) = kept_score, (head_count, column_count)
    return _kept(len(scores), [*forced_heads, *free_heads[:heads]], [*forced_columns, *free_columns[:columns]])


def _cumulated(values: list[float]) -> NDArray[np.float64]:
    return np.concatenate([[0.0], np.cumsum(np.array(values, dtype=np.float64))])


def _uniform_cost(costs: tuple[tuple[float, ...], ...]) -> float | None:
    """Returns the cost of one unit; None if units differ in it, or a block costs more than its units."""
    steps = np.concatenate([np.diff(np.array(by_count)) for by_count in costs if len(by_count) > 1] or [np.zeros(1)])
    if any(by_count[0] != 0 for by_count in costs) or np.ptp(steps) > 0:
        return None
    return float(steps[0])


def _groups(
    scores: Sequence[LayerScores], rules: Rules
) -> tuple[tuple[list[_Group], list[_Group]], tuple[list[_Group], list[_Group]]]:
    """Returns two lists of groups for heads, then two for columns.

    The first list holds the groups that the rules keep, the second one the others, by descending score per unit.
    """
    pairs = []
    for kind, size in (("heads", 1), ("columns", rules.align)):
        forced: list[_Group] = []
        free: list[_Group] = []
        for index, layer in enumerate(scores):
            groups = _in_groups(index, getattr(layer, kind), size)
            count = len(groups) if index in rules.keep_layers else 0 if rules.drop_blocks else 1
            forced += groups[:count]
            free += groups[count:]
        free.sort(key=lambda group: -group.score_per_unit)
        pairs.append((forced, free))
    return pairs[0], pairs[1]


def _in_groups(layer: int, scores: Tensor, size: int) -> list[_Group]:
    """Returns the units of a block in groups of `size`, the highest scores first; the last group may be smaller."""
    order = scores.argsort(descending=True, stable=True).tolist()
    groups = [tuple(order[start : start + size]) for start in range(0, len(order), size)]
    return [_Group(layer, units, float(scores[list(units)].sum())) for units in groups]


def _kept(layers: int, heads: Sequence[_Group], columns: Sequence[_Group]) -> Kept:
    def units(groups: Sequence[_Group], layer: int) -> tuple[int, ...]:
        return tuple(sorted(unit for group in groups if group.layer == layer for unit in group.units))

    return tuple((units(heads, layer), units(columns, layer)) for layer in range(layers))


# --- a cost for every count -------------------------------------------------------------------------------------------


def _select_best_case(scores: Sequence[LayerScores], costs: Costs, budget: float, rules: Rules) -> Kept:
    """Selects in each case of the costs, and returns the selection that removes the smallest sum of scores."""
    best: Kept | None = None
    least_removed = np.inf
    for case in costs.cases or (costs,):
        if _excluded_score(scores, case) >= least_removed:
            continue
        kept = _select_by_dynamic_programming(scores, case, budget, rules)
        if kept is not None and (removed := _removed_score(scores, kept)) < least_removed:
            best, least_removed = kept, removed
    if best is not None:
        return best
    # The budget is so near the smallest cost that costs rounded up exceed it.
    least_case = min(costs.cases or (costs,), key=lambda case: case.total(_fewest(scores, case, rules)))
    return tuple(
        (best_units(layer.heads, heads), best_units(layer.columns, columns))
        for layer, (heads, columns) in zip(scores, _fewest(scores, least_case, rules), strict=True)
    )


def _excluded_score(scores: Sequence[LayerScores], case: Costs) -> float:
    """Returns the sum of scores of the heads that a case excludes: their cost is infinite."""
    layers = zip(scores, case.heads, strict=True)
    return sum(float(layer.heads.sum()) for layer, costs in layers if len(costs) > 1 and np.isinf(costs[1]))


def _removed_score(scores: Sequence[LayerScores], kept: Kept) -> float:
    removed = 0.0
    for layer, (heads, columns) in zip(scores, kept, strict=True):
        removed += float(layer.heads.sum() - layer.heads[list(heads)].sum())
        removed += float(layer.columns.sum() - layer.columns[list(columns)].sum())
    return removed


def _select_by_dynamic_programming(
    scores: Sequence[LayerScores], costs: Costs, budget: float, rules: Rules
) -> Kept | None:
    """Chooses one count per block, by dynamic programming over the budget spent (multiple-choice knapsack).

    Returns None where no choice is within the budget.
    """
    blocks: list[tuple[Tensor, tuple[float, ...], list[int]]] = []
    for index, layer in enumerate(scores):
        for block_scores, costs_by_count, step in (
            (layer.heads, costs.heads[index], 1),
            (layer.columns, costs.columns[index], rules.align),
        ):
            counts = _finite(costs_by_count, _allowed(len(block_scores), step, index, rules))
            blocks.append((block_scores, costs_by_count, counts))
    available = budget - costs.fixed
    least: NDArray[np.float64] = np.zeros(_TICKS + 1)  # the smallest sum removed so far, by ticks spent
    choices: list[NDArray[np.int32]] = []
    ticks_of_blocks: list[list[int]] = []
    for block_scores, costs_by_count, counts in blocks:
        kept_scores = _cumulated(block_scores.sort(descending=True).values.tolist())
        best = np.full(_TICKS + 1, np.inf)
        choice = np.zeros(_TICKS + 1, dtype=np.int32)
        ticks_by_option = [_ticks(costs_by_count[count], available) for count in counts]
        for option, (count, ticks) in enumerate(zip(counts, ticks_by_option, strict=True)):
            if ticks > _TICKS:
                continue
            candidate = least[: _TICKS + 1 - ticks] + (kept_scores[-1] - kept_scores[count])
            better = candidate < best[ticks:]
            best[ticks:][better] = candidate[better]
            choice[ticks:][better] = option
        least = best
        choices.append(choice)
        ticks_of_blocks.append(ticks_by_option)
    if not np.isfinite(least[-1]):
        return None
    rest, kept_units = _TICKS, []
    for (block_scores, _, counts), choice, ticks_by_option in zip(
        reversed(blocks), reversed(choices), reversed(ticks_of_blocks), strict=True
    ):
        option = int(choice[rest])
        kept_units.append(best_units(block_scores, counts[option]))
        rest -= ticks_by_option[option]
    kept_units.reverse()
    return tuple(zip(kept_units[::2], kept_units[1::2], strict=True))


def best_units(scores: Tensor, count: int) -> tuple[int, ...]:
    """Returns the indices of the `count` units with the highest scores, ascending; the first ones of equal scores."""
    return tuple(sorted(scores.argsort(descending=True, stable=True)[:count].tolist()))


def _ticks(cost: float, available: float) -> int:
    """Returns a cost in parts of the budget that is available, rounded up; `_TICKS + 1` where it exceeds that."""
    if cost <= 0:
        return 0
    return _TICKS + 1 if available <= 0 else min(_TICKS + 1, int(np.ceil(cost / available * _TICKS - 1e-9)))


def _allowed(units: int, step: int, layer: int, rules: Rules) -> list[int]:
    """Returns the counts that the rules allow a block to keep, in ascending order."""
    if layer in rules.keep_layers:
        return [units]
    counts = sorted({*range(0, units, step), units})
    return counts if rules.drop_blocks or units == 0 else counts[1:]


def _finite(costs: tuple[float, ...], counts: list[int]) -> list[int]:
    """Returns those of `counts` whose cost is finite."""
    return [count for count in counts if np.isfinite(costs[count])]


def _fewest(scores: Sequence[LayerScores], costs: Costs, rules: Rules) -> tuple[tuple[int, int], ...]:
    """Returns the fewest heads and columns of each layer: of finite cost, unless all that the rules allow are infinite."""
    counts = []
    for index, layer in enumerate(scores):
        heads = _allowed(len(layer.heads), 1, index, rules)
        columns = _allowed(len(layer.columns), rules.align, index, rules)
        fewest_heads, *_ = _finite(costs.heads[index], heads) or heads
        fewest_columns, *_ = _finite(costs.columns[index], columns) or columns
        counts.append((fewest_heads, fewest_columns))
    return tuple(counts)
