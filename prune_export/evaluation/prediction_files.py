"""Predictions as files that the official scripts read."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from exporters.errors import OutputError
from prune_export.evaluation.result import Evaluation


def write_predictions(evaluation: Evaluation, path: Path) -> tuple[Path, ...]:
    """Writes `{id: answer}` to `path`, and for SQuAD 2.0 `{id: odds}` (--na-prob-file) beside it; returns the files.

    `path` is `predictions.json`, say: the odds go to `predictions.null_odds.json`. With several models each has files of its
    own, with its name before the ending: `predictions.minilm.json`, `predictions.minilm.null_odds.json`.

    Raises:
        OutputError: a file cannot be written.
    """
    written: list[Path] = []
    names = short_names([result.model for result in evaluation.results])
    for name, result in zip(names, evaluation.results, strict=True):
        stem = path.stem if len(names) == 1 else f"{path.stem}.{name.replace('/', '_')}"
        ending = path.suffix or ".json"
        written.append(_write(result.predictions, path.with_name(stem + ending)))
        if result.null_odds is not None:
            written.append(_write(result.null_odds, path.with_name(f"{stem}.null_odds{ending}")))
    return tuple(written)


def short_names(models: Sequence[str]) -> tuple[str, ...]:
    """What to call the models beside each other: the last part of their paths where that tells them apart.

    A model that stands there twice gets a number.
    """
    last = [Path(model).name or model for model in models]
    found = last if len(set(last)) == len(set(models)) else [model.strip("/.") for model in models]
    counts, names = Counter[str](), []
    for name in found:
        counts[name] += 1
        names.append(name if counts[name] == 1 else f"{name}-{counts[name]}")
    return tuple(names)


def _write(content: Mapping[str, object], path: Path) -> Path:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        aside.unlink(missing_ok=True)
    return path
