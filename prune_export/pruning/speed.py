"""Whether a budget in time is met: what was asked for, what the table predicts, what was measured."""

from __future__ import annotations

from dataclasses import dataclass

from prune_export.pruning.budget import Budget

_DRIFT = 1.1  # the unpruned network beside its own time in the table: beyond this the machine has changed


@dataclass(frozen=True, slots=True)
class Speed:
    """Milliseconds of the pruned network, predicted from the table and measured beside the unpruned one in one run."""

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


def asked_ms(budget: Budget, speed: Speed) -> float:
    """The milliseconds that a budget in time comes to in the run that measured `speed`."""
    return budget.value if budget.kind == "latency-ms" else speed.dense_measured_ms / budget.value


def overrun(budget: Budget, speed: Speed) -> float:
    """By what part of the time asked for the network is slower; below 0 where it is faster.

    Nothing can be slower than a factor of 1 asks for: that is the unpruned network beside itself.
    """
    if budget.kind == "speedup" and budget.value == 1:
        return 0.0
    return speed.measured_ms / asked_ms(budget, speed) - 1


def corrected_ms(budget: Budget, speed: Speed) -> float:
    """The prediction to aim at, so that the measured time is what was asked for, if the table stays off by as much."""
    return speed.predicted_ms * asked_ms(budget, speed) / speed.measured_ms


def why_missed(budget: Budget, speed: Speed, tolerance: float) -> str | None:
    """A sentence that says by how much a budget in time is missed; None where it is met."""
    slower = overrun(budget, speed)
    if slower <= tolerance:
        return None
    found, wanted = f"{speed.measured_ms:.4g} ms", f"{budget.value:g} ms"
    if budget.kind == "speedup":
        found, wanted = f"{speed.measured_speedup:.3g} times as fast ({found})", f"{budget.value:g} times"
    drift = speed.dense_measured_ms / speed.dense_predicted_ms
    busy = (
        f"; the unpruned network took {drift:.3g} times as long as when the table was measured, so the machine may be busy"
        if drift > _DRIFT
        else ""
    )
    return (
        f"--{budget.kind} {budget.value:g} is missed: asked for {wanted}, measured {found}, {100 * slower:.1f} % slower "
        f"(tolerance {100 * tolerance:g} %){busy}"
    )
