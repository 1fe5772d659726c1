"""Parity on its own: does this ONNX model answer like that checkpoint?"""

from __future__ import annotations

from pathlib import Path

from exporters.errors import UsageError
from exporters.onnx.targets import TARGETS
from exporters.providers import ProviderName
from prune_export.arguments import checked
from prune_export.checkpoint.load import load_checkpoint
from prune_export.checkpoint.source import resolve
from prune_export.data.examples import Data
from prune_export.facts.plan import Plan
from prune_export.facts.record import find_exported
from prune_export.network.session import open_session
from prune_export.parity.inputs import check_samples
from prune_export.parity.quality import check_without_data, read_goal
from prune_export.parity.reference import SEED, load_reference, random_batches
from prune_export.parity.run import ONNX_COMPARISON, run_parity
from prune_export.parity.tolerance import tolerance_for
from prune_export.parity.verdict import ParityReport
from prune_export.parity.workers import workers
from prune_export.progress import SILENT, Progress


@checked
def verify(
    model: str | Path,
    onnx: str | Path,
    *,
    task: str | None = None,
    plan: str | Path | Plan | None = None,
    provider: ProviderName | None = None,
    thorough: bool = True,
    samples: int | None = None,
    seed: int = SEED,
    atol: float | None = None,
    data: str | Path | Data | None = None,
    dataset: str | None = None,
    max_loss: float | None = None,
    limit: int | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | None = None,
    progress: Progress = SILENT,
) -> ParityReport:
    """Compares the ONNX model `onnx` (a folder or a file) with the checkpoint `model` (a folder or a hub id).

    `provider` is "cpu" or "cuda" (None: that of the target it was exported for). `samples` batches of random tokens
    (None: 16) are tried, and real text where there is a tokenizer; with `thorough=False` the few of an export. `atol`
    replaces the limit of the tolerance table: an output passes at `max|Δ| <= atol * max(1, max|reference|)`. A model that
    was exported with an explicit plan needs the same `plan`.

    `data` (as for `evaluate`, with its `dataset`) has the task's metric judged, too: on at most `limit` examples (None:
    1,000), drawn by `seed`, the model may lose `max_loss` points (None: 0.5).

    Returns:
        The report; its `passed` is the verdict. A failed comparison is no exception.

    Raises:
        CheckpointError, OutputError, ProviderError, UsageError: there was nothing to compare.
    """
    if not thorough and samples is not None:
        raise UsageError(
            f"--samples {samples} counts the batches of a thorough comparison; leave it or --no-thorough out"
        )
    check_without_data(data, dataset=dataset, limit=limit, max_loss=max_loss)
    wanted = random_batches(samples, thorough=thorough)
    check_samples(wanted, seed)
    exported = find_exported(onnx)
    if exported.plan_given and plan is None:
        raise UsageError(
            f"{exported.model} was exported with --plan; give the same --plan, so that the original has the same zeros"
        )
    progress.pause()
    source = resolve(model, revision=revision, cache_dir=cache_dir, token=token)
    progress.stage("Reading the checkpoint")
    checkpoint = load_checkpoint(source, task=exported.task if task is None else task, plan=plan)
    session, target = open_session(onnx, provider=provider), TARGETS.get(exported.target)
    goal = None
    if data is not None:
        goal = read_goal(data, task=checkpoint.task, dataset=dataset, max_loss=max_loss, limit=limit, seed=seed)
    with workers(1) as pool:
        reference = load_reference(checkpoint, pool, samples=wanted, seed=seed, goal=goal, progress=progress)
        if reference.why_no_text:
            progress.note(f"parity sees no real text: {reference.why_no_text}")
        return run_parity(
            reference,
            {ONNX_COMPARISON: (session.run, tolerance_for(exported.dtype, atol, metric_judged=data is not None))},
            provider=session.provider,
            padding=target is None or target.layout != "packed",
            progress=progress,
        )
