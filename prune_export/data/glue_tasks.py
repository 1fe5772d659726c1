"""The GLUE tasks (Wang et al. 2018): columns of the official files, labels in order, metrics.

Labels are in the order of the `datasets` library's GLUE, which trained most published classifiers: for MNLI that is
entailment, neutral, contradiction (the BERT repository's own reader has contradiction, entailment, neutral). A model whose
config.json names its classes is read by those names instead; see `model_classes`.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

Metric = Literal["accuracy", "f1", "matthews_correlation", "pearson", "spearmanr"]


@dataclass(frozen=True, slots=True)
class GlueTask:
    """One task.

    `text`, `pair` and `label` are headings of the official TSV files (`pair` None: one text); `hub` are the text columns of
    the `datasets` library. `labels` is empty for a regression; in files a label is its name or its index. `header` False:
    the files have no headings, and columns are numbers. `skip_short`: rows that lack columns are left out, as in the
    official reader.
    """

    name: str
    hub: tuple[str, ...]
    labels: tuple[str, ...]
    text: str = "sentence1"
    pair: str | None = "sentence2"
    label: str = "label"
    metrics: tuple[Metric, ...] = ("accuracy",)
    header: bool = True
    skip_short: bool = False


_PAIR = ("sentence1", "sentence2")
_TASKS = (
    GlueTask(
        "cola",
        ("sentence",),
        ("unacceptable", "acceptable"),
        text="3",
        pair=None,
        label="1",
        metrics=("matthews_correlation",),
        header=False,
    ),
    GlueTask("sst2", ("sentence",), ("negative", "positive"), text="sentence", pair=None),
    GlueTask(
        "mrpc",
        _PAIR,
        ("not_equivalent", "equivalent"),
        text="#1 String",
        pair="#2 String",
        label="Quality",
        metrics=("accuracy", "f1"),
    ),
    GlueTask(
        "qqp",
        ("question1", "question2"),
        ("not_duplicate", "duplicate"),
        text="question1",
        pair="question2",
        label="is_duplicate",
        metrics=("accuracy", "f1"),
        skip_short=True,
    ),
    GlueTask("stsb", _PAIR, (), label="score", metrics=("pearson", "spearmanr")),
    GlueTask("mnli", ("premise", "hypothesis"), ("entailment", "neutral", "contradiction"), label="gold_label"),
    GlueTask("qnli", ("question", "sentence"), ("entailment", "not_entailment"), text="question", pair="sentence"),
    GlueTask("rte", _PAIR, ("entailment", "not_entailment")),
    GlueTask("wnli", _PAIR, ("not_entailment", "entailment")),  # RTE's headings, the other order of labels
)
GLUE_TASKS: dict[str, GlueTask] = {task.name: task for task in _TASKS}

# A user's own data: labels are the model's classes, by name or number, or a regression's numbers.
OWN = GlueTask("classification", (), (), text="", pair=None, label="")
OWN_NUMBERS = GlueTask("regression", (), (), text="", pair=None, label="", metrics=("pearson", "spearmanr"))
OWN_NAME = "own"  # what --dataset calls them

MISMATCHED = ("mnli-mm", "mnli_mismatched")

# What people write, beside the names above.
_OTHER_NAMES = {"sst-2": "sst2", "sts-b": "stsb", "mnli-m": "mnli", "mnli-mm": "mnli"}
_OTHER_NAMES |= {"mnli_matched": "mnli", "mnli_mismatched": "mnli"}


def glue_task(name: str) -> GlueTask | None:
    """Returns the task called `name`, in any case and spelling that is in use ("SST-2", "sst2"), or None."""
    lower = name.lower()
    return GLUE_TASKS.get(_OTHER_NAMES.get(lower, lower))


_SYNONYMS = {"neg": "negative", "pos": "positive", "nonentailment": "notentailment", "contradictory": "contradiction"}


def normalized_name(name: str) -> str:
    """Normalizes a class's name: without case, spaces, `_` and `-`, letters composed, synonyms replaced."""
    plain = re.sub(r"[\s_-]+", "", unicodedata.normalize("NFC", name.casefold()))
    return _SYNONYMS.get(plain, plain)
