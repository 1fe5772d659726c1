"""Evaluates several models on the same data, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from exporters.errors import UsageError
from exporters.runtime import check_threads
from prune_export.data.answers import judged_by_text
from prune_export.data.examples import Data, QuestionData, TextData, answerable, sample
from prune_export.data.glue_tasks import OWN, OWN_NUMBERS
from prune_export.data.labels import are_numbers
from prune_export.data.read import read_examples
from prune_export.evaluation.evaluate_network import evaluate_network
from prune_export.evaluation.mrqa import missing_datasets
from prune_export.evaluation.result import Evaluation, ModelResult, percentages
from prune_export.network.opening import open_network
from prune_export.options.evaluate import EvaluateOptions, EvaluationData


def evaluate_models(options: EvaluateOptions) -> Evaluation:
    """Runs each model on the data.

    Raises:
        PruneExportError: see `prune_export.evaluate`.
    """
    paths = [options.models] if isinstance(options.models, str | Path) else list(options.models)
    if not paths:
        raise UsageError("no model; expected one or more")
    progress = options.progress
    progress.stage("Reading the data")
    whole = _prepared(options)
    data = whole if options.limit is None else sample(whole, options.limit, seed=options.seed)
    limits = options.fail_below or {}
    check_limits(data, limits)
    results: list[ModelResult] = []
    with _torch_threads(options.threads):
        for model in paths:
            progress.stage(f"Opening {model}")
            network = open_network(
                model, task=data.task, provider=options.provider, threads=options.threads, hub=options
            )
            result = evaluate_network(network, data, settings=options, provider=options.provider, progress=progress)
            check_metrics(result, limits, results)
            results.append(result)
    notes = data.notes
    if isinstance(data, QuestionData):
        notes = (
            *notes,
            *judged_by_text(data.examples),
            *(missing_datasets(data.examples) if data.style == "mrqa" else ()),
        )
    return Evaluation(
        data.name,
        data.task,
        results[0].metric,
        len(data.examples),
        tuple(results),
        split=data.split,
        total=len(whole.examples),
        seed=None if options.limit is None else options.seed,
        notes=notes,
    )


def check_limits(data: Data, limits: Mapping[str, float]) -> None:
    """Checks that `data` gives the metrics of `limits`, before any model runs.

    Raises:
        UsageError: a name is unknown, or a value is a fraction where all metrics are percentages.
    """
    names = percentages(data)
    if isinstance(data, TextData) and data.glue == OWN and are_numbers(data.words):
        names = (*names, *OWN_NUMBERS.metrics)  # the model decides which of both
    for name, value in limits.items():
        if name not in names:
            raise UsageError(f"--fail-below {name}={value:g}: {data.name} gives {', '.join(names)}")
        if 0 < value <= 1:
            raise UsageError(
                f"--fail-below {name}={value:g}: metrics are percentages; for {value:g} say {100 * value:g}"
            )


def check_metrics(result: ModelResult, limits: Mapping[str, float], others: Sequence[ModelResult]) -> None:
    """Checks that a model's result has all metrics of `limits`, and the same source of metrics as `others`.

    Raises:
        UsageError: it has not.
    """
    for name in limits:
        if name not in result.metrics:
            raise UsageError(f"--fail-below {name}: {result.model} gives {', '.join(result.metrics)}")
    if others and others[0].metric != result.metric:
        raise UsageError(
            f"{result.model} is judged by {result.metric}, {others[0].model} by {others[0].metric}; evaluate them one by one"
        )


def _prepared(options: EvaluationData) -> Data:
    source = options.data
    if not isinstance(source, QuestionData | TextData):
        data: Data = read_examples(source, task=options.task, dataset=options.dataset, split=options.split)
    elif options.split is not None:
        raise UsageError(f"--split {options.split}: {source.name} has been read already")
    else:
        data = source
    if options.only_answerable:
        if not isinstance(data, QuestionData):
            raise UsageError(f"--answerable is for question answering; {data.name} is for {data.task}")
        data = answerable(data)
    return data


@contextmanager
def _torch_threads(threads: int | None) -> Iterator[None]:
    """Sets the number of PyTorch's threads within an operation while the block runs."""
    if threads is None:
        yield
        return
    check_threads(threads)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
