"""Evaluates one network on labelled data with the official metrics."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from exporters.errors import UnsupportedError
from exporters.providers import CPU, find_provider
from exporters.tasks import Task
from prune_export.checkpoint.tokenizer import load_tokenizer, read_config
from prune_export.data.examples import Data, QuestionData, TextData
from prune_export.data.features import Feature, make_features, sequence_length
from prune_export.data.model_classes import refuse_labels, with_classes
from prune_export.evaluation.glue import glue_scores
from prune_export.evaluation.mrqa import mrqa_scores, scores_by_dataset
from prune_export.evaluation.result import ModelResult, metric_of
from prune_export.evaluation.running import Row, run_features
from prune_export.evaluation.spans import SquadAnswer, best_answer, windows_of
from prune_export.evaluation.squad import squad_scores, squad_v2_scores
from prune_export.network.opening import Network
from prune_export.options.evaluate import EvaluationSettings
from prune_export.progress import SILENT, Progress
from prune_export.tasks import SPECS

DEFAULT_SETTINGS = EvaluationSettings()


def evaluate_network(
    network: Network,
    data: Data,
    *,
    settings: EvaluationSettings = DEFAULT_SETTINGS,
    provider: str | None = None,
    progress: Progress = SILENT,
) -> ModelResult:
    """Runs an opened network on examples that have been read, and computes the metrics.

    Raises:
        UnsupportedError: the network lacks an output that the task needs, or has other classes than the data.
        CheckpointError, UsageError, OutputError: see `evaluate`.
    """
    check_outputs(network, data.task)
    tokenizer, notes = load_tokenizer(network.folder), data.notes
    data, classes, features = evaluation_features(data, network.folder, tokenizer, settings)
    batch_tokens = settings.batch_tokens
    if batch_tokens is None:
        batch_tokens = find_provider(provider or CPU.name).batch_tokens
    progress.stage(f"Running {network.name}", len(features))
    start = time.perf_counter()
    rows = run_features(
        network,
        features,
        tokenizer,
        max_tokens=batch_tokens,
        per_token=SPECS[data.task].head.answers_per_token,
        advance=progress.advance,
    )
    seconds = time.perf_counter() - start
    if isinstance(data, TextData):
        metrics, predictions = _judge_texts(network, data, rows, classes)
        metric, notes = metric_of(data), data.notes[len(notes) :]
        return ModelResult(
            network.name, network.kind, metrics, predictions, None, len(features), seconds, metric, notes, network.form
        )
    answers = _answers(data, features, rows)
    metrics, texts, odds = _judge_answers(data, answers, settings.null_threshold)
    return ModelResult(
        network.name,
        network.kind,
        metrics,
        texts,
        odds,
        len(features),
        seconds,
        metric_of(data),
        form=network.form,
        datasets=scores_by_dataset(data.examples, texts) if data.style == "mrqa" else {},
    )


def evaluation_features(
    data: Data, folder: Path, tokenizer: Any, settings: EvaluationSettings
) -> tuple[Data, tuple[int, ...], tuple[Feature, ...]]:
    """Returns the data with the classes of the model in `folder`, the class of each label, and the features.

    Raises:
        UnsupportedError, UsageError: the labels are not the model's, or a length is out of range or leaves no room.
    """
    config = read_config(folder)
    classes: tuple[int, ...] = ()
    if isinstance(data, TextData):
        data, classes = with_classes(data, config, labels=settings.labels)
    else:
        refuse_labels(settings.labels)
    features = make_features(
        data,
        tokenizer,
        max_seq_length=sequence_length(config, data.task, settings.max_seq_length),
        doc_stride=settings.doc_stride,
    )
    return data, classes, features


def check_outputs(network: Network, task: Task) -> None:
    """Checks that the network has the outputs of `task`.

    Raises:
        UnsupportedError: it has not.
    """
    needed = set(SPECS[task].head.outputs)
    if not needed <= set(network.outputs):
        raise UnsupportedError(
            f"{network.name}: {task} needs the outputs {', '.join(sorted(needed))}; found {', '.join(network.outputs)}"
        )


def _answers(data: QuestionData, features: Sequence[Feature], rows: Sequence[Row]) -> list[SquadAnswer]:
    windows = windows_of(features, rows, len(data.examples))
    return [
        best_answer(example.context, of_example) for example, of_example in zip(data.examples, windows, strict=True)
    ]


def _judge_answers(
    data: QuestionData, answers: Sequence[SquadAnswer], threshold: float
) -> tuple[dict[str, float], dict[str, str], dict[str, float] | None]:
    named = list(zip(data.examples, answers, strict=True))
    if data.style != "squad_v2":
        texts = {example.id: answer.text for example, answer in named}
        scores = mrqa_scores if data.style == "mrqa" else squad_scores
        return scores(data.examples, texts), texts, None
    texts = {example.id: answer.or_nothing(threshold) for example, answer in named}
    odds = {example.id: answer.null_odds for example, answer in named}
    # As `run_squad.py` is judged: predictions with its threshold, the odds as na-probs. The script's own threshold on those
    # must not take answers back.
    return squad_v2_scores(data.examples, texts, odds, threshold=max(1.0, threshold)), texts, odds


def _judge_texts(
    network: Network, data: TextData, rows: Sequence[Row], classes: Sequence[int]
) -> tuple[dict[str, float], dict[str, str | float]]:
    logits = [row["logits"] for row in rows]
    expected = (len(classes),) if data.glue.labels else (1,)
    if logits[0].shape != expected:
        raise UnsupportedError(
            f"{network.name}: {data.glue.name} needs logits {list(expected)} for a text; found {list(logits[0].shape)}"
        )
    golds: list[int | float] = [example.label for example in data.examples if not isinstance(example.label, str)]
    ids = [example.id for example in data.examples]
    if not data.glue.labels:
        numbers = [float(row[0]) for row in logits]
        return glue_scores(data.glue, golds, numbers), dict(zip(ids, numbers, strict=True))
    predicted = [int(np.argmax(row[list(classes)])) for row in logits]
    return glue_scores(data.glue, golds, predicted), {
        identifier: data.glue.labels[label] for identifier, label in zip(ids, predicted, strict=True)
    }
