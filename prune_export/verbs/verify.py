"""`prune_export.verify` compares the answers of an ONNX model and its checkpoint."""

from __future__ import annotations

from exporters.errors import UsageError
from exporters.onnx.targets import TARGETS
from prune_export.checkpoint.load import load_checkpoint
from prune_export.checkpoint.source import resolve
from prune_export.data.examples import Data
from prune_export.facts.plan import Plan
from prune_export.facts.record import find_exported
from prune_export.network.session import open_session
from prune_export.options.keywords import from_keywords
from prune_export.options.verify import VerifyOptions
from prune_export.parity.padding import compares_padding
from prune_export.parity.quality import check_without_data, read_goal
from prune_export.parity.reference import load_reference
from prune_export.parity.run import ONNX_COMPARISON, run_parity
from prune_export.parity.tolerance import tolerance_for
from prune_export.parity.verdict import ParityReport
from prune_export.parity.workers import workers


@from_keywords(VerifyOptions, Data=Data, Plan=Plan)
def verify(options: VerifyOptions) -> ParityReport:
    """Compares the ONNX model `onnx` with the checkpoint `model`.

    Both run on batches of random tokens, and on real text where there is a tokenizer; with `thorough=False` on the few
    batches of an export. `atol` replaces the limit of the tolerance table: an output passes at
    `max|Δ| <= atol * max(1, max|reference|)`. A model that was exported with an explicit plan needs the same `plan`. With
    `data`, the task's metric is judged as well.

    Returns:
        The report; its `passed` is the verdict. A failed comparison is no exception.

    Raises:
        CheckpointError, OutputError, ProviderError, UsageError: there was nothing to compare.
    """
    if not options.thorough and options.samples is not None:
        raise UsageError(
            f"--samples {options.samples} counts the batches of a thorough comparison; leave it or --no-thorough out"
        )
    check_without_data(options)
    exported = find_exported(options.onnx)
    if exported.plan_given and options.plan is None:
        raise UsageError(
            f"{exported.model} was exported with --plan; give the same --plan, so that the original has the same zeros"
        )
    progress = options.progress
    source = resolve(options.model, options, progress=progress)
    progress.stage("Reading the checkpoint")
    task = exported.task if options.task is None else options.task
    checkpoint = load_checkpoint(source, task=task, plan=options.plan)
    session, target = open_session(options.onnx, provider=options.provider), TARGETS.get(exported.target)
    goal = read_goal(options, checkpoint.task)
    tolerance = tolerance_for(exported.dtype, options.atol, metric_judged=goal is not None)
    with workers(1) as pool:
        reference = load_reference(
            checkpoint, pool, samples=options.random_batches, seed=options.seed, goal=goal, progress=progress
        )
        if reference.why_no_text:
            progress.note(f"parity sees no real text: {reference.why_no_text}")
        return run_parity(
            reference,
            {ONNX_COMPARISON: (session.run, tolerance)},
            provider=session.provider,
            padding=compares_padding(checkpoint.encoder, target, session.settings),
            progress=progress,
        )
