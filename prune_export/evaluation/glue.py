"""GLUE's metrics (Wang et al. 2018), from scikit-learn and scipy, as percentages."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from exporters.errors import MissingDependencyError
from prune_export.data.glue_tasks import GlueTask


def glue_scores(task: GlueTask, labels: Sequence[int | float], predictions: Sequence[int | float]) -> dict[str, float]:
    """Returns the metrics of `task`, times 100, as on GLUE's leaderboard.

    These are `accuracy`, `f1` (of label 1), `matthews_correlation`, or `pearson` and `spearmanr`. Correlations with a
    constant, which are not defined, are 0.

    Raises:
        MissingDependencyError: scikit-learn or scipy is not installed.
    """
    try:
        from scipy import stats
        from sklearn import metrics
    except ImportError as error:
        raise MissingDependencyError(
            "GLUE's metrics need scikit-learn and scipy: pip install 'prune-export[evaluate]'"
        ) from error
    constant = len(set(predictions)) < 2 or len(set(labels)) < 2
    compute: dict[str, Callable[[], float]] = {
        "accuracy": lambda: metrics.accuracy_score(labels, predictions),
        "f1": lambda: metrics.f1_score(labels, predictions, zero_division=0.0),
        "matthews_correlation": lambda: metrics.matthews_corrcoef(labels, predictions),
        "pearson": lambda: 0.0 if constant else stats.pearsonr(labels, predictions).statistic,
        "spearmanr": lambda: 0.0 if constant else stats.spearmanr(labels, predictions).statistic,
    }
    return {name: 100 * float(compute[name]()) for name in task.metrics}
