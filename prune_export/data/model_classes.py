"""The model's class for each label of the data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from exporters.errors import UnsupportedError, UsageError
from prune_export.data.examples import TextData
from prune_export.data.glue_tasks import OWN, OWN_NAME, OWN_NUMBERS, GlueTask, normalized_name
from prune_export.data.labels import are_class_numbers, are_numbers
from prune_export.files.reading import clipped

_MOST_UNSEEN = 10  # as many numbers of classes as labels that are there


def with_classes(
    data: TextData, config: Mapping[str, Any], *, labels: Sequence[str] | None = None
) -> tuple[TextData, tuple[int, ...]]:
    """Returns `data` with labels of the model's configuration, and the model's class per label (none for a regression).

    GLUE's data do not change. The words of a user's own data become the model's classes: by name, without regard to case,
    spaces, `_` and `-`, or by number. If the model has one output, they are numbers to be predicted. `labels` are the
    model's classes by name, in the model's order, in place of those in config.json.

    Raises:
        UsageError: `labels` are not those of the task.
        UnsupportedError: labels are none of the model's classes, or may mean different ones.
    """
    if data.glue != OWN:
        order = class_order(data.glue, config, labels=labels)
        if order and labels is None and _say_nothing(class_names(config)):
            note = (
                f"the model's classes have no names; taken for {', '.join(data.glue.labels)}, in the order of datasets"
            )
            data = replace(data, notes=(*data.notes, note))
        return data, order
    names = class_names(config)
    if labels is not None and len(labels) != len(names):
        raise UsageError(f"--labels {' '.join(labels)}: expected {len(names)}, one for each of the model's classes")
    words = data.words or tuple(dict.fromkeys(str(example.label) for example in data.examples))
    _check_unlabelled(data, words, names if labels is None else labels)
    if len(names) == 1:
        if not are_numbers(words):
            raise UnsupportedError(
                f"the model has one output, for numbers; {data.name} has the labels {_listed(words)}"
            )
        numbers = tuple(replace(example, label=float(example.label)) for example in data.examples)
        return replace(data, glue=OWN_NUMBERS, examples=numbers, words=()), ()
    names = names if labels is None else tuple(labels)
    classes, notes = _own_classes(data, words, names, named=labels is not None)
    examples = tuple(replace(example, label=classes[str(example.label)]) for example in data.examples)
    bound = replace(data, glue=replace(OWN, labels=names), examples=examples, notes=(*data.notes, *notes), words=())
    return bound, tuple(range(len(names)))


def refuse_labels(labels: Sequence[str] | None) -> None:
    """Refuses `labels` for question answering.

    Raises:
        UsageError: there are.
    """
    if labels is not None:
        raise UsageError(f"--labels {' '.join(labels)}: question answering has no classes; leave it out")


def _own_classes(
    data: TextData, words: Sequence[str], names: Sequence[str], *, named: bool
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Returns the model's class per word, and notes. `named`: the user gave the names."""
    by_name = {word: index for word in words if (index := _named(word, names)) is not None}
    unnamed = _say_nothing(names)
    if unnamed and len(names) == 2 and {word.lower() for word in words} <= {"false", "true"}:
        return {word: int(word.lower() == "true") for word in words}, ()
    if not are_class_numbers(words):
        if foreign := [word for word in words if word not in by_name]:
            hint = "; a score needs a model with one output" if are_numbers(foreign) else ""
            raise UnsupportedError(
                f"{data.name}: the labels {_listed(foreign)} are none of the model's classes: {_listed(names)}{hint}. Say "
                "with --labels what the data call the model's classes, in the model's order"
            )
        return by_name, ()
    by_number = {word: int(word) for word in words}
    message = f"{data.name}: the labels are the numbers {_listed(sorted(words, key=int))}"
    if len(by_name) == len(words):
        if max(by_number.values()) < len(names) and by_name != by_number and not named:
            raise UnsupportedError(
                f"{message}, which are names of the model's classes and their numbers as well: {_listed(names)}; write "
                "names that are no numbers"
            )
        return by_name, ()
    if max(by_number.values()) >= len(names):
        raise UnsupportedError(f"{message}; the model has {len(names)} classes: {_listed(names)}")
    if max(by_number.values()) + 1 < len(names) and not data.declared:
        raise UnsupportedError(
            f"{message}; the model has {len(names)} classes: {_listed(names)}. If they are their numbers all the same, say "
            f"so with --dataset {OWN_NAME}"
        )
    if unnamed and data.renumbered:
        raise UnsupportedError(
            f"{data.name}: its classes are called {_listed(data.renumbered)}, in this order, and the model's have no "
            "names: nothing says whether they are its numbers by name or by place. Say with --labels what the data call "
            "them, in the model's order"
        )
    if unnamed:
        return by_number, ()
    meant = ", ".join(f"{word} = {names[int(word)]}" for word in sorted(words, key=int)[:6])
    return by_number, (f"labels are read as the numbers of the model's classes: {meant}{', …' * (len(words) > 6)}",)


