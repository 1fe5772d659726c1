"""What parity found: per output and case, and as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prune_export.parity.answers import Agreement
from prune_export.parity.tolerance import Tolerance


@dataclass(frozen=True, slots=True)
class OutputResult:
    """One output of one case. `max_relative` is `max|Δ| / max|reference|`."""

    name: str
    max_absolute: float
    max_relative: float
    largest_reference: float
    allowed: float
    passed: bool


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
        agrees = self.agreement is None or self.agreement.complete
        return self.problem is None and agrees and all(output.passed for output in self.outputs)

    @property
    def failure(self) -> str:
        """What failed, in one line."""
        if self.problem is not None:
            return f"{self.comparison}: {self.case}: {self.problem}"
        wrong = [
            f"{output.name} differs by {output.max_absolute:.3g}, allowed {output.allowed:.3g} "
            f"(largest reference value {output.largest_reference:.3g})"
            for output in self.outputs
            if not output.passed
        ]
        if self.agreement is not None and not self.agreement.complete:
            wrong.append(
                f"{self.agreement.questions - self.agreement.same} of {self.agreement.questions} answers differ"
            )
        return f"{self.comparison}: {self.case}: {'; '.join(wrong)}"


@dataclass(frozen=True, slots=True)
class ParityReport:
    """All cases, and the tolerance that judged them. `provider` ran the ONNX model."""

    results: tuple[CaseResult, ...]
    tolerance: Tolerance
    provider: str
    seed: int

    @property
    def passed(self) -> bool:
        return bool(self.results) and all(result.passed for result in self.results)

    @property
    def failures(self) -> tuple[CaseResult, ...]:
        return tuple(result for result in self.results if not result.passed)

    def comparisons(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(result.comparison for result in self.results))

    def worst(self, comparison: str) -> dict[str, tuple[float, float]]:
        """Per output, the largest absolute and relative error over all cases of `comparison`."""
        found: dict[str, tuple[float, float]] = {}
        for result in self.results:
            if result.comparison != comparison:
                continue
            for output in result.outputs:
                absolute, relative = found.get(output.name, (0.0, 0.0))
                found[output.name] = (max(absolute, output.max_absolute), max(relative, output.max_relative))
        return found

    def agreement(self, comparison: str) -> Agreement | None:
        """Answers of all cases of `comparison` together; None where there were none to decode."""
        parts = [r.agreement for r in self.results if r.comparison == comparison and r.agreement is not None]
        return Agreement(sum(p.questions for p in parts), sum(p.same for p in parts)) if parts else None

    def to_json(self) -> dict[str, Any]:
        """The figures for the record."""
        comparisons = {}
        for name in self.comparisons():
            agreement = self.agreement(name)
            comparisons[name] = {
                "cases": sum(result.comparison == name for result in self.results),
                "outputs": {
                    output: {"max_absolute": absolute, "max_relative": relative}
                    for output, (absolute, relative) in self.worst(name).items()
                },
                **({"answers": {"questions": agreement.questions, "same": agreement.same}} if agreement else {}),
            }
        return {
            "passed": self.passed,
            "tolerance": self.tolerance.limit,
            "tolerance_reason": self.tolerance.reason,
            "provider": self.provider,
            "seed": self.seed,
            "comparisons": comparisons,
        }

    def explain(self) -> str:
        """The failures, most telling first, in a few lines."""
        lines = [result.failure for result in self.failures[:3]]
        more = len(self.failures) - len(lines)
        return "\n  ".join(lines + ([f"and {more} more of {len(self.results)} cases"] if more else []))
