"""The reader of data sets of any form: the content decides, not the file's name."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from exporters.errors import DataError, UsageError
from prune_export.data.columns import EXPECTED, is_heading
from prune_export.data.examples import Data, QuestionData, joined
from prune_export.data.fields import unique
from prune_export.data.glue import glue_texts, is_glue
from prune_export.data.glue_tasks import MISMATCHED, OWN, GlueTask
from prune_export.data.hub import is_saved, read_named, read_saved
from prune_export.data.mrqa import mrqa_questions
from prune_export.data.rows import rows_data, task_of
from prune_export.data.splits import Purpose, choose_split, is_split
from prune_export.data.squad import squad_questions
from prune_export.data.table import read_table
from prune_export.files.reading import ReadingError, clipped, decode_json, is_file, read_bytes, user_path
from prune_export.tasks import LABELLED

_LARGEST = 2 << 30  # of text; the largest set of MRQA has 1 GB
_LARGEST_RATIO = 100  # of what gzip makes of text: 3 to 10
_BEFORE_RATIO = 64 << 20
_CHUNK = 1 << 20
_MOST_VALUES = 32 << 20  # of a JSON document; each takes up to twenty times its room in the file
_GZIP = b"\x1f\x8b"
_FILE_ENDINGS = (".json", ".jsonl", ".gz", ".tsv", ".txt", ".csv")


def read_examples(
    source: str | Path,
    *,
    task: str | None = None,
    dataset: str | None = None,
    split: str | None = None,
    purpose: Purpose = "evaluation",
) -> Data:
    """Reads the examples of `source`.

    `source` is a file (SQuAD JSON, nested or flat, MRQA JSON lines, a GLUE TSV, texts with labels as JSON, JSON lines, CSV
    or TSV; gzipped or not), a folder of such files by split (dev.tsv, train.csv), a folder of MRQA's files by data set, a
    folder of `datasets.save_to_disk`, or a name for `datasets`: `squad`, `glue:sst2:validation`. If there are several
    splits, `split` says which, as `FOLDER:SPLIT` does; None: the one for `purpose`, never a training split to evaluate on.
    The result's name ends in it. `task` ("question-answering" or "text-classification") is what it must be for; None:
    either. `dataset` names the GLUE task if the content alone cannot tell, or is "own".

    Raises:
        DataError: it cannot be read, or is for another task.
        UsageError: `task` or `dataset` is unknown.
        MissingDependencyError: it is a `datasets` name or folder, and `datasets` is not installed.
    """
    if task is not None and task not in LABELLED:
        raise UsageError(f"--task {task}: data can be read for {' and '.join(LABELLED)}")
    data = _read(source, _Options(dataset, split, purpose))
    if task is not None and data.task != task:
        raise DataError(f"{source}: is for {data.task}; expected data for {task}")
    return data if data.split is None else replace(data, name=f"{data.name}:{data.split}")


@dataclass(frozen=True, slots=True)
class _Options:
    dataset: str | None
    split: str | None
    purpose: Purpose


def _read(source: str | Path, options: _Options) -> Data:
    try:
        path = user_path(source)
        if path.is_dir():
            return _read_folder(path, options)
        if path.exists():
            return _parse(_text(path), str(source), options)
        base, colon, split = str(source).rpartition(":")
        if colon and split and (path_of_base := user_path(base)).exists() and _has_splits(path_of_base):
            if options.split not in (None, split):
                raise UsageError(f"--split {options.split}: '{source}' names another")
            return _read(base, replace(options, split=split))
    except (ReadingError, OSError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise DataError(f"{clipped(str(source), 300)}: cannot be read: {reason}") from error
    if isinstance(source, Path) or path.suffix in _FILE_ENDINGS or str(source).startswith(("/", ".", "~")):
        raise DataError(f"{source}: no such file or folder")
    return read_named(source, dataset=options.dataset, split=options.split, purpose=options.purpose)


def _has_splits(path: Path) -> bool:
    """Says whether a split of `path` may be given: a file may have a column that names it."""
    return path.is_file() or is_saved(path) or bool(_files_by_split(path))


def _read_folder(folder: Path, options: _Options) -> Data:
    if is_saved(folder):
        return read_saved(folder, dataset=options.dataset, split=options.split, purpose=options.purpose)
    files = _files_by_split(folder)
    if not files and (by_dataset := [path for path in sorted(folder.iterdir()) if _is_lines(path)]):
        return _read_mrqa(folder, by_dataset, options)
    if not files:
        raise DataError(
            f"{folder}: expected a file, a GLUE task's folder with dev.tsv or dev_matched.tsv, another folder with files "
            "that are called after their splits, MRQA's files (.jsonl.gz), or a folder written by datasets.save_to_disk"
        )
    mismatched = options.dataset is not None and options.dataset.lower() in MISMATCHED
    split_name = options.split
    if split_name is None and mismatched and options.purpose == "evaluation" and "dev_mismatched" in files:
        split_name = "dev_mismatched"
    split = choose_split(list(files), split_name, options.purpose, str(folder))
    if len(files[split]) > 1:
        names = " and ".join(path.name for path in files[split])
        raise DataError(f"{folder}: has {names}; give the one that is meant")
    (path,) = files[split]
    data = _parse(_text(path), str(path), replace(options, split=None))
    return replace(data, name=str(folder), split=split)


def _is_lines(path: Path) -> bool:
    return path.name.endswith((".jsonl", ".jsonl.gz")) and not path.name.startswith(".") and is_file(path)


def _read_mrqa(folder: Path, paths: Sequence[Path], options: _Options) -> Data:
    """Reads MRQA's files, one per data set, as one; refuses questions that stand in two of them."""
    parts = [_parse(_text(path), str(path), options) for path in paths]
    for path, part in zip(paths, parts, strict=True):
        if not isinstance(part, QuestionData) or part.style != "mrqa":
            raise DataError(f"{folder}: {path.name} is not in MRQA's form, as a folder of several files has to be")
    data = replace(joined(parts), name=str(folder))
    unique([example.id for example in data.examples], str(folder))
    return data


