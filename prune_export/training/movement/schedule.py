"""The cubic schedule of thresholds, densities and penalties."""

from __future__ import annotations


def cubic(step: int, total: int, *, initial: float, final: float, warmup: float, cooldown: float) -> float:
    """The value before step `step` (from 0) of `total`.

    `initial` for the first `warmup` (a fraction) of the steps, `final` for the last `cooldown`, and between them
    `final + (initial - final) * (1 - x)^3`, x from 0 to 1 (Zhu and Gupta 2017; Sanh et al. 2020; nn_pruning's
    `schedule_threshold`).
    """
    start, end = warmup * total, total - cooldown * total
    if step >= end:
        return final
    if step <= start:
        return initial
    left = 1 - (step - start) / (end - start)
    return final + (initial - final) * left**3
