"""Makes labelled features of training data, in several processes, and caches them under a digest of all their inputs.

The cache is not that of `datasets.map`, which maps Arrow files into memory without checking them: a damaged byte in one is a
wrong feature, or ends the process.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor
from torch.utils.data import Dataset

from exporters.errors import DataError, UsageError
from prune_export.checkpoint.load import Checkpoint
from prune_export.checkpoint.tokenizer import load_tokenizer, longest_input, read_config
from prune_export.data.batches import collate
from prune_export.data.examples import Data, TextData, joined, part_of, sample, trainable
from prune_export.data.features import Feature, make_features
from prune_export.data.model_classes import refuse_labels, with_classes
from prune_export.data.read import read_examples
from prune_export.facts.file_names import TOKENIZER_FILES
from prune_export.files.caches import cache_folder, cached_file
from prune_export.progress import SILENT, Progress
from prune_export.tasks import SPECS
from prune_export.training.recipe import DataSection

_FORMAT = "1"
_CHUNK = 1000  # examples per call of a process
_PARALLEL_FROM = 4000  # fewer examples are ready before other processes have started


class Features(Dataset[Feature]):
    """Features as a data set for the Trainer.

    `digest` is the sha256 of all their inputs. `notes` say what the reader left out or mended.
    """

    def __init__(self, features: tuple[Feature, ...], digest: str, name: str, notes: tuple[str, ...] = ()) -> None:
        self.features, self.digest, self.name, self.notes = features, digest, name, notes

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> Feature:
        return self.features[index]

    def lengths(self) -> list[int]:
        """Returns the number of tokens of each feature, without padding."""
        return [len(feature.input_ids) for feature in self.features]


class Collator:
    """Makes the model's batches: int64 `[batch, longest]`, and the labels."""

    def __init__(self, tokenizer: Any, inputs: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._names = {*inputs, "start_positions", "end_positions", "labels"}

    def __call__(self, features: Sequence[Feature]) -> dict[str, Tensor]:
        batch = collate(features, self._tokenizer)
        return {name: torch.from_numpy(values) for name, values in batch.items() if name in self._names}


def training_features(
    section: DataSection,
    checkpoint: Checkpoint,
    *,
    seed: int,
    progress: Progress = SILENT,
    use_cache: bool = True,
) -> Features:
    """Returns the labelled features of the recipe's training data. With `use_cache` they are cached.

    Raises:
        DataError: the data cannot be read, is for another task, or has no labels.
        UsageError, UnsupportedError: the labels are not the model's, or a length is out of range.
    """
    progress.stage("Reading the data")
    data = training_data(section, checkpoint.task)
    data = trainable(data)
    if section.samples is not None:
        data = sample(data, section.samples, seed=seed)
    folder = checkpoint.source.folder
    config, tokenizer = read_config(folder), load_tokenizer(folder)
    usual = SPECS[data.task].length_for(longest_input(config))
    length = usual if section.max_seq_length is None else section.max_seq_length
    if length > longest_input(config):
        raise UsageError(f"data.max_seq_length = {length}: the model has positions for {longest_input(config)} tokens")
    classes: tuple[int, ...] = ()
    if isinstance(data, TextData):
        data, classes = with_classes(data, config, labels=section.labels)
    else:
        refuse_labels(section.labels)
    for note in data.notes:
        progress.note(note)
    options = {"max_seq_length": length, "doc_stride": section.doc_stride, "classes": classes}
    digest = _digest(data, folder, options, tokenizer)
    _refuse_while_starting()
    cache = cache_folder("features") if use_cache else None
    path = None if cache is None else cache / f"{digest}.npz"
    with _alone(path):  # of several processes one makes them
        features = None if path is None else _read(path, len(data.examples))
        if features is None:
            features = _make(data, folder, options, tokenizer, progress)
            if path is not None:
                with suppress(OSError):
                    _write(path, features)
    if not features:
        raise DataError(f"{data.name}: no example in it")
    return Features(features, digest, data.name, data.notes)


def training_data(section: DataSection, task: str | None) -> Data:
    """Reads all data that the recipe's `data.train` names.

    Raises:
        DataError: none is named, one cannot be read, or their tasks differ.
    """
    if not section.train:
        raise DataError("data.train: expected one file or more; found none")
    return joined(
        [read_examples(path, task=task, dataset=section.dataset, purpose="training") for path in section.train]
    )


@contextmanager
def _alone(path: Path | None) -> Iterator[None]:
    """Holds a lock on `path` while the block runs, unless nothing can be locked there."""
    lock = None if path is None else FileLock(f"{path}.lock")
    try:
        if lock is not None:
            lock.acquire()
    except (OSError, NotImplementedError):
        lock = None
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def _digest(data: Data, folder: Path, options: dict[str, Any], tokenizer: Any) -> str:
    # A tokenizer's tokens follow from its files and its class, which may come from the model's config.json.
    kind = (type(tokenizer).__name__, tuple(tokenizer.model_input_names), tokenizer.padding_side)
    digest = hashlib.sha256(f"{_FORMAT} {options!r} {kind!r}".encode())
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            digest.update((folder / name).read_bytes())
    for example in data.examples:
        digest.update(repr(example).encode())
    return digest.hexdigest()


def _make(data: Data, folder: Path, options: dict[str, Any], tokenizer: Any, progress: Progress) -> tuple[Feature, ...]:
    count = len(data.examples)
    progress.stage("Making features", count)
    starts = range(0, count, _CHUNK)
    chunks = [part_of(data, start, start + _CHUNK) for start in starts]
    made: list[Feature] = []

    def add(start: int, features: tuple[Feature, ...]) -> None:
        made.extend(replace(feature, example=feature.example + start) for feature in features)
        progress.advance(min(_CHUNK, count - start))

    processes = min(len(chunks), _processors())
    if count >= _PARALLEL_FROM and processes > 1:
        # Spawned, not forked: tokenizers and torch have threads of their own already.
        context = multiprocessing.get_context("spawn")
        try:
            with ProcessPoolExecutor(processes, mp_context=context) as pool:
                of_chunks = pool.map(labelled_features_of, chunks, [folder] * len(chunks), [options] * len(chunks))
                for start, features in zip(starts, of_chunks, strict=True):
                    add(start, features)
            return tuple(made)
        except BrokenProcessPool:  # as in a script that trains without checking for the main module
            made.clear()
            progress.stage("Making features", count)
    for start, chunk in zip(starts, chunks, strict=True):
        add(start, labelled_features(chunk, options, tokenizer))
    return tuple(made)


def labelled_features(data: Data, options: dict[str, Any], tokenizer: Any) -> tuple[Feature, ...]:
    """Returns features with labels and without character offsets; `options` are lengths and classes of `make_features`."""
    features = make_features(data, tokenizer, labelled=True, **options)
    return tuple(replace(feature, offsets=None) for feature in features)


def labelled_features_of(data: Data, folder: Path, options: dict[str, Any]) -> tuple[Feature, ...]:
    """Returns `labelled_features` with the tokenizer in `folder`, in one thread: each processor has its own process."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    return labelled_features(data, options, load_tokenizer(folder))


def _refuse_while_starting() -> None:
    """Ends a process of the pool in which the user's script runs again, because it does not check for the main module.

    The process would wait for the lock that its parent holds, while the parent waits for the process.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError("training features are being made already by the process that started this one")


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --- the cache: all sequences joined, and one row of numbers for each ------------------------------------------------------


def _write(path: Path, features: tuple[Feature, ...]) -> None:
    labels = [feature.label for feature in features]
    arrays = {
        "ids": _joined([feature.input_ids for feature in features], np.int32),
        "types": _joined([feature.token_type_ids for feature in features], np.int8),
        "rows": np.array(
            [
                (f.example, len(f.input_ids), f.cls, -1 if f.start is None else f.start, -1 if f.end is None else f.end)
                for f in features
            ],
            dtype=np.int64,
        ).reshape(-1, 5),
        "labels": np.array([] if None in labels else labels),
    }
    with cached_file(path) as file:
        np.savez(file, allow_pickle=False, **arrays)


def _joined(parts: Sequence[Any], dtype: Any) -> Any:
    return np.concatenate(parts).astype(dtype) if parts else np.zeros(0, dtype)


def _read(path: Path, examples: int) -> tuple[Feature, ...] | None:
    """Reads the features of `examples` examples; None where the file is missing, damaged, or of other examples."""
    try:
        if not path.is_file():
            return None
        with zipfile.ZipFile(path) as archive:
            # As they were written, so that they cannot be larger than the file.
            if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
                return None
        with np.load(path, allow_pickle=False) as file:
            ids, types, rows, labels = (file[name] for name in ("ids", "types", "rows", "labels"))
        _check(ids, types, rows, labels, examples)
    except Exception:  # numpy and zipfile raise many kinds for what is damaged; it is made anew
        return None
    ids, types = ids.astype(np.int64), types.astype(np.int64)
    features = []
    end = 0
    for index, (example, length, cls, start, last) in enumerate(rows.tolist()):
        tokens, end = slice(end, end + length), end + length
        label = labels[index].item() if len(labels) else None
        span = (start, last) if start >= 0 else (None, None)
        features.append(Feature(example, ids[tokens], types[tokens], None, cls, span[0], span[1], label))
    return tuple(features)


def _check(ids: Any, types: Any, rows: Any, labels: Any, examples: int) -> None:
    """Checks that the arrays are such as `_write` writes.

    Raises:
        ValueError: they are not.
    """
    if (ids.dtype, types.dtype, rows.dtype) != (np.int32, np.int8, np.int64) or labels.dtype.kind not in "if":
        raise ValueError("other types")
    if ids.ndim != 1 or types.shape != ids.shape or rows.ndim != 2 or rows.shape[1] != 5:
        raise ValueError("other shapes")
    if labels.shape not in ((0,), (len(rows),)):
        raise ValueError("other numbers of labels")
    example, length, cls, start, last = rows.T
    inside = (start >= 0) & (start <= last) & (last < length)
    fine = (example >= 0) & (example < examples) & (length > 0) & (length <= len(ids)) & (cls >= 0) & (cls < length)
    if not (fine & (inside | ((start == -1) & (last == -1)))).all() or sum(length.tolist()) != len(ids):
        raise ValueError("numbers that cannot be")
    if (ids < 0).any() or (types < 0).any() or not np.isfinite(labels).all():
        raise ValueError("values that cannot be")
