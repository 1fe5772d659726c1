"""`prune_export.evaluate`: official metrics of any model that can be run, on real data."""

from __future__ import annotations

from prune_export.data.examples import Data
from prune_export.evaluation.evaluate_models import evaluate_models
from prune_export.evaluation.result import Evaluation
from prune_export.options.evaluate import EvaluateOptions
from prune_export.options.keywords import from_keywords


@from_keywords(EvaluateOptions, Data=Data)
def evaluate(options: EvaluateOptions) -> Evaluation:
    """Runs each of `models` on `data`.

    `data` is what `read_examples` takes or has read. `limit` keeps so many examples, or all where there are no more.
    Lengths are in tokens, and less than their defaults where the model has fewer positions. `batch_tokens` counts padding.
    `fail_below` names metrics that have to exist; `Evaluation.below` compares.

    Raises:
        DataError, UsageError, CheckpointError, OutputError, ProviderError, MissingDependencyError: it cannot be done.
    """
    return evaluate_models(options)
