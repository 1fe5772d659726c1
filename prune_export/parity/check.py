"""The comparison itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from prune_export.network.opening import Batch, Outputs
from prune_export.parity.inputs import Case
from prune_export.parity.tolerance import Tolerance
from prune_export.parity.verdict import CaseResult, OutputResult
from prune_export.parity.workers import workers
from prune_export.tasks.spec import TaskSpec

Runner = Callable[[Batch], Outputs]
Answered = tuple[Case, Outputs]  # a case, and what the oracle says to it


def check(
    oracle: Runner,
    candidates: Mapping[str, tuple[Runner, Tolerance]],
    cases: Iterable[Case],
    *,
    spec: TaskSpec,
    padding: bool = True,
    progress: Callable[[], None] | None = None,
) -> tuple[CaseResult, ...]:
    """Runs every case through the oracle and every candidate, and compares: `compare` of what `one_ahead` gives."""
    return compare(one_ahead(oracle, cases), candidates, spec=spec, padding=padding, progress=progress)


def one_ahead(oracle: Runner, cases: Iterable[Case]) -> Iterator[Answered]:
    """Every case with the oracle's outputs; while one is being compared, the oracle runs the next in a thread of its own."""
    with workers(1) as pool:
        waiting = None
        for case in cases:
            following = case, pool.submit(oracle, case.inputs)
            if waiting is not None:
                yield waiting[0], waiting[1].result()
            waiting = following
        if waiting is not None:
            yield waiting[0], waiting[1].result()


def compare(
    answered: Iterable[Answered],
    candidates: Mapping[str, tuple[Runner, Tolerance]],
    *,
    spec: TaskSpec,
    padding: bool = True,
    progress: Callable[[], None] | None = None,
) -> tuple[CaseResult, ...]:
    """Runs every case through every candidate, and compares with the oracle's outputs; `progress` is called after each case.

    `spec` is that of the task. Without `padding`, only the parts of outputs that belong to real tokens are compared.
    """
    results: list[CaseResult] = []
    for case, reference in answered:
        for name, (candidate, tolerance) in candidates.items():
            results.append(_compare(name, case, reference, candidate, tolerance, spec, padding))
        if progress is not None:
            progress()
    return tuple(results)


def _compare(
    name: str, case: Case, reference: Outputs, candidate: Runner, tolerance: Tolerance, spec: TaskSpec, padding: bool
) -> CaseResult:
    try:
        found = candidate(case.inputs)
    except Exception as error:  # a model that cannot run its input has failed; onnxruntime's errors have no common base
        return CaseResult(name, case.name, (), None, problem=f"does not run: {' '.join(str(error).split())[:300]}")
    missing = sorted(set(reference) - set(found))
    if missing:
        problem = f"has no output {', '.join(missing)}; it has {', '.join(found)}"
        return CaseResult(name, case.name, (), None, problem=problem)
    outputs = []
    for output, expected in reference.items():
        if expected.shape != found[output].shape:
            problem = f"{output} has shape {list(found[output].shape)}; expected {list(expected.shape)}"
            return CaseResult(name, case.name, (), None, problem=problem)
        mask = case.inputs["attention_mask"]
        pair = (expected, found[output])
        if not padding:
            pair = (spec.real_tokens(expected, mask), spec.real_tokens(found[output], mask))
        if pair[0].size:
            outputs.append(_output(output, *pair, tolerance))
    agreement = None
    if spec.agree is not None and case.counts is not None:  # real text: random tokens have no answers
        tie = tolerance.limit if tolerance.tie is None else tolerance.tie
        agreement = spec.agree(reference, found, case.counts, tie=tie, least=tolerance.agreement)
    return CaseResult(name, case.name, tuple(outputs), agreement)


def _output(name: str, expected: NDArray[np.float32], found: NDArray[np.float32], tolerance: Tolerance) -> OutputResult:
    error = float(np.abs(found.astype(np.float64) - expected).max())
    largest = float(np.abs(expected).max())
    # NaN compares as false, so it can never pass.
    passed = bool(np.isfinite(found).all()) and tolerance.allows(error, largest)
    return OutputResult(name, error, error / largest if largest else error, largest, tolerance.allowed(largest), passed)