def _files_by_split(folder: Path) -> dict[str, list[Path]]:
    """Returns the data files in `folder` that are named after a split, by split."""
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        split = path.name.split(".", 1)[0]
        if path.suffix in _FILE_ENDINGS and is_split(split) and is_file(path):
            files.setdefault(split, []).append(path)
    return files


def _text(path: Path) -> str:
    content = read_bytes(path, limit=_LARGEST)
    if content.startswith(_GZIP):
        content = _decompressed(content, path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is no UTF-8 text (byte {error.start}); expected JSON, JSON lines or TSV") from error
    if not text.strip():
        raise DataError(f"{path}: is empty")
    return text


def _decompressed(content: bytes, path: Path) -> bytes:
    """Decompresses gzip as a stream, which is refused when it exceeds any text."""
    parts: list[bytes] = []
    total, remaining = 0, content
    try:
        while remaining.startswith(_GZIP):  # a file may hold several streams
            stream = zlib.decompressobj(wbits=31)
            while not stream.eof:
                parts.append(stream.decompress(remaining, _CHUNK))
                total, remaining = total + len(parts[-1]), stream.unconsumed_tail
                if total > _LARGEST or total > max(_BEFORE_RATIO, _LARGEST_RATIO * len(content)):
                    raise DataError(
                        f"{path}: {len(content):,} bytes of gzip hold more than {total:,}; no text does that"
                    )
                if not parts[-1] and not remaining and not stream.eof:
                    raise DataError(f"{path}: the gzip file is damaged or cut off: it ends early; fetch it again")
            remaining = stream.unused_data
    except zlib.error as error:
        raise DataError(f"{path}: the gzip file is damaged or cut off: {error}; fetch it again") from error
    return b"".join(parts)


def _parse(text: str, name: str, options: _Options) -> Data:
    if text.lstrip()[0] not in "{[":
        return _parse_table(text, name, options)
    lines = text.strip().split("\n")
    if len(lines) > 1 and _is_json(lines[0]):
        parsed = (_json(line, f"{name}: line {n}") for n, line in enumerate(lines, 1) if line.strip())
        first = decode_json(lines[0], object)
        if isinstance(first, dict) and not {"qas", "header"} & set(first):
            return _of_rows(_objects(parsed, name), name, options)
        return _told_nothing(mrqa_questions(parsed, name), options)
    root = _json(text, name)
    if isinstance(root, dict) and {"qas", "header"} & set(root):
        return _told_nothing(mrqa_questions([root], name), options)
    rows = [root] if isinstance(root, dict) and is_heading(list(root)) else root
    version = ""
    if isinstance(root, dict) and isinstance(root.get("data"), list):
        rows, version = root["data"], str(root.get("version", ""))
    if isinstance(rows, list) and rows and all(isinstance(row, dict) and "paragraphs" not in row for row in rows):
        return _of_rows(rows, name, options, version=version)
    return _told_nothing(squad_questions(root, name), options)


def _parse_table(text: str, name: str, options: _Options) -> Data:
    text = text.lstrip("\r\n")
    first = text.split("\n", 1)[0].rstrip("\r")
    task = None if options.dataset is None else task_of(options.dataset)
    official = is_glue(text, name) if task is None else task is not OWN and not _has_hub_columns(first, task)
    if "\t" in first and options.split is None and official:
        return glue_texts(text, name, dataset=options.dataset)
    table = read_table(text, name)
    if table is None:
        begins = f"it begins with '{clipped(text, 40)}'"
        if "\t" in first:
            return glue_texts(text, name)
        if "," in first or ";" in first:
            raise DataError(f"{name}: CSV without headings that are known; expected {EXPECTED}; {begins}")
        raise DataError(f"{name}: neither JSON nor tab-separated nor CSV: {begins}")
    rows, notes = table
    data = _of_rows(rows, name, options)
    return replace(data, notes=(*notes, *data.notes))


def _has_hub_columns(first: str, task: GlueTask) -> bool:
    """Says whether a TSV has the columns that `datasets` has for `task`, not those of the official files."""
    headings = set(first.split("\t"))
    return task.label not in headings and {*task.hub, "label"} <= headings


def _of_rows(rows: Sequence[dict[str, Any]], name: str, options: _Options, *, version: str = "") -> Data:
    return rows_data(rows, name, dataset=options.dataset, split=options.split, purpose=options.purpose, version=version)


def _objects(lines: Iterable[Any], name: str) -> list[dict[str, Any]]:
    objects = []
    for number, line in enumerate(lines, 1):
        if not isinstance(line, dict):
            raise DataError(f"{name}: line {number}: expected an object; found {type(line).__name__}")
        objects.append(line)
    return objects


def _told_nothing(data: Data, options: _Options) -> Data:
    """Refuses options that SQuAD's and MRQA's files do not have."""
    if options.dataset is not None:
        raise UsageError(f"--dataset {options.dataset} is for GLUE; {data.name} is JSON")
    if options.split is not None:
        raise DataError(f"{data.name}: has no parts, so no split '{clipped(options.split)}'")
    return data


def _is_json(line: str) -> bool:
    try:
        decode_json(line, object)
    except ReadingError:
        return False
    return True


def _json(text: str, where: str) -> Any:
    if len(text) > _MOST_VALUES and (count := sum(map(text.count, ",[{"))) > _MOST_VALUES:
        raise DataError(f"{where}: {count:,} values in one piece of JSON; at most {_MOST_VALUES:,} are read")
    try:
        return decode_json(text, object)
    except ReadingError as error:
        raise DataError(f"{where}: {error}") from error
