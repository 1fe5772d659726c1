"""The table of tolerances, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Tolerance:
    """A limit of errors: an output passes if `max|Δ| <= limit * max(1, max|reference|)`.

    A share of `agreement` of the answers to real text must be the same; if the reference itself scores two answers within
    `tie` logits of each other (None: `limit`), both are right.

    On some inputs a network multiplies roundings by hundreds. An output above the limit passes as well if its error is at
    most `roundings` times what roundings alone do to the reference (`rounding.py`), yet never above ten times the limit.
    """

    limit: float
    reason: str
    agreement: float = 1.0
    tie: float | None = None
    roundings: float = 0.0

    def allows(self, largest_error: float, largest_reference: float) -> bool:
        """Says whether an error is allowed; NaN never is."""
        return largest_error <= self.allowed(largest_reference)

    def allowed(self, largest_reference: float) -> float:
        return self.limit * max(1.0, largest_reference)

    def with_rounding(self, largest_reference: float, own_error: float) -> float:
        """Returns the error that is allowed where roundings alone make an error of `own_error` in the reference."""
        allowed = self.allowed(largest_reference)
        return max(allowed, min(self.roundings * own_error, _MOST_ROUNDING * allowed)) if self.roundings else allowed


_MOST_ROUNDING = 10.0  # times the limit
# Activations are rounded as well: a trained network was measured at 3 to 4 times what its weights' roundings do, and three
# draws do not show the rarest.
_ROUNDINGS = 16.0

TOLERANCES: dict[str, Tolerance] = {
    "fp32": Tolerance(
        1e-4,
        "the same sums in another order: float32 rounds at 6e-8, a 12-layer network was measured near 1e-5, a wrong "
        "weight shows from 1e-2 up",
        roundings=_ROUNDINGS,
    ),
    "fp16": Tolerance(
        2e-2,
        "weights and products rounded at 5e-4 in every layer, for CUDA hidden states too, norms and softmax summed in "
        "float32: trained and random networks of 6 to 24 layers were measured from 3e-4 to 9e-3 on a CPU and an H200",
    ),
    "int8": Tolerance(
        0.3,
        "8-bit steps move every logit: trained networks were measured at 0.17 to 0.24, and between 0.31 and 1.1 after one "
        "scale of one linear map was doubled. One of eight answers to real text may differ; --data has the task's "
        "own metric judged",
        agreement=0.875,
        tie=2e-2,
    ),
    "int8, metric judged": Tolerance(
        1.0,
        "the task's metric on the data decides; an error as large as the logits themselves is another network",
        agreement=0.75,
        tie=2e-2,
    ),
    "slim": Tolerance(
        1e-4,
        "masked and slim PyTorch network, both float32: the same sums without the zeros",
        roundings=_ROUNDINGS,
    ),
}


def tolerance_for(dtype: str, limit: float | None = None, *, metric_judged: bool = False) -> Tolerance:
    """Returns the tolerance for a dtype, with the caller's own limit (`--atol`) if there is one.

    With `metric_judged`, the task's metric on real data is judged as well.
    """
    tolerance = TOLERANCES["int8, metric judged" if dtype == "int8" and metric_judged else dtype]
    if limit is None:
        return tolerance
    return replace(tolerance, limit=limit, reason="given by --atol", roundings=0.0)
