"""Parity on its own: does this ONNX model answer like that checkpoint?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import nn

from exporters.encoder import Encoder, SequenceHead
from exporters.errors import UsageError
from exporters.onnx.targets import TARGETS
from exporters.providers import PROVIDERS, ProviderName
from prune_export.arguments import checked
from prune_export.checkpoint.load import Checkpoint, load_checkpoint
from prune_export.checkpoint.oracle import load_oracle
from prune_export.checkpoint.source import resolve
from prune_export.data.examples import Data
from prune_export.evaluation.evaluating import evaluate_network
from prune_export.evaluation.result import ModelResult
from prune_export.network import Network, load_session, torch_runner
from prune_export.parity.budget import SMALL, budget_cases
from prune_export.parity.check import Answered, Runner, compare, one_ahead, real_tokens
from prune_export.parity.inputs import cases, check_samples, count_cases, load_tokenizer, why_no_text
from prune_export.parity.quality import QualityGoal, check_without_data, judge, read_goal
from prune_export.parity.tolerance import TOLERANCES, Tolerance, tolerance_for
from prune_export.parity.verdict import ParityReport
from prune_export.parity.workers import workers
from prune_export.plan import Plan
from prune_export.progress import SILENT, Progress
from prune_export.record import find_exported

SAMPLES = 16
SEED = 0

# What is compared with the untouched Hugging Face model.
ONNX_COMPARISON = "ONNX"
SLIM_COMPARISON = "slim PyTorch"


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
    session, target = load_session(onnx, provider=provider), TARGETS.get(exported.target)
    goal = None
    if data is not None:
        goal = read_goal(data, task=checkpoint.task, dataset=dataset, max_loss=max_loss, limit=limit, seed=seed)
    with workers(1) as pool:
        reference = load_reference(checkpoint, pool, samples=wanted, seed=seed, goal=goal, progress=progress)
        if not reference.sees_text:
            progress.note(f"parity sees no real text: {why_no_text(source.folder, checkpoint.encoder)}")
        return run_parity(
            reference,
            {ONNX_COMPARISON: (session.run, tolerance_for(exported.dtype, atol, metric_judged=data is not None))},
            provider=session.provider,
            padding=target is None or target.layout != "packed",
            progress=progress,
        )


def random_batches(samples: int | None, *, thorough: bool) -> int | None:
    """How many random batches are compared; None: those of the budget, where neither thoroughness nor a number is wanted."""
    return SAMPLES if thorough and samples is None else samples


@dataclass(frozen=True, slots=True)
class Reference:
    """What the untouched Hugging Face model answers.

    `answered()` gives its outputs for `count` cases, of `longest` tokens at most; `thorough` is False where these are the
    budget's. `result` is what it scores on the data of `goal`; None where no goal was set.
    """

    checkpoint: Checkpoint
    answered: Callable[[], Iterable[Answered]]
    count: int
    longest: int
    thorough: bool
    sees_text: bool
    seed: int
    goal: QualityGoal | None
    result: ModelResult | None


def load_reference(
    checkpoint: Checkpoint,
    pool: Executor,
    *,
    samples: int | None,
    seed: int,
    goal: QualityGoal | None,
    progress: Progress,
) -> Reference:
    """Loads the Hugging Face model of `checkpoint`, and evaluates it where there is a goal.

    `samples` random batches, and real text, are run when they are compared. With None, the cases of the budget are run by
    `pool` from now on; their outputs are kept, and the model is not.
    """
    encoder = checkpoint.encoder
    progress.stage("Loading the Hugging Face model")
    run = torch_runner(load_oracle(checkpoint), encoder.inputs, encoder.outputs)
    tokenizer = load_tokenizer(checkpoint.source.folder, encoder)
    result = None
    if goal is not None:
        original = Network("the original", "pytorch", encoder.task, *_interface(checkpoint), run)
        result = evaluate_network(original, goal.data, progress=progress)
    if samples is None:
        few = budget_cases(encoder, tokenizer, seed=seed)
        outputs = [pool.submit(run, case.inputs) for case in few]
        longest = max(case.length for case in few)

        def kept() -> Iterable[Answered]:
            return ((case, found.result()) for case, found in zip(few, outputs, strict=True))

        return Reference(checkpoint, kept, len(few), longest, False, tokenizer is not None, seed, goal, result)

    def anew() -> Iterable[Answered]:
        return one_ahead(run, cases(encoder, tokenizer, samples=samples, seed=seed))

    count, longest = count_cases(samples, tokenizer), encoder.embeddings.max_length
    return Reference(checkpoint, anew, count, longest, True, tokenizer is not None, seed, goal, result)


def run_parity(
    reference: Reference,
    candidates: Mapping[str, tuple[Runner, Tolerance]],
    *,
    provider: str,
    padding: bool,
    progress: Progress,
) -> ParityReport:
    """Compares `candidates` with `reference`; the first one's tolerance is the report's, and its quality is judged.

    Of a budget's cases, all others see the small ones only. Without `padding`, only what belongs to real tokens is compared.
    """
    checkpoint, encoder = reference.checkpoint, reference.checkpoint.encoder
    progress.stage("Comparing with PyTorch", reference.count)
    select = None if padding else partial(real_tokens, by_token=not isinstance(encoder.head, SequenceHead))
    name, (run, tolerance) = next(iter(candidates.items()))
    if reference.thorough:
        results = compare(reference.answered(), candidates, select=select, progress=progress.advance)
    else:
        results = compare(reference.answered(), {name: candidates[name]}, select=select, progress=progress.advance)
        small = [(case, outputs) for case, outputs in reference.answered() if case.tokens <= SMALL]
        results += compare(small, {other: candidates[other] for other in candidates if other != name}, select=select)
    quality = None
    if reference.goal is not None and reference.result is not None:
        network = Network(name, "onnx", encoder.task, *_interface(checkpoint), run)
        quality = judge(reference.goal, reference.result, network, provider=provider, progress=progress)
    thorough, longest, limit = reference.thorough, reference.longest, encoder.embeddings.max_length
    return ParityReport(
        results, tolerance, PROVIDERS[provider].onnxruntime, reference.seed, thorough, longest, limit, quality
    )


def _interface(checkpoint: Checkpoint) -> tuple[Path, tuple[str, ...], tuple[str, ...]]:
    return checkpoint.source.folder, checkpoint.encoder.inputs, checkpoint.encoder.outputs


def slim_candidate(slim: nn.Module, encoder: Encoder) -> tuple[Runner, Tolerance]:
    """The slim PyTorch network as a candidate for `run_parity`."""
    return torch_runner(slim, encoder.inputs, encoder.outputs), TOLERANCES["slim"]
