"""`prune_export.evaluate`: official metrics of any model that can be run, on real data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from exporters.errors import UsageError
from exporters.providers import ProviderName
from exporters.runtime import check_threads
from prune_export.arguments import checked
from prune_export.data.answers import judged_by_text
from prune_export.data.examples import Data, QuestionData, TextData, answerable, sample
from prune_export.data.features import (
    DOC_STRIDE,
    MAX_QUERY_LENGTH,
)
from prune_export.data.glue_tasks import OWN, OWN_NUMBERS
from prune_export.data.labels import are_numbers
from prune_export.data.read import read_examples
from prune_export.evaluation.evaluate_network import Settings, evaluate_network
from prune_export.evaluation.result import Evaluation, ModelResult, percentages
from prune_export.network.opening import open_network
from prune_export.progress import SILENT, Progress


@checked
def evaluate(
    models: str | Path | Sequence[str | Path],
    data: str | Path | Data,
    *,
    task: str | None = None,
    dataset: str | None = None,
    split: str | None = None,
    only_answerable: bool = False,
    limit: int | None = None,
    seed: int = 0,
    max_seq_length: int | None = None,
    doc_stride: int = DOC_STRIDE,
    batch_tokens: int | None = None,
    null_threshold: float = 0.0,
    labels: Sequence[str] | None = None,
    fail_below: Mapping[str, float] | None = None,
    provider: ProviderName | None = None,
    threads: int | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | None = None,
    progress: Progress = SILENT,
) -> Evaluation:
    """Runs each of `models` (checkpoints, slim or not, exported folders, `.onnx` files, hub ids) on `data`.

    `data` is what `read_examples` takes (a SQuAD, MRQA or GLUE file, texts with labels, a `datasets` name) or has read;
    `dataset` names the GLUE task where the file cannot tell, `split` the part of it. `only_answerable` leaves out questions
    without an answer and judges by SQuAD 1.1; `limit` keeps so many examples, drawn by `seed`, or all where there are no
    more. `max_seq_length` is in tokens (None: 384 for question answering, 128 for GLUE, less
    where the model has fewer positions), `doc_stride` the tokens that neighbouring windows share. `batch_tokens` is how many
    tokens a batch holds with its padding (None: 2048, on CUDA 16384). `null_threshold` (SQuAD 2.0): "no answer" where it
    beats the best span by more, in logits. `labels` are the model's classes in order, where its config.json does not say.
    `fail_below` names metrics that have to exist; `Evaluation.below` compares. `provider` and `threads` as for `verify`.

    Raises:
        DataError, UsageError, CheckpointError, OutputError, ProviderError, MissingDependencyError: it cannot be done.
    """
    paths = [models] if isinstance(models, str | Path) else list(models)
    if not paths:
        raise UsageError("no model; expected one or more")
    progress.stage("Reading the data")
    whole = _prepared(data, task, dataset, split, only_answerable=only_answerable)
    found = whole if limit is None else sample(whole, limit, seed=seed)
    check_limits(found, fail_below or {})
    settings = Settings(max_seq_length, doc_stride, MAX_QUERY_LENGTH, batch_tokens, null_threshold, labels)
    results: list[ModelResult] = []
    with _torch_threads(threads):
        for model in paths:
            progress.stage(f"Opening {model}")
            network = open_network(
                model,
                task=found.task,
                provider=provider,
                threads=threads,
                revision=revision,
                cache_dir=cache_dir,
                token=token,
            )
            result = evaluate_network(network, found, settings=settings, provider=provider, progress=progress)
            check_metrics(result, fail_below or {}, results)
            results.append(result)
    notes = (*found.notes, *(judged_by_text(found.examples) if isinstance(found, QuestionData) else ()))
    return Evaluation(
        found.name,
        found.task,
        results[0].metric,
        len(found.examples),
        tuple(results),
        split=found.split,
        total=len(whole.examples),
        seed=None if limit is None else seed,
        notes=notes,
    )


def check_limits(data: Data, limits: Mapping[str, float]) -> None:
    """Checks that `limits` are of metrics that `data` gives, before any model runs.

    Raises:
        UsageError: a name is unknown, or a value is a fraction where all metrics are percentages.
    """
    names = percentages(data)
    if isinstance(data, TextData) and data.glue == OWN and are_numbers(data.words):
        names = (*names, *OWN_NUMBERS.metrics)  # which of both, the model decides
    for name, value in limits.items():
        if name not in names:
            raise UsageError(f"--fail-below {name}={value:g}: {data.name} gives {', '.join(names)}")
        if 0 < value <= 1:
            raise UsageError(
                f"--fail-below {name}={value:g}: metrics are percentages; for {value:g} say {100 * value:g}"
            )


def check_metrics(result: ModelResult, limits: Mapping[str, float], others: Sequence[ModelResult]) -> None:
    """Checks that a model has the metrics that have limits, and those of `others`.

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


def _prepared(
    source: str | Path | Data, task: str | None, dataset: str | None, split: str | None, *, only_answerable: bool
) -> Data:
    if not isinstance(source, QuestionData | TextData):
        data: Data = read_examples(source, task=task, dataset=dataset, split=split)
    elif split is not None:
        raise UsageError(f"--split {split}: {source.name} has been read already")
    else:
        data = source
    if only_answerable:
        if not isinstance(data, QuestionData):
            raise UsageError(f"--answerable is for question answering; {data.name} is for {data.task}")
        data = answerable(data)
    return data


@contextmanager
def _torch_threads(threads: int | None) -> Iterator[None]:
    """PyTorch with so many threads inside an operation while the block runs."""
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
