"""The results of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from exporters.errors import UsageError
from exporters.tasks import Task
from prune_export.data.examples import Data, QuestionData
from prune_export.evaluation.mrqa import mrqa_metrics
from prune_export.files.reading import clipped
from prune_export.options.checking import checked

# Keys of the metrics that are no percentages.
_COUNTS = ("total", "HasAns_total", "NoAns_total", "best_exact_thresh", "best_f1_thresh")


@dataclass(frozen=True, slots=True)
class ModelResult:
    """One model's figures.

    `metrics` has the official script's keys; all but the totals and thresholds are percentages. `predictions` are answers,
    or names of labels (numbers for a regression), by the examples' ids. `null_odds` (SQuAD 2.0 only) are the na-probs of its
    script. `sequences` is the number of windows or texts that ran in `seconds`, which count neither loading nor tokenizing.
    `metric` is as for `Evaluation`. `notes` say how the data's labels were read for this model. `kind` and `form` are those
    of the network (`prune_export.network.opening.Network`). `datasets` (MRQA only) holds `exact_match`, `f1` and `total` by
    data set; `metrics` are their averages then.
    """

    model: str
    kind: str
    metrics: Mapping[str, float]
    predictions: Mapping[str, str | float]
    null_odds: Mapping[str, float] | None
    sequences: int
    seconds: float
    metric: str
    notes: tuple[str, ...] = ()
    form: str | None = None
    datasets: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Returns the result without predictions and odds, which have files of their own."""
        return {
            "model": self.model,
            "kind": self.kind,
            "form": self.form,
            "metrics": dict(self.metrics),
            "datasets": {name: dict(scores) for name, scores in self.datasets.items()},
            "sequences": self.sequences,
            "seconds": round(self.seconds, 3),
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The results of all models on one data set.

    `metric` names the source of the metrics: "squad", "squad_v2", "mrqa", "sst2", …, or "classification" and "regression"
    for the user's own texts. `split` is the split that was read (None: the data has none). `examples` of `total` were
    judged, drawn by `seed` (None: all). `notes` say what the reader left out or mended.
    """

    data: str
    task: Task
    metric: str
    examples: int
    results: tuple[ModelResult, ...]
    split: str | None
    total: int
    seed: int | None
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns the evaluation as `--json` prints it."""
        return {
            "data": self.data,
            "split": self.split,
            "task": self.task,
            "metric": self.metric,
            "examples": self.examples,
            "total": self.total,
            "seed": self.seed,
            "notes": list(self.notes),
            "results": [result.to_json() for result in self.results],
        }

    @checked
    def below(self, limits: Mapping[str, float]) -> tuple[str, ...]:
        """Returns a line for each model and metric whose value is below its limit; `limits` are by metric.

        Raises:
            UsageError: there is no such metric.
        """
        for result in self.results:
            if unknown := [name for name in limits if name not in result.metrics]:
                raise UsageError(
                    f"no metric is called {clipped(unknown[0])}; {self.data} gives {', '.join(result.metrics)}"
                )
        return tuple(
            f"{result.model}: {name} is {result.metrics[name]:.2f}, below {limit:g}"
            for result in self.results
            for name, limit in limits.items()
            if result.metrics[name] < limit
        )


def metric_of(data: Data) -> str:
    """Returns the name of the source of the metrics by which `data` is judged."""
    return data.style if isinstance(data, QuestionData) else data.glue.name


def percentages(data: Data) -> tuple[str, ...]:
    """Returns the names of the metrics of `data` for which a limit can be set."""
    if not isinstance(data, QuestionData):
        return data.glue.metrics
    if data.style == "mrqa":
        return mrqa_metrics(data.examples)
    if data.style == "squad":
        return ("exact_match", "f1")
    keys = ["exact", "f1"]
    if any(example.answers for example in data.examples):
        keys += ["HasAns_exact", "HasAns_f1"]
    if not all(example.answers for example in data.examples):
        keys += ["NoAns_exact", "NoAns_f1"]
    return (*keys, "best_exact", "best_f1")


def is_count(metric: str) -> bool:
    """Says whether `metric` is a total or a threshold, not a percentage."""
    return metric in _COUNTS
