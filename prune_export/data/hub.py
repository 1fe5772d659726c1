"""Data sets of the `datasets` library: by the hub's name, or saved in a folder by `save_to_disk`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from exporters.errors import DataError, MissingDependencyError
from exporters.secrets import holds_secret
from prune_export.data.allowed import check_builder, check_name, check_saved
from prune_export.data.examples import Data, Question, QuestionData, Text, TextData
from prune_export.data.fields import unique
from prune_export.data.glue import label_of, named_task
from prune_export.data.glue_tasks import GLUE_TASKS, GlueTask, glue_task
from prune_export.hub_token import register_stored_token

_SPLITS = ("validation", "validation_matched", "dev", "test", "train")
_SAVED = ("dataset_info.json", "dataset_dict.json")


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote `folder`."""
    return any((folder / name).is_file() for name in _SAVED)


def read_saved(folder: Path, *, dataset: str | None = None, training: bool = False) -> Data:
    """The examples of a saved data set; of a `DatasetDict`, its validation split (`training`: its train split).

    Raises:
        DataError, UsageError, MissingDependencyError: as for `read_named`.
    """
    library = _library()
    check_saved(folder)
    try:
        found = library.load_from_disk(str(folder))
    except Exception as error:  # the library raises many kinds for what it cannot read
        raise DataError(f"{folder}: datasets cannot load it: {' '.join(str(error).split())[:300]}") from error
    return _convert(_split_of(found, str(folder), training), str(folder), dataset)


def read_named(name: str, *, dataset: str | None = None, training: bool = False) -> Data:
    """The examples of `name`, `name:split`, `name:config` or `name:config:split`, e.g. `squad`, `glue:sst2:validation`.

    Without a split, the validation split (`training`: the train split). `dataset` says which GLUE task it is where the
    name does not.

    Raises:
        DataError: it cannot be loaded, or has the columns of no task.
        UsageError: `dataset` names no GLUE task.
        MissingDependencyError: `datasets` is not installed.
    """
    if holds_secret(name):
        raise DataError("the data set's name holds what looks like a token or a password; set HF_TOKEN instead")
    path, *rest = name.split(":")
    if len(rest) > 2 or not all([path, *rest]):
        raise DataError(f"'{name}': expected NAME, NAME:SPLIT, NAME:CONFIG or NAME:CONFIG:SPLIT")
    split = rest.pop() if rest and (len(rest) == 2 or rest[-1].startswith(_SPLITS)) else None
    config = rest[0] if rest else None
    check_name(path, name)
    library = _library()
    if not Path(library.config.HF_DATASETS_CACHE).is_absolute():  # "~" stands in it: a folder would be called that
        raise DataError(f"'{name}': there is no home to keep downloads in; set HF_HOME")
    register_stored_token()
    try:
        builder = library.load_dataset_builder(path, config)
        check_builder(builder, name)
        builder.download_and_prepare()
        found = builder.as_dataset(split=split)
    except DataError:
        raise
    except Exception as error:  # from the network, the hub and the library: many kinds
        raise DataError(
            f"'{name}': no such file, and datasets cannot load it by that name: {' '.join(str(error).split())[:300]}"
        ) from error
    return _convert(
        _split_of(found, name, training), name, dataset or (config if config and glue_task(config) else None)
    )


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingDependencyError(
            "data sets by name need the datasets library: pip install 'prune-export[evaluate]'"
        ) from error
    return datasets


def _split_of(found: Any, name: str, training: bool) -> Any:
    if not isinstance(found, dict):
        return found
    for split in ("train",) if training else _SPLITS:
        if split in found:
            return found[split]
    raise DataError(f"{name}: has the splits {', '.join(found)}; say which one: {name}:SPLIT")


def _convert(rows: Any, name: str, dataset: str | None) -> Data:
    columns = set(rows.column_names)
    if not len(rows):
        raise DataError(f"{name}: no example in it")
    if {"question", "context", "answers"} <= columns:
        return _questions(rows, name)
    return _texts(rows, name, named_task(dataset) if dataset else _recognised(rows, columns, name))


def _stored(rows: Any) -> Iterator[dict[str, Any]]:
    """The rows as they are stored: a column of pictures or sounds names files and addresses, which decoding would open."""
    for part in rows.with_format("arrow").iter(1000):
        yield from part.to_pylist()


def _questions(rows: Any, name: str) -> QuestionData:
    questions = []
    for number, row in enumerate(_stored(rows)):
        context, answers = row["context"], row["answers"]
        if not isinstance(answers, dict) or not {"text", "answer_start"} <= set(answers):
            raise DataError(f"{name}: example {number}: 'answers' needs 'text' and 'answer_start'")
        placed = zip(answers["text"], answers["answer_start"], strict=True)
        spans = tuple((start, start + len(text)) for text, start in placed if context.startswith(text, start))
        identifier = str(row.get("id", number))
        questions.append(Question(identifier, row["question"], context, tuple(answers["text"]), spans))
    unique([question.id for question in questions], name)
    complete = all(question.answers for question in questions)
    return QuestionData(name, "squad" if complete else "squad_v2", tuple(questions))


def _recognised(rows: Any, columns: set[str], name: str) -> GlueTask:
    named = glue_task(str(rows.info.config_name))
    if named is not None:
        return named
    fitting = [task for task in GLUE_TASKS.values() if "label" in columns and set(task.hub) <= columns]
    found = ", ".join(rows.column_names)
    if not fitting:
        raise DataError(
            f"{name}: has the columns {found}; expected those of SQuAD (question, context, answers) or GLUE"
        )
    if len(fitting) > 1:
        tasks = ", ".join(task.name for task in fitting)
        raise DataError(f"{name}: the columns {found} fit several tasks; say which with --dataset: {tasks}")
    return fitting[0]


def _texts(rows: Any, name: str, task: GlueTask) -> TextData:
    missing = sorted({*task.hub, "label"} - set(rows.column_names))
    if missing:
        raise DataError(f"{name}: no column {', '.join(missing)}, which {task.name} has")
    names = getattr(rows.features["label"], "names", None)
    examples = []
    for number, row in enumerate(_stored(rows)):
        label = row["label"]
        if names and isinstance(label, int) and 0 <= label < len(names) and set(names) == set(task.labels):
            label = names[label]
        value = label_of(task, label, f"{name}: example {number}")
        pair = row[task.hub[1]] if len(task.hub) == 2 else None
        examples.append(Text(str(number), row[task.hub[0]], pair, value))
    return TextData(name, task, tuple(examples))
