"""The published approximation algorithm for optimal subarchitecture extraction.

de Wynter 2020, "An Approximation Algorithm for Optimal Subarchitecture Extraction" (arXiv 2010.08512), as de Wynter and
Perry 2020 ("Optimal Subarchitecture Extraction for BERT", arXiv 2010.10499) used it to find Bort:

1. Order the shapes of the space Ξ by their surrogates (p̂, î).
2. Take one of every ⌈ε·|Ξ|⌉ of them.
3. For each, and each set θ of hyperparameters, train for s steps: ê is the loss afterwards.
4. Return the shape with the greatest W(f; T), computed of p̂, î and ê. T is the maximum point of Ξ.

*The published bound*, as the abstract of 2010.08512 states it (its theorem was not at hand): the algorithm "behaves like an
FPTAS with an approximation error of ρ ≤ |1 - ε|", in O(|Ξ| + |W*_T|(1 + |Θ||B||Ξ|/(ε s^(3/2)))) steps, for networks with
the AB^nC property: intermediate layers cost more than the first and last ones, the loss is L-Lipschitz smooth with bounded
stochastic gradients and is minimised by SGD, and it is µ-strongly convex. No loss of a transformer is convex, so it holds
for no real network here.

*The bound that is proved and tested here* needs no convexity. Let W_1, …, W_n be the coefficients in the order of step 1,
W* their maximum, and q = ⌈ε·n⌉. If neighbours differ by at most L·W*/n, the result R of step 4 has

    R ≥ (1 - L·(q - 1)/n) · W*  >  (1 - L·ε) · W*,

which is 1 - ε for L = 1. Proof: of q neighbours in the order one is taken, so some taken j is at most q - 1 places before
the best shape. Along the way W changes by at most (q - 1)·L·W*/n, and q - 1 < ε·n. If moreover every ê is within the factor
1 ± η of the error that it stands for, the coefficient by true errors of the shape that is returned is at least (1 - η)/(1 +
η) times that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from exporters.errors import UsageError
from prune_export.progress import SILENT, Progress
from prune_export.subarchitecture.evaluation_journal import Journal
from prune_export.subarchitecture.shape import Shape
from prune_export.subarchitecture.w_coefficient import w_coefficient


class Hyperparameters(NamedTuple):
    """A set θ of hyperparameters of the short training: SGD's learning rate, and the examples per step."""

    learning_rate: float = 1e-2
    batch_size: int = 8


@dataclass(frozen=True, slots=True)
class EvaluatedShape:
    """A shape that was taken: its surrogates p̂ and î, its least ê with the θ that gave it, and its W-coefficient.

    `error` is infinite where no θ gave a number.
    """

    shape: Shape
    parameters: int
    operations: int
    error: float
    hyperparameters: Hyperparameters
    w: float


@dataclass(frozen=True, slots=True)
class FptasResult:
    """The `best` shape, and all that were `evaluated`, in the order of the surrogates; `shapes` is |Ξ|."""

    best: EvaluatedShape
    evaluated: tuple[EvaluatedShape, ...]
    shapes: int
    step: int


def fptas(
    shapes: Sequence[Shape],
    hyperparameters: Sequence[Hyperparameters],
    *,
    parameters: Callable[[Shape], int],
    operations: Callable[[Shape], int],
    error: Callable[[Shape, Hyperparameters], float],
    epsilon: float,
    journal: str | Path | Journal | None = None,
    settings: dict[str, Any] | None = None,
    progress: Progress = SILENT,
) -> FptasResult:
    """Searches `shapes` (Ξ) with the surrogates `parameters` (p̂), `operations` (î) and `error` (ê).

    `error` is called once per taken shape and set of hyperparameters (Θ), the smallest shape first. Its results are kept in
    the file `journal`, from which a search that was killed goes on; `settings` are all that they depend on (seed, data,
    network). An open `Journal` has settings of its own. Of shapes with the same coefficient the smallest wins, and of
    hyperparameters with the same error the first.

    Raises:
        UsageError: `epsilon` is not above 0 and at most 1, a sequence is empty, an error is not above 0, or the journal
        belongs to another search.
        OutputError: the journal cannot be written.
    """
    if not 0 < epsilon <= 1:
        raise UsageError(f"epsilon: expected a number above 0 and at most 1; found {epsilon}")
    if not shapes or not hyperparameters:
        raise UsageError("expected one shape and one set of hyperparameters or more; found none")
    ordered = sorted(set(shapes), key=lambda shape: (parameters(shape), operations(shape), shape))
    step = math.ceil(round(epsilon * len(ordered), 9))  # 0.07 · 100 is a little more than 7
    taken = ordered[::step]
    most_parameters, most_operations = max(map(parameters, ordered)), max(map(operations, ordered))
    known = journal if isinstance(journal, Journal) else Journal(journal, settings or {}, float | None)
    progress.stage("Training candidates for a few steps", len(taken) * len(hyperparameters))
    evaluated: list[EvaluatedShape] = []
    for shape in taken:
        errors = []
        for theta in hyperparameters:
            key = [*shape, *theta]
            if key not in known:
                value = error(shape, theta)
                known.add(key, value if math.isfinite(value) else None)
            stored = known[key]
            errors.append((math.inf if stored is None else stored, theta))
            progress.advance()
        least, theta = min(errors, key=lambda pair: pair[0])
        sizes = parameters(shape), operations(shape)
        w = w_coefficient(*sizes, least, most_parameters=most_parameters, most_cost=most_operations)
        evaluated.append(EvaluatedShape(shape, *sizes, least, theta, w))
        best = max(evaluated, key=lambda point: point.w)
        progress.note(f"best so far: {best.shape} (error {best.error:.4g}, W {best.w:.4g})")
    return FptasResult(best, tuple(evaluated), len(ordered), step)
