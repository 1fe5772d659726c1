"""Calibration data: a few hundred examples as batches of tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from exporters.errors import DataError, UsageError
from exporters.tasks import Task
from prune_export.checkpoint.load import Checkpoint
from prune_export.checkpoint.tokenizer import load_tokenizer, longest_input, read_config
from prune_export.data.batches import collate, plan_batches
from prune_export.data.examples import Data, QuestionData, TextData, joined, sample, trainable
from prune_export.data.features import Feature, make_features
from prune_export.data.model_classes import refuse_labels, with_classes
from prune_export.data.read import read_examples
from prune_export.options.prune import CalibrationData
from prune_export.tasks import LABELLED, SPECS

Source = str | Path | Data

_BATCH_TOKENS = 2048
_LEAST_BATCHES = 16  # so that some can be held out


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Calibration data, ready to run.

    `batches` are int64 tensors by input name, with labels for tasks that have them. `digest` is the sha256 of the tokens and
    labels, in order. `notes` say what the reader left out or mended.
    """

    name: str
    samples: int
    digest: str
    batches: tuple[dict[str, Tensor], ...]
    notes: tuple[str, ...] = ()


def read_calibration(options: CalibrationData, checkpoint: Checkpoint) -> Calibration:
    """Draws `options.samples` examples from all data together, or takes all if there are fewer.

    Data is what `read_examples` takes, or has read; several are mixed in proportion to their examples. A question gives
    one window: the first that holds an answer, or the first of all where the question has no answer.

    Raises:
        DataError: it cannot be read, is for another task, or has no labels.
        UsageError, UnsupportedError: the labels are not the model's, or a length is out of range.
    """
    data = read_sources(options, checkpoint.task)
    labelled = checkpoint.task in LABELLED
    folder = checkpoint.source.folder
    config, tokenizer = read_config(folder), load_tokenizer(folder)
    longest = longest_input(config)
    length = SPECS[data.task].length_for(longest) if options.max_seq_length is None else options.max_seq_length
    if length > longest:
        raise UsageError(f"--max-seq-length {length}: the model has positions for {longest} tokens")
    classes: tuple[int, ...] = ()
    if labelled:
        data = trainable(data)
    if labelled and isinstance(data, TextData):
        data, classes = with_classes(data, config, labels=options.labels)
    elif isinstance(data, QuestionData):
        refuse_labels(options.labels)
    drawn = sample(data, options.samples, seed=options.seed)
    features = make_features(drawn, tokenizer, max_seq_length=length, labelled=labelled, classes=classes)
    chosen = _one_window_each(drawn, features) if isinstance(drawn, QuestionData) else list(features)
    if len(chosen) < 2:
        raise DataError(f"{data.name}: found {len(chosen)} examples to calibrate with; expected 2 or more")
    calibration = make_calibration(data.name, chosen, tokenizer, checkpoint.encoder.inputs, seed=options.seed)
    return replace(calibration, notes=data.notes)


def read_sources(options: CalibrationData, task: Task) -> Data:
    """Reads all of `options.calibration` as one set of examples, with labels where `task` has readers of them.

    Raises:
        DataError: a source cannot be read, or is for another task.
        UsageError: there is none.
    """
    data_task = task if task in LABELLED else None
    return joined([_read(source, data_task, options.dataset) for source in _as_sequence(options.calibration)])


def make_calibration(
    name: str, features: Sequence[Feature], tokenizer: Any, inputs: Sequence[str], *, seed: int
) -> Calibration:
    """Makes batches of two or more features for a network that takes `inputs`; `seed` decides the order of the batches."""
    names = {*inputs, "attention_mask", *(name for task in LABELLED for name in SPECS[task].label_names)}
    batches = [
        {
            name: torch.from_numpy(values)
            for name, values in collate([features[index] for index in batch], tokenizer).items()
            if name in names
        }
        for batch in _plan([len(feature.input_ids) for feature in features])
    ]
    order = np.random.default_rng(seed).permutation(len(batches))
    return Calibration(name, len(features), _digest(features), tuple(batches[int(index)] for index in order))


def _as_sequence(sources: Source | Sequence[Source]) -> Sequence[Source]:
    listed = [sources] if isinstance(sources, str | Path | QuestionData | TextData) else list(sources)
    if not listed:
        raise UsageError("no calibration data; expected one file or more")
    return listed


def _read(source: Source, task: str | None, dataset: str | None) -> Data:
    if not isinstance(source, QuestionData | TextData):
        return read_examples(source, task=task, dataset=dataset, purpose="calibration")
    if task is not None and source.task != task:
        raise DataError(f"{source.name}: is for {source.task}; the model needs data for {task}")
    return source


def _one_window_each(data: QuestionData, features: Sequence[Feature]) -> list[Feature]:
    chosen: dict[int, Feature] = {}
    for feature in features:
        has_span = feature.start is not None and feature.start != feature.cls
        unanswerable = not data.examples[feature.example].answers
        if feature.example not in chosen and (has_span or unanswerable or feature.start is None):
            chosen[feature.example] = feature
    return list(chosen.values())


def _plan(lengths: list[int]) -> tuple[tuple[int, ...], ...]:
    tokens = min(_BATCH_TOKENS, max(max(lengths), sum(lengths) // _LEAST_BATCHES))
    batches = plan_batches(lengths, max_tokens=tokens)
    return batches if len(batches) > 1 else tuple((index,) for index in batches[0])


def _digest(features: Sequence[Feature]) -> str:
    digest = hashlib.sha256()
    for feature in features:
        labels: tuple[Any, ...] = (feature.start, feature.end, feature.label)
        digest.update(np.asarray(feature.input_ids, dtype=np.int64).tobytes() + repr(labels).encode())
    return digest.hexdigest()
