"""MRQA's metrics: those of SQuAD 1.1 per data set, and their averages over data sets.

"The final score for the MRQA shared task will be the macro-average across all test datasets" (its README): each data set
counts the same, however many questions it has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from exporters.errors import DataError
from prune_export.data.examples import Question
from prune_export.data.mrqa import DOMAINS
from prune_export.evaluation.squad import Scores, squad_scores

_METRICS = ("exact_match", "f1")


def mrqa_scores(questions: Sequence[Question], predictions: Mapping[str, str]) -> Scores:
    """Returns `exact_match` and `f1`, averaged over data sets, as percentages.

    Where there are several data sets, `in_domain_f1`, `out_of_domain_f1` and the like average those of one domain.

    Raises:
        DataError: a question has no answer, or there is none.
    """
    if not questions:
        raise DataError("there is no question to judge")
    scores = scores_by_dataset(questions, predictions)
    return {
        f"{prefix}{metric}": fmean(scores[dataset][metric] for dataset in datasets)
        for prefix, datasets in _averages(scores).items()
        for metric in _METRICS
    }


def scores_by_dataset(questions: Sequence[Question], predictions: Mapping[str, str]) -> dict[str, Scores]:
    """Returns `exact_match` and `f1`, as percentages, and `total`, the number of questions, by data set."""
    return {
        dataset: squad_scores(own, predictions) | {"total": len(own)} for dataset, own in _by_dataset(questions).items()
    }


def mrqa_metrics(questions: Sequence[Question]) -> tuple[str, ...]:
    """Returns the names of the metrics that `mrqa_scores` computes for these questions."""
    return tuple(f"{prefix}{metric}" for prefix in _averages(_by_dataset(questions)) for metric in _METRICS)


def missing_datasets(questions: Sequence[Question]) -> tuple[str, ...]:
    """Returns a note for each domain of which some data sets are missing, so that its average is not the shared task's."""
    datasets = _by_dataset(questions)
    if len(datasets) < 2:
        return ()
    notes = []
    for domain, names in DOMAINS.items():
        missing = [name for name in names if name not in datasets]
        if 0 < len(missing) < len(names):
            count = f"{len(names) - len(missing)} of MRQA's {len(names)} data sets"
            notes.append(f"{domain} averages {count}, without {', '.join(missing)}")
    return tuple(notes)


def _by_dataset(questions: Sequence[Question]) -> dict[str, list[Question]]:
    found: dict[str, list[Question]] = {}
    for question in questions:
        found.setdefault(question.dataset or "unnamed", []).append(question)
    return found


def _averages(datasets: Mapping[str, object]) -> dict[str, list[str]]:
    """Returns the data sets that each average is over, by the prefix of its metrics' names."""
    averages = {"": list(datasets)}
    if len(datasets) > 1:
        for domain, names in DOMAINS.items():
            if own := [name for name in names if name in datasets]:
                averages[f"{domain}_"] = own
    return averages