def _check_unlabelled(data: TextData, words: Sequence[str], names: Sequence[str]) -> None:
    """Refuses data whose unlabelled rows may have a label: a class or score of this model that is written like none."""
    own = [word for word in data.unlabelled if _named(word, names) is not None]
    may_be_class = _say_nothing(names) and len(words) + 1 == len(names)
    if not own and "-1" in {word.removesuffix(".0") for word in data.unlabelled} and (len(names) == 1 or may_be_class):
        own = ["-1"]
    if own:
        raise UnsupportedError(
            f"{data.name}: rows with the label '{own[0]}' were taken for unlabelled, as in many data sets, but here that "
            f"may be {'a score' if len(names) == 1 else 'a class'}; leave the cells of unlabelled rows empty, and write "
            "classes as other names, or as numbers from 0"
        )


def _named(word: str, names: Sequence[str]) -> int | None:
    """Returns the index of the class called `word`: exactly, or otherwise without regard to case and separators."""
    exact = [index for index, name in enumerate(names) if name == word]
    plain = [index for index, name in enumerate(names) if normalized_name(name) == normalized_name(word)]
    matches = exact or plain
    return matches[0] if len(matches) == 1 else None


def _say_nothing(names: Sequence[str]) -> bool:
    """Says whether the names are the classes' own numbers: LABEL_0, LABEL_1, …"""
    return all(re.fullmatch(rf"(label)?{index}", normalized_name(name)) for index, name in enumerate(names))


def _listed(words: Sequence[str]) -> str:
    return clipped(", ".join(words), 120)


def class_order(task: GlueTask, config: Mapping[str, Any], *, labels: Sequence[str] | None = None) -> tuple[int, ...]:
    """Returns the index of the model's class per label of `task`, in its order; empty for a regression.

    `labels` are the model's classes by name, in the model's order. Without them, config.json's `id2label` decides if it has
    the labels' names (in any case, "NEG" for "negative" too); if it has none (`LABEL_0`, …), the model's order is taken to
    be the task's own.

    Raises:
        UsageError: `labels` are not those of the task.
        UnsupportedError: the model has another number of classes, or names that mean nothing here.
    """
    names = class_names(config)
    if not task.labels:
        if len(names) != 1:
            raise UnsupportedError(
                f"{task.name} is a regression, which needs a model with one output; found {len(names)}"
            )
        return ()
    expected = ", ".join(task.labels)
    task_labels = [normalized_name(label) for label in task.labels]
    if labels is not None:
        given = [normalized_name(label) for label in labels]
        if sorted(given) != sorted(task_labels):
            raise UsageError(
                f"--labels {' '.join(labels)}: expected the labels of {task.name} in some order: {expected}"
            )
        if len(given) != len(names):
            raise UnsupportedError(f"{task.name} has {len(given)} labels; the model has {len(names)} classes")
        return tuple(given.index(label) for label in task_labels)
    if len(names) != len(task.labels):
        raise UnsupportedError(
            f"{task.name} has {len(task.labels)} labels ({expected}); the model has {len(names)} classes: "
            f"{clipped(', '.join(names))}"
        )
    plain = [normalized_name(name) for name in names]
    if sorted(plain) == sorted(task_labels):
        return tuple(plain.index(label) for label in task_labels)
    if _say_nothing(names):
        return tuple(range(len(names)))
    raise UnsupportedError(
        f"the model's classes are called {clipped(', '.join(names))}; {task.name} has {expected}. Say which class is which "
        "with --labels, in the model's order"
    )


def new_classes(data: TextData) -> tuple[str, ...] | int:
    """Returns the classes of a new head for `data`: their names, or their number if labels are numbers; 1 for a regression.

    Raises:
        UnsupportedError: the labels are numbers that no classes have.
    """
    if data.glue != OWN:
        return data.glue.labels or 1
    if not are_numbers(data.words):
        by_plain: dict[str, str] = {}
        for word in sorted(data.words):
            by_plain.setdefault(normalized_name(word), word)
        return tuple(by_plain.values())
    if not are_class_numbers(data.words):
        return 1
    count = max(map(int, data.words)) + 1
    if count > max(_MOST_UNSEEN * len(data.words), 2):
        raise UnsupportedError(
            f"{data.name}: the labels are {len(data.words)} numbers up to {count - 1:,}; expected those of classes, from 0"
        )
    return max(count, 2)


def class_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the model's classes by name, in order: `id2label`, or LABEL_0, … if config.json has none.

    Raises:
        UnsupportedError: the numbers in `id2label` are not 0, 1, … without gaps.
    """
    id2label = config.get("id2label")
    if isinstance(id2label, dict) and id2label:
        keys = sorted(id2label, key=int)
        if [int(key) for key in keys] != list(range(len(keys))):
            numbers = clipped(", ".join(map(str, keys)))
            raise UnsupportedError(
                f"config.json: expected the numbers 0 to {len(keys) - 1} in id2label, which names {len(keys)} classes; "
                f"found {numbers}. Number them as the model's outputs are, from 0 and without gaps"
            )
        return tuple(str(id2label[key]) for key in keys)
    count = config.get("num_labels")
    return tuple(f"LABEL_{index}" for index in range(2 if count is None else int(count)))
