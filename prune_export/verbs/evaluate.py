"""`prune_export.evaluate` computes the official metrics of models on labelled data."""

from __future__ import annotations

from prune_export.data.examples import Data
from prune_export.evaluation.evaluate_models import evaluate_models
from prune_export.evaluation.result import Evaluation
from prune_export.options.evaluate import EvaluateOptions
from prune_export.options.keywords import from_keywords


@from_keywords(EvaluateOptions, Data=Data)
def evaluate(options: EvaluateOptions) -> Evaluation:
    """Runs each of `models` on `data`.

    `data` is what `read_examples` takes, or has read. `limit` is the most examples that are used. Lengths are in tokens;
    their defaults are less where the model has fewer positions. `batch_tokens` counts padding. The metrics that `fail_below`
    names have to exist; `Evaluation.below` compares them.

    Raises:
        DataError, UsageError, CheckpointError, OutputError, ProviderError, MissingDependencyError: it cannot be done.
    """
    return evaluate_models(options)
