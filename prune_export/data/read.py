"""Reads a data set whatever its form: the content decides, not the file's name."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

from exporters.errors import DataError, UsageError
from prune_export.data.examples import Data
from prune_export.data.glue import glue_texts
from prune_export.data.hub import is_saved, read_named, read_saved
from prune_export.data.mrqa import mrqa_questions
from prune_export.data.squad import squad_questions
from prune_export.files.reading import ReadingError, clipped, decode_json, is_file, read_bytes, user_path

DATA_TASKS = ("question-answering", "text-classification")
_LARGEST = 2 << 30  # of text; the largest set of MRQA has 1 GB
_LARGEST_RATIO = 100  # of what gzip makes of text: 3 to 10
_BEFORE_RATIO = 64 << 20
_CHUNK = 1 << 20
_MOST_VALUES = 32 << 20  # of a JSON document; each takes up to twenty times its room in the file
_GZIP = b"\x1f\x8b"
_FILE_ENDINGS = (".json", ".jsonl", ".gz", ".tsv", ".txt", ".csv")
_DEV_FILES = ("dev.tsv", "dev_matched.tsv")
_TRAIN_FILE = "train.tsv"


def read_examples(
    source: str | Path, *, task: str | None = None, dataset: str | None = None, training: bool = False
) -> Data:
    """The examples of `source`.

    `source` is a file (SQuAD JSON, MRQA JSON lines, a GLUE TSV; gzipped or not), a GLUE task's folder (its dev set; for MNLI
    the matched one), a folder of `datasets.save_to_disk`, or a name for `datasets`: `squad`, `glue:sst2:validation`.
    `training` takes the training part instead of the validation part, where a folder or a name has both.
    `task` ("question-answering" or "text-classification") is what it must be for; None: whatever it is for. `dataset` names
    the GLUE task where the content alone cannot tell.

    Raises:
        DataError: it cannot be read, or is for another task.
        UsageError: `task` or `dataset` is unknown.
        MissingDependencyError: it is a `datasets` name or folder, and `datasets` is not installed.
    """
    if task is not None and task not in DATA_TASKS:
        raise UsageError(f"--task {task}: data can be read for {' and '.join(DATA_TASKS)}")
    data = _read(source, dataset, training)
    if task is not None and data.task != task:
        raise DataError(f"{source}: is for {data.task}; expected data for {task}")
    return data


def _read(source: str | Path, dataset: str | None, training: bool) -> Data:
    try:
        path = user_path(source)
        if path.is_dir():
            return _read_folder(path, dataset, training)
        if path.exists():
            return _parse(_text(path), str(source), dataset)
    except (ReadingError, OSError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise DataError(f"{clipped(str(source), 300)}: cannot be read: {reason}") from error
    if isinstance(source, Path) or path.suffix in _FILE_ENDINGS or str(source).startswith(("/", ".", "~")):
        raise DataError(f"{source}: no such file or folder")
    return read_named(source, dataset=dataset, training=training)


def _read_folder(folder: Path, dataset: str | None, training: bool) -> Data:
    if is_saved(folder):
        return read_saved(folder, dataset=dataset, training=training)
    mismatched = dataset is not None and dataset.lower() in ("mnli-mm", "mnli_mismatched")
    names = (_TRAIN_FILE,) if training else ("dev_mismatched.tsv",) if mismatched else _DEV_FILES
    for name in names:
        if is_file(folder / name):
            return _parse(_text(folder / name), str(folder / name), dataset)
    raise DataError(
        f"{folder}: expected a file, a GLUE task's folder with {' or '.join(names)}, or a folder written by "
        "datasets.save_to_disk"
    )


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
    """What gzip made `content` of, as a stream: it ends where that is beyond any text."""
    parts: list[bytes] = []
    total, rest = 0, content
    try:
        while rest.startswith(_GZIP):  # a file may hold several streams
            stream = zlib.decompressobj(wbits=31)
            while not stream.eof:
                parts.append(stream.decompress(rest, _CHUNK))
                total, rest = total + len(parts[-1]), stream.unconsumed_tail
                if total > _LARGEST or total > max(_BEFORE_RATIO, _LARGEST_RATIO * len(content)):
                    raise DataError(
                        f"{path}: {len(content):,} bytes of gzip hold more than {total:,}; no text does that"
                    )
                if not parts[-1] and not rest and not stream.eof:
                    raise DataError(f"{path}: the gzip file is damaged or cut off: it ends early; fetch it again")
            rest = stream.unused_data
    except zlib.error as error:
        raise DataError(f"{path}: the gzip file is damaged or cut off: {error}; fetch it again") from error
    return b"".join(parts)


def _parse(text: str, name: str, dataset: str | None) -> Data:
    if text.lstrip()[0] not in "{[":
        if "\t" not in text.split("\n", 1)[0]:
            raise DataError(f"{name}: neither JSON nor tab-separated: it begins with '{clipped(text.strip(), 40)}'")
        return glue_texts(text, name, dataset=dataset)
    if dataset is not None:
        raise UsageError(f"--dataset {dataset} is for GLUE; {name} is JSON")
    lines = text.strip().split("\n")
    if len(lines) > 1 and _is_json(lines[0]):
        parsed = (_json(line, f"{name}: line {n}") for n, line in enumerate(lines, 1) if line.strip())
        return mrqa_questions(parsed, name)
    root = _json(text, name)
    if isinstance(root, dict) and {"qas", "header"} & set(root):
        return mrqa_questions([root], name)
    return squad_questions(root, name)


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
