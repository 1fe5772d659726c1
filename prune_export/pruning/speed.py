"""The speed of a pruned network, predicted and measured, and its comparison with a budget in time."""

from __future__ import annotations

from dataclasses import dataclass

from prune_export.pruning.budget import Budget

_DRIFT = 1.1  # the unpruned network's time relative to that in its table: above this the machine has changed


@dataclass(frozen=True, slots=True)
class Speed:
    """Milliseconds of the pruned and the unpruned network: predicted by the table, and measured side by side."""

    predicted_ms: float
    measured_ms: float
    dense_predicted_ms: float
    dense_measured_ms: float

    @property
    def predicted_speedup(self) -> float:
        return self.dense_predicted_ms / self.predicted_ms

    @property
    def measured_speedup(self) -> float:
        return self.dense_measured_ms / self.measured_ms

    def to_json(self) -> dict[str, float]:
        return {
            "predicted_ms": self.predicted_ms,
            "measured_ms": self.measured_ms,
            "dense_predicted_ms": self.dense_predicted_ms,
            "dense_measured_ms": self.dense_measured_ms,
            "predicted_speedup": self.predicted_speedup,
            "measured_speedup": self.measured_speedup,
        }


def target_ms(budget: Budget, speed: Speed) -> float:
    """Returns the milliseconds that a budget in time allows in the run that measured `speed`."""
    return budget.value if budget.kind == "latency-ms" else speed.dense_measured_ms / budget.value


def overrun(budget: Budget, speed: Speed) -> float:
    """Returns how much slower than its budget the network is, as a fraction of the budget; below 0 where it is faster.

    It is 0 for a speed-up of 1: that is the unpruned network beside itself.
    """
    if budget.kind == "speedup" and budget.value == 1:
        return 0.0
    return speed.measured_ms / target_ms(budget, speed) - 1


def corrected_ms(budget: Budget, speed: Speed) -> float:
    """Returns the predicted time to prune to, so that the measured one meets the budget if the table errs as before."""
    return speed.predicted_ms * target_ms(budget, speed) / speed.measured_ms


def why_missed(budget: Budget, speed: Speed, tolerance: float) -> str | None:
    """Says by how much a budget in time is missed; None where it is met."""
    slower = overrun(budget, speed)
    if slower <= tolerance:
        return None
    measured, target = f"{speed.measured_ms:.4g} ms", f"{budget.value:g} ms"
    if budget.kind == "speedup":
        measured, target = f"{speed.measured_speedup:.3g} times as fast ({measured})", f"{budget.value:g} times"
    drift = speed.dense_measured_ms / speed.dense_predicted_ms
    busy = (
        f"; the unpruned network took {drift:.3g} times as long as when the table was measured, so the machine may be busy"
        if drift > _DRIFT
        else ""
    )
    return (
        f"--{budget.kind} {budget.value:g} is missed: asked for {target}, measured {measured}, {100 * slower:.1f} % slower "
        f"(tolerance {100 * tolerance:g} %){busy}"
    )
