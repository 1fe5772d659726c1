"""Parity on its own: does this ONNX model answer like that checkpoint?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from exporters import runtime
from exporters.encoder import Encoder
from exporters.errors import UsageError
from prune_export.checkpoint.load import Checkpoint, load_checkpoint
from prune_export.checkpoint.oracle import load_oracle
from prune_export.checkpoint.source import resolve
from prune_export.network import load_session, torch_runner
from prune_export.parity.check import Runner, check
from prune_export.parity.inputs import cases, check_samples, count_cases, load_tokenizer
from prune_export.parity.tolerance import TOLERANCES, Tolerance, tolerance_for
from prune_export.parity.verdict import ParityReport
from prune_export.plan import Plan
from prune_export.progress import SILENT, Progress
from prune_export.record import find_exported

SAMPLES = 16
SEED = 0

# What is compared with the untouched Hugging Face model.
ONNX_COMPARISON = "ONNX"
SLIM_COMPARISON = "slim PyTorch"


def verify(
    model: str | Path,
    onnx: str | Path,
    *,
    task: str | None = None,
    plan: str | Path | Plan | None = None,
    provider: str | None = None,
    samples: int = SAMPLES,
    seed: int = SEED,
    atol: float | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | None = None,
    progress: Progress = SILENT,
) -> ParityReport:
    """Compares the ONNX model `onnx` (a folder or a file) with the checkpoint `model` (a folder or a hub id).

    `provider` is "cpu" or "cuda" (None: that of the target it was exported for). `samples` batches of random tokens are
    tried, and real text where there is a tokenizer. `atol` replaces the limit of the tolerance table: an output passes at
    `max|Δ| <= atol * max(1, max|reference|)`. A model that was exported with an explicit plan needs the same `plan`.

    Returns:
        The report; its `passed` is the verdict. A failed comparison is no exception.

    Raises:
        CheckpointError, OutputError, ProviderError, UsageError: there was nothing to compare.
    """
    check_samples(samples, seed)
    exported = find_exported(onnx)
    if exported.plan_given and plan is None:
        raise UsageError(
            f"{exported.model} was exported with --plan; give the same --plan, so that the original has the same zeros"
        )
    progress.pause()
    source = resolve(model, revision=revision, cache_dir=cache_dir, token=token)
    progress.stage("Reading the checkpoint")
    checkpoint = load_checkpoint(source, task=task or exported.task, plan=plan)
    session = load_session(onnx, provider=provider)
    return run_parity(
        checkpoint,
        {ONNX_COMPARISON: (session.run, tolerance_for(exported.dtype, atol))},
        provider=session.provider,
        samples=samples,
        seed=seed,
        progress=progress,
    )


def run_parity(
    checkpoint: Checkpoint,
    candidates: Mapping[str, tuple[Runner, Tolerance]],
    *,
    provider: str,
    samples: int,
    seed: int,
    progress: Progress,
) -> ParityReport:
    """Compares `candidates` with the Hugging Face model of `checkpoint`; the first one's tolerance is the report's."""
    encoder = checkpoint.encoder
    progress.stage("Loading the Hugging Face model")
    oracle = load_oracle(checkpoint)
    tokenizer = load_tokenizer(checkpoint.source.folder, encoder)
    progress.stage("Comparing with PyTorch", count_cases(samples, tokenizer))
    results = check(
        torch_runner(oracle, encoder.inputs, encoder.outputs),
        candidates,
        cases(encoder, tokenizer, samples=samples, seed=seed),
        progress=progress.advance,
    )
    _, tolerance = next(iter(candidates.values()))
    return ParityReport(results, tolerance, runtime.PROVIDERS[provider], seed)


def slim_candidate(slim: nn.Module, encoder: Encoder) -> tuple[Runner, Tolerance]:
    """The slim PyTorch network as a candidate for `run_parity`."""
    return torch_runner(slim, encoder.inputs, encoder.outputs), TOLERANCES["slim"]
