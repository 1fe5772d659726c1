"""The W-coefficient: how well a network trades parameters, inference cost and error against each other."""

from __future__ import annotations

import math

from exporters.errors import UsageError


def w_coefficient(parameters: float, cost: float, error: float, *, most_parameters: float, most_cost: float) -> float:
    """Returns W(f; T) = |p(T) - p(f)| / p(T) · |i(T) - i(f)| / i(T) · 1 / e(f); the greatest is the best.

    `parameters` is p(f), `cost` is i(f), in any unit, and `error` is e(f). The maximum point T has the most parameters and
    the highest cost of the whole space, so that W(T) = 0. An infinite error, of a network that did not learn, gives 0.
    Nothing bounds the error: a network of half the size may have twice the error.

    de Wynter 2020, "An Approximation Algorithm for Optimal Subarchitecture Extraction" (arXiv 2010.08512), definition 8.

    Raises:
        UsageError: the error is not above 0 (W has no value for a network without errors), p(T) or i(T) is not above 0, or
            p(f) or i(f) is negative or above that of T.
    """
    for name, value, most in (("parameters", parameters, most_parameters), ("cost", cost, most_cost)):
        if not (0 < most < math.inf and 0 <= value <= most):
            raise UsageError(
                f"W-coefficient: expected {name} from 0 to those of the maximum point; found {value} of {most}"
            )
    if not error > 0:  # NaN, too
        raise UsageError(
            f"W-coefficient: expected an error above 0; found {error}; judge by another error or more examples"
        )
    return (most_parameters - parameters) / most_parameters * (most_cost - cost) / most_cost / error
