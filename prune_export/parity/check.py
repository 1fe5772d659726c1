"""The comparison of outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from prune_export.network.opening import Batch, Outputs
from prune_export.parity.inputs import Case
from prune_export.parity.tolerance import Tolerance
from prune_export.parity.verdict import CaseResult, OutputResult
from prune_export.parity.workers import workers
from prune_export.tasks.spec import TaskSpec

Runner = Callable[[Batch], Outputs]
Answered = tuple[Case, Outputs]  # a case with the reference's outputs


def one_ahead(reference: Runner, cases: Iterable[Case]) -> Iterator[Answered]:
    """Yields every case with the reference's outputs, which are computed one case ahead in a thread of its own."""
    with workers(1) as pool:
        waiting = None
        for case in cases:
            following = case, pool.submit(reference, case.inputs)
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
    roundings: Callable[[Batch], list[Outputs]] | None = None,
    progress: Callable[[], None] | None = None,
) -> tuple[CaseResult, ...]:
    """Runs every case through every candidate, and compares with the reference's outputs.

    `progress` is called after each case. `spec` is that of the task. Without `padding`, only the values of
    real tokens are compared. `roundings` (`rounded_runs`) is asked where a limit is exceeded: what roundings
    alone do to the reference decides then (see `Tolerance`).
    """
    results: list[CaseResult] = []
    for case, reference in answered:
        for name, (candidate, tolerance) in candidates.items():
            result = _compare(name, case, reference, candidate, tolerance, spec, padding)
            if roundings is not None and _may_be_rounding(result, tolerance):
                exact, *rounded = roundings(case.inputs)
                own = [
                    _compare(name, replace(case, counts=None), exact, _constant(run), tolerance, spec, padding).outputs
                    for run in (reference, *rounded)
                ]
                outputs = zip(result.outputs, zip(*own, strict=True), strict=True)
                judged = tuple(_with_rounding(output, errors, tolerance) for output, errors in outputs)
                result = replace(result, outputs=judged)
            results.append(result)
        if progress is not None:
            progress()
    return tuple(results)


def _compare(
    name: str, case: Case, reference: Outputs, candidate: Runner, tolerance: Tolerance, spec: TaskSpec, padding: bool
) -> CaseResult:
    try:
        outputs = candidate(case.inputs)
    except Exception as error:  # a model that cannot run its input has failed; onnxruntime's errors have no common base
        return CaseResult(name, case.name, (), None, problem=f"does not run: {' '.join(str(error).split())[:300]}")
    missing = sorted(set(reference) - set(outputs))
    if missing:
        problem = f"has no output {', '.join(missing)}; it has {', '.join(outputs)}"
        return CaseResult(name, case.name, (), None, problem=problem)
    results = []
    for output, expected in reference.items():
        if expected.shape != outputs[output].shape:
            problem = f"{output} has shape {list(outputs[output].shape)}; expected {list(expected.shape)}"
            return CaseResult(name, case.name, (), None, problem=problem)
        mask = case.inputs["attention_mask"]
        pair = (expected, outputs[output])
        if not padding:
            pair = (spec.real_tokens(expected, mask), spec.real_tokens(outputs[output], mask))
        if pair[0].size:
            results.append(_output(output, *pair, tolerance))
    agreement = None
    if spec.agree is not None and case.counts is not None:  # real text: random tokens have no answers
        tie = tolerance.limit if tolerance.tie is None else tolerance.tie
        agreement = spec.agree(reference, outputs, case.counts, tie=tie, least=tolerance.agreement)
    return CaseResult(name, case.name, tuple(results), agreement)


def _may_be_rounding(result: CaseResult, tolerance: Tolerance) -> bool:
    """Says whether outputs exceed the limit, by no more than roundings are ever allowed."""
    wrong = [output for output in result.outputs if not output.passed]
    return bool(wrong) and all(
        output.max_absolute <= tolerance.with_rounding(output.largest_reference, math.inf) for output in wrong
    )


def _constant(outputs: Outputs) -> Runner:
    """Returns a runner that always gives `outputs`."""
    return lambda _: outputs


def _with_rounding(output: OutputResult, own: Sequence[OutputResult], tolerance: Tolerance) -> OutputResult:
    """Judges an output once more, by the errors that roundings alone make in the reference; NaN never passes."""
    allowed = tolerance.with_rounding(output.largest_reference, max(result.max_absolute for result in own))
    if output.passed:
        return output
    return replace(output, allowed=allowed, passed=output.max_absolute <= allowed, by_rounding=True)


def _output(
    name: str, expected: NDArray[np.float32], values: NDArray[np.float32], tolerance: Tolerance
) -> OutputResult:
    error = float(np.abs(values.astype(np.float64) - expected).max())
    largest = float(np.abs(expected).max())
    # NaN compares as false, so it can never pass.
    passed = bool(np.isfinite(values).all()) and tolerance.allows(error, largest)
    return OutputResult(name, error, error / largest if largest else error, largest, tolerance.allowed(largest), passed)
