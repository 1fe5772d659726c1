"""The results of a benchmark."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from prune_export.benchmark.rows import Conditions, Cost, Shape
from prune_export.facts.format import Format

FORMAT = Format("prune-export/bench", 1)

# The smallest difference that choices between forms of a graph rest on; ratios that are off by more cannot show it.
NOISE_LIMIT = 0.05

# One more busy thread takes half of two processors, and a row whose threads wait for each other (OpenMP) waits with it: ten
# times its latency was seen, the same in every round, while ONNX Runtime's rows lost a third. Ratios do not show that.
OTHERS_LIMIT = 0.05


@dataclass(frozen=True, slots=True)
class RowFacts:
    """What holds for a row at any shape.

    `load_seconds` is the time from files to ready, `peak_mib` the peak over the life of its process. `kind` and `form`
    are the row's (`prune_export.benchmark.rows.Row`).
    """

    name: str
    kind: str
    model: str
    note: str | None
    cost: Cost | None
    size_mib: float
    load_seconds: float
    peak_mib: float
    form: str | None = None


@dataclass(frozen=True, slots=True)
class Latency:
    """One row at one shape: in each round, the median latency in milliseconds and the speed-up over the first row.

    `flops_speed_up` is the first row's FLOPs divided by this row's; None where either is unknown.
    """

    row: str
    milliseconds: tuple[float, ...]
    speed_ups: tuple[float, ...]
    flops_speed_up: float | None

    @property
    def speed_up(self) -> float:
        """Returns the median over rounds of the ratio within a round: a drift from round to round cancels out."""
        return median(self.speed_ups)

    @property
    def realised(self) -> float | None:
        """Returns the share of the speed-up by FLOPs that was measured: 1 is all of it."""
        return self.speed_up / self.flops_speed_up if self.flops_speed_up else None


@dataclass(frozen=True, slots=True)
class ShapeResult:
    """All rows at one shape.

    `repeats`: the first row's latency at the start of each round, divided by that at its end. `others`: the fraction of the
    processors' time that went to other processes while rows were measured; None if the system does not tell.
    """

    shape: Shape
    rows: tuple[Latency, ...]
    repeats: tuple[float, ...]
    others: float | None = None

    @property
    def noise(self) -> float:
        """Returns the fraction by which a round's ratio is typically off, for the row with the largest one.

        The median over rounds of |ratio / median ratio - 1|; for the first row against itself, of |ratio - 1|.
        """
        spreads = [median(abs(ratio / row.speed_up - 1) for ratio in row.speed_ups) for row in self.rows]
        return max(*spreads, median(abs(ratio - 1) for ratio in self.repeats))

    def sequences_per_second(self, latency: Latency) -> float:
        return 1000 * self.shape.batch_size / median(latency.milliseconds)


@dataclass(frozen=True, slots=True)
class BenchReport:
    """A finished benchmark: rows (the first is the baseline), shapes, conditions and the machine.

    `quick`: a short run was requested.
    """

    rows: tuple[RowFacts, ...]
    shapes: tuple[ShapeResult, ...]
    conditions: Conditions
    rounds: int
    seconds: float
    machine: dict[str, Any]
    quick: bool = False

    @property
    def noise(self) -> float:
        """Returns the noise of the noisiest shape."""
        return max(result.noise for result in self.shapes)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Returns the reasons not to trust the measurements."""
        return tuple(self._warnings())

    def _warnings(self) -> Iterator[str]:
        if self.quick:
            yield (
                f"a quick run, {self.rounds} x {self.seconds:g} s a row: the ratios of a round are off by "
                f"{100 * self.noise:.1f} % at the noisiest shape; measure without --quick before smaller differences are "
                "believed"
            )
        for result in self.shapes:
            if result.others is not None and result.others > OTHERS_LIMIT:
                yield (
                    f"busy machine: at {result.shape}, other processes took {100 * result.others:.0f} % of the processors' "
                    f"time (limit {100 * OTHERS_LIMIT:.0f} %); do not trust the figures, and measure again with nothing "
                    "else running"
                )
            if result.noise > NOISE_LIMIT:
                yield (
                    f"noisy machine: at {result.shape}, the ratios of a round are off by {100 * result.noise:.0f} % "
                    f"(limit {100 * NOISE_LIMIT:.0f} %); do not trust smaller differences, and measure again with nothing "
                    "else running"
                )

    def to_json(self) -> dict[str, Any]:
        data = {
            "machine": self.machine,
            "conditions": asdict(self.conditions)
            | {"cpus": list(self.conditions.cpus), "rounds": self.rounds, "seconds": self.seconds, "quick": self.quick},
            "rows": [asdict(row) for row in self.rows],
            "shapes": [_shape_to_json(result) for result in self.shapes],
            "warnings": list(self.warnings),
        }
        return FORMAT.marked(data)


def _shape_to_json(result: ShapeResult) -> dict[str, Any]:
    return asdict(result.shape) | {
        "noise": result.noise,
        "others": result.others,
        "repeats": list(result.repeats),
        "rows": [
            {
                "row": latency.row,
                "milliseconds": spread(latency.milliseconds),
                "sequences_per_second": result.sequences_per_second(latency),
                "speed_up": spread(latency.speed_ups),
                "flops_speed_up": latency.flops_speed_up,
                "realised": latency.realised,
            }
            for latency in result.rows
        ],
    }


def spread(values: tuple[float, ...]) -> dict[str, Any]:
    """Returns minimum, median and maximum, and the values per round."""
    return {"min": min(values), "median": median(values), "max": max(values), "rounds": list(values)}
