"""The one table of tolerances, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass

from exporters.errors import UsageError


@dataclass(frozen=True, slots=True)
class Tolerance:
    """An output passes if `max|Δ| <= limit * max(1, max|reference|)`."""

    limit: float
    reason: str

    def allows(self, largest_error: float, largest_reference: float) -> bool:
        """NaN is never allowed."""
        return largest_error <= self.allowed(largest_reference)

    def allowed(self, largest_reference: float) -> float:
        return self.limit * max(1.0, largest_reference)


TOLERANCES: dict[str, Tolerance] = {
    "fp32": Tolerance(
        1e-4,
        "the same sums in another order: float32 rounds at 6e-8, a 12-layer network was measured near 1e-5, a wrong "
        "weight shows from 1e-2 up",
    ),
    "fp16": Tolerance(
        2e-2,
        "weights and products rounded at 5e-4 in every layer, norms and softmax in float32: trained and random networks "
        "of 6 to 24 layers were measured from 3e-4 to 9e-3 on the CPU provider",
    ),
    "slim": Tolerance(
        1e-4,
        "masked and slim PyTorch network, both float32: the same sums without the zeros",
    ),
}


def tolerance_for(dtype: str, limit: float | None = None) -> Tolerance:
    """The tolerance for a dtype, or the caller's own limit (`--atol`).

    Raises:
        UsageError: the limit is not a positive number.
    """
    if limit is None:
        return TOLERANCES[dtype]
    if not 0 < limit < float("inf"):
        raise UsageError(f"--atol {limit}: expected a positive number")
    return Tolerance(limit, "given by --atol")
