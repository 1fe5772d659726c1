"""Writes predictions as files that the official scripts read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from prune_export.data.splits import without_split
from prune_export.evaluation.result import Evaluation
from prune_export.outputs.report import check_report, write_report


def check_predictions(models: Sequence[str], data: str, path: Path, *, overwrite: bool) -> None:
    """Checks, before any model runs, that the predictions of `models` on `data` can be written.

    Raises:
        OutputError: a file is there already, and `overwrite` is not given; it is one that is read; or it cannot be written.
    """
    for report_path in _paths(models, path):
        for name in (report_path, _odds(report_path)):
            check_report(name, overwrite=overwrite, read=(without_split(data), *models))


def write_predictions(evaluation: Evaluation, path: Path, *, overwrite: bool = False) -> tuple[Path, ...]:
    """Writes `{id: answer}` to `path`, and for SQuAD 2.0 `{id: odds}` (--na-prob-file) beside it; returns the files.

    For `predictions.json` the odds are in `predictions.null_odds.json`. With several models each has files of its own, with
    its name before the ending: `predictions.minilm.json`, `predictions.minilm.null_odds.json`.

    Raises:
        OutputError: a file is there already, and `overwrite` is not given, or it cannot be written.
    """
    written: list[Path] = []
    paths = _paths([result.model for result in evaluation.results], path)
    for report_path, result in zip(paths, evaluation.results, strict=True):
        written.append(_write(result.predictions, report_path, overwrite))
        if result.null_odds is not None:
            written.append(_write(result.null_odds, _odds(report_path), overwrite))
    return tuple(written)


def _paths(models: Sequence[str], path: Path) -> list[Path]:
    if len(models) == 1:
        return [path]
    return [path.with_name(f"{path.stem}.{name.replace('/', '_')}{path.suffix}") for name in short_names(models)]


def _odds(path: Path) -> Path:
    return path.with_name(f"{path.stem}.null_odds{path.suffix}")


def short_names(models: Sequence[str]) -> tuple[str, ...]:
    """Returns names of the models for tables: the last part of their paths if that is unique, otherwise the whole path.

    A model that is listed twice gets a number.
    """
    last = [Path(model).name or model for model in models]
    short = last if len(set(last)) == len(set(models)) else [model.strip("/.") for model in models]
    counts, names = Counter[str](), []
    for name in short:
        counts[name] += 1
        names.append(name if counts[name] == 1 else f"{name}-{counts[name]}")
    return tuple(names)


def _write(content: Mapping[str, object], path: Path, overwrite: bool) -> Path:
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    return write_report(path, text.encode(errors="surrogatepass"), overwrite=overwrite)
