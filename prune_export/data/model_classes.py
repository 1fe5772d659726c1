"""Which class of a model is which label of the data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from exporters.errors import UnsupportedError, UsageError
from prune_export.data.glue_tasks import GlueTask
from prune_export.files.reading import clipped

_SYNONYMS = {"neg": "negative", "pos": "positive", "non_entailment": "not_entailment", "contradictory": "contradiction"}


def class_order(task: GlueTask, config: Mapping[str, Any], *, labels: Sequence[str] | None = None) -> tuple[int, ...]:
    """For each label of `task`, in its order, the index of the model's class; empty for a regression.

    `labels` are the model's classes by name, in the model's order. Without them config.json's `id2label` decides where it
    has the labels' names (in any case, "NEG" for "negative" too); where it has none (`LABEL_0`, …), the model's order is
    taken to be the task's own.

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
    if labels is not None:
        given = [plain_name(label) for label in labels]
        if sorted(given) != sorted(task.labels):
            raise UsageError(
                f"--labels {' '.join(labels)}: expected the labels of {task.name} in some order: {expected}"
            )
        if len(given) != len(names):
            raise UnsupportedError(f"{task.name} has {len(given)} labels; the model has {len(names)} classes")
        return tuple(given.index(label) for label in task.labels)
    if len(names) != len(task.labels):
        raise UnsupportedError(
            f"{task.name} has {len(task.labels)} labels ({expected}); the model has {len(names)} classes: "
            f"{clipped(', '.join(names))}"
        )
    plain = [plain_name(name) for name in names]
    if sorted(plain) == sorted(task.labels):
        return tuple(plain.index(label) for label in task.labels)
    if all(re.fullmatch(r"(label_)?\d+", name) for name in plain):
        return tuple(range(len(names)))
    raise UnsupportedError(
        f"the model's classes are called {clipped(', '.join(names))}; {task.name} has {expected}. Say which class is which "
        "with --labels, in the model's order"
    )


def class_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The model's classes by name, in order: `id2label`, or LABEL_0, … where config.json has none."""
    found = config.get("id2label")
    if isinstance(found, dict) and found:
        return tuple(str(found[key]) for key in sorted(found, key=int))
    count = config.get("num_labels")
    return tuple(f"LABEL_{index}" for index in range(2 if count is None else int(count)))


def plain_name(name: str) -> str:
    """A class's name in lower case, without spaces, and by the tasks' own word where it has several."""
    lower = re.sub(r"[\s-]+", "_", name.strip().lower())
    return _SYNONYMS.get(lower, lower)
