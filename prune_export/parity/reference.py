"""The answers of the reference model, which is the untouched Hugging Face model.

No Hugging Face model has a sliced residual stream. The reference of such a checkpoint is the slim PyTorch network of its
files, before the surgeon; what slicing lost is not for parity to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from prune_export.checkpoint.load import Checkpoint
from prune_export.checkpoint.reference_model import load_reference_model
from prune_export.evaluation.evaluate_network import evaluate_network
from prune_export.evaluation.result import ModelResult
from prune_export.network.opening import Batch, Network, Outputs, torch_runner
from prune_export.parity.budget import budget_cases
from prune_export.parity.check import Answered, one_ahead
from prune_export.parity.inputs import LONGEST, cases, count_cases, text_tokenizer
from prune_export.parity.quality import QualityGoal
from prune_export.parity.rounding import rounded_runs
from prune_export.parity.verdict import HUGGING_FACE, SLIM_NETWORK
from prune_export.progress import Progress
from prune_export.slim_model.model import slim_module


@dataclass(frozen=True, slots=True)
class Reference:
    """The answers of the reference model.

    `answered()` gives its outputs for `count` cases, of `longest` tokens at most. `roundings` are those of
    `rounded_runs`. `thorough` is False if the cases are the budget's. `why_no_text` is the reason why there is no real text
    among them. `result` is its score on the data of `goal`;
    None without a goal.
    """

    checkpoint: Checkpoint
    answered: Callable[[], Iterable[Answered]]
    roundings: Callable[[Batch], list[Outputs]]
    count: int
    longest: int
    thorough: bool
    why_no_text: str | None
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
    """Loads the reference model of `checkpoint`, and evaluates it if there is a goal.

    `samples` random batches, and real text, are run when they are compared. With None, `pool` starts to run the cases of the
    budget; their outputs are kept, and the model is not.
    """
    encoder = checkpoint.encoder
    progress.stage(f"Loading {reference_name(checkpoint)}")
    model = _model(checkpoint)
    run = torch_runner(model, encoder.inputs, encoder.outputs)
    roundings = rounded_runs(lambda: _model(checkpoint), encoder.inputs, encoder.outputs)
    tokenizer, why_no_text = text_tokenizer(checkpoint.source.folder, encoder)
    result = None
    if goal is not None:
        original = Network("the original", "pytorch", encoder.task, *interface(checkpoint), run)
        result = evaluate_network(original, goal.data, progress=progress)
    if samples is None:
        few = budget_cases(encoder, tokenizer, seed=seed)
        outputs = [pool.submit(run, case.inputs) for case in few]
        longest = max(case.length for case in few)

        def kept() -> Iterable[Answered]:
            return ((case, output.result()) for case, output in zip(few, outputs, strict=True))

        return Reference(checkpoint, kept, roundings, len(few), longest, False, why_no_text, seed, goal, result)

    def anew() -> Iterable[Answered]:
        return one_ahead(run, cases(encoder, tokenizer, samples=samples, seed=seed))

    count, longest = count_cases(samples, tokenizer), min(encoder.embeddings.max_length, LONGEST)
    return Reference(checkpoint, anew, roundings, count, longest, True, why_no_text, seed, goal, result)


def _model(checkpoint: Checkpoint) -> nn.Module:
    encoder = checkpoint.encoder
    return slim_module(checkpoint, encoder) if encoder.is_sliced else load_reference_model(checkpoint)


def reference_name(checkpoint: Checkpoint) -> str:
    """Names the reference model of `checkpoint`."""
    return SLIM_NETWORK if checkpoint.encoder.is_sliced else HUGGING_FACE


def interface(checkpoint: Checkpoint) -> tuple[Path, tuple[str, ...], tuple[str, ...]]:
    return checkpoint.source.folder, checkpoint.encoder.inputs, checkpoint.encoder.outputs
