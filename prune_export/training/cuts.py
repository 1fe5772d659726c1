"""What a training pruned, and what was cut at its end without training: said where it is not what was asked for."""

from __future__ import annotations

from collections.abc import Mapping

_ALMOST_NOTHING = 0.01  # of the FLOPs or weights
_MUCH = 0.1  # of what is gone at the end


def cut_without_training(at_last_step: Mapping[str, float], left: Mapping[str, float]) -> float:
    """The fraction of the FLOPs that the network still had at its last step and has no more; both are `statistics()`."""
    return max(0.0, at_last_step["flops_left"] - left["flops_left"])


def cut_warning(stage: str, at_last_step: Mapping[str, float], left: Mapping[str, float]) -> str | None:
    """What somebody should know who expects a network that was trained as it is; None: nothing."""
    gone, cut = 1 - left["flops_left"], cut_without_training(at_last_step, left)
    if gone < _ALMOST_NOTHING and left.get("sparsity", 0.0) < _ALMOST_NOTHING:
        return (
            f"stage {stage}: nothing was pruned: {1 - gone:.1%} of the FLOPs are left. Train longer, raise what pushes "
            "scores down (method.penalty_weight, optimiser.score_learning_rate), or give budget.flops, which is met exactly"
        )
    if gone < _ALMOST_NOTHING:
        return (
            f"stage {stage}: {left['sparsity']:.1%} of the weights are zero, but no head and no column goes: the exported "
            "network will not be faster"
        )
    if cut > _MUCH * gone:
        return (
            f"stage {stage}: {at_last_step['flops_left']:.1%} of the FLOPs were left at its last step, {1 - gone:.1%} are "
            f"now: {cut:.1%} were cut without training. Train longer, raise optimiser.score_learning_rate, or let "
            "schedule.cooldown begin earlier"
        )
    return None
