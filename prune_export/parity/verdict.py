"""The results of parity: per output and case, and as a whole."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from prune_export.parity.quality import Quality
from prune_export.parity.tolerance import Tolerance
from prune_export.tasks.spec import Agreement

# The names of reference models.
HUGGING_FACE = "the Hugging Face model"
SLIM_NETWORK = "the slim PyTorch network"


@dataclass(frozen=True, slots=True)
class OutputResult:
    """One output of one case. `max_relative` is `max|Δ| / max|reference|`.

    With `by_rounding`, the error exceeded the limit, and `allowed` follows from what roundings alone do to the reference.
    """

    name: str
    max_absolute: float
    max_relative: float
    largest_reference: float
    allowed: float
    passed: bool
    by_rounding: bool = False


@dataclass(frozen=True, slots=True)
class CaseResult:
    """One case under one comparison."""

    comparison: str
    case: str
    outputs: tuple[OutputResult, ...]
    agreement: Agreement | None
    problem: str | None = None  # why there is nothing to compare

    @property
    def passed(self) -> bool:
        agrees = self.agreement is None or self.agreement.enough
        return self.problem is None and agrees and all(output.passed for output in self.outputs)

    @property
    def failure(self) -> str:
        """Says what failed, in one line."""
        if self.problem is not None:
            return f"{self.comparison}: {self.case}: {self.problem}"
        wrong = [
            f"{output.name} differs by {output.max_absolute:.3g}, allowed {output.allowed:.3g} "
            f"(largest reference value {output.largest_reference:.3g})"
            for output in self.outputs
            if not output.passed
        ]
        if self.agreement is not None and not self.agreement.enough:
            wrong.append(
                f"{self.agreement.questions - self.agreement.same} of {self.agreement.questions} answers differ"
                + (f", allowed {1 - self.agreement.least:.0%}" if self.agreement.least < 1 else "")
            )
        return f"{self.comparison}: {self.case}: {'; '.join(wrong)}"


@dataclass(frozen=True, slots=True)
class ParityReport:
    """All cases, and the tolerance that judged them. `provider` ran the ONNX model.

    `thorough` is False if the cases were those of a budget of tokens. `longest` is the length of the longest case,
    `max_length` the model's, both in tokens. `quality` is the verdict of the task's metric, None without data to judge by.
    `reference` is what the model was compared with.
    """

    results: tuple[CaseResult, ...]
    tolerance: Tolerance
    provider: str
    seed: int
    thorough: bool
    longest: int
    max_length: int
    quality: Quality | None = None
    reference: str = HUGGING_FACE

    @property
    def passed(self) -> bool:
        judged = self.quality is None or self.quality.passed
        return judged and bool(self.results) and all(result.passed for result in self.results)

    @property
    def first_alone_failed(self) -> bool:
        """Says whether the first comparison, or its quality, failed, and all others passed."""
        first = self.comparisons()[0]
        return not self.passed and all(result.comparison == first for result in self.failures)

    @property
    def failures(self) -> tuple[CaseResult, ...]:
        return tuple(result for result in self.results if not result.passed)

    def comparisons(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(result.comparison for result in self.results))

    def worst(self, comparison: str) -> dict[str, tuple[float, float]]:
        """Returns per output the largest absolute and relative error over all cases of `comparison`; NaN is the largest."""
        errors: dict[str, tuple[float, float]] = {}
        for result in self.results:
            if result.comparison != comparison:
                continue
            for output in result.outputs:
                absolute, relative = errors.get(output.name, (0.0, 0.0))
                errors[output.name] = (
                    float(np.maximum(absolute, output.max_absolute)),
                    float(np.maximum(relative, output.max_relative)),
                )
        return errors

    def by_rounding(self, comparison: str) -> int:
        """Counts the cases that were above the limit and passed, because roundings alone do as much to the reference."""
        return sum(
            result.passed and any(output.by_rounding for output in result.outputs)
            for result in self.results
            if result.comparison == comparison
        )

    def agreement(self, comparison: str) -> Agreement | None:
        """Counts the answers of all cases of `comparison` together; None if there were none to decode."""
        parts = [r.agreement for r in self.results if r.comparison == comparison and r.agreement is not None]
        if not parts:
            return None
        return Agreement(sum(part.questions for part in parts), sum(part.same for part in parts), parts[0].least)

    def to_json(self) -> dict[str, Any]:
        """Returns the measurements for the record; None for an error that is NaN or infinite, which JSON cannot hold."""
        comparisons = {}
        for name in self.comparisons():
            agreement = self.agreement(name)
            comparisons[name] = {
                "cases": sum(result.comparison == name for result in self.results),
                "outputs": {
                    output: {"max_absolute": _finite(absolute), "max_relative": _finite(relative)}
                    for output, (absolute, relative) in self.worst(name).items()
                },
                **({"by_rounding": count} if (count := self.by_rounding(name)) else {}),
                **({"answers": {"questions": agreement.questions, "same": agreement.same}} if agreement else {}),
            }
        return {
            "passed": self.passed,
            "reference": self.reference,
            "tolerance": self.tolerance.limit,
            "tolerance_reason": self.tolerance.reason,
            "provider": self.provider,
            "seed": self.seed,
            "thorough": self.thorough,
            "longest": self.longest,
            "max_length": self.max_length,
            "comparisons": comparisons,
            "quality": None if self.quality is None else self.quality.to_json(),
        }

    def problems(self) -> list[str]:
        """Lists everything that failed, in one line each."""
        failed = [result.failure for result in self.failures]
        if self.quality is not None and not self.quality.passed:
            failed.insert(0, self.quality.explain())
        return failed

    def explain(self) -> str:
        """Explains what failed, the most important first, in a few lines."""
        problems = self.problems()
        more = len(problems) - 3
        return "\n  ".join(problems[:3] + ([f"and {more} more, of {len(self.results)} cases"] if more > 0 else []))


def _finite(error: float) -> float | None:
    return error if math.isfinite(error) else None
