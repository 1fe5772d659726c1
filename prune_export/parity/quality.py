"""The comparison with the original on real data, by the task's official metric."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporters.errors import DataError, UsageError
from prune_export.data.answers import judged_by_text
from prune_export.data.examples import Data, QuestionData, sample
from prune_export.data.read import read_examples
from prune_export.data.splits import Purpose
from prune_export.evaluation.evaluate_network import evaluate_network
from prune_export.evaluation.result import ModelResult
from prune_export.network.opening import Network
from prune_export.options.export import QuantizationOptions
from prune_export.options.parity import EXAMPLES, MAX_LOSS, QualityOptions
from prune_export.progress import SILENT, Progress
from prune_export.tasks import LABELLED, SPECS


@dataclass(frozen=True, slots=True)
class QualityGoal:
    """Data to judge by, and how many points of the metric (percentages) may be lost."""

    data: Data
    max_loss: float

    def metric(self, reference: ModelResult) -> str:
        """Returns the metric that decides: F1 for questions, the first of the original's for texts."""
        return SPECS[self.data.task].metric or next(iter(reference.metrics))


@dataclass(frozen=True, slots=True)
class Quality:
    """A model beside the original on the same examples; metrics in percent. `same` counts equal answers."""

    data: str
    examples: int
    metric: str
    reference: float
    found: float
    same: int
    max_loss: float
    split: str | None
    notes: tuple[str, ...]

    @property
    def loss(self) -> float:
        """Returns the points lost; negative if the model does better."""
        return self.reference - self.found

    @property
    def passed(self) -> bool:
        return self.loss <= self.max_loss

    def explain(self) -> str:
        """Returns the verdict in one line."""
        return (
            f"{self.metric} on {self.examples} examples of {self.data}: {self.found:.2f}, the original has "
            f"{self.reference:.2f}; {max(0.0, self.loss):.2f} points lost, allowed {self.max_loss:g}; "
            f"{self.same} answers are the same"
        ) + "".join(f"; {note}" for note in self.notes)

    def to_json(self) -> dict[str, Any]:
        return {
            "passed": self.passed,
            "data": self.data,
            "split": self.split,
            "examples": self.examples,
            "metric": self.metric,
            "reference": self.reference,
            "found": self.found,
            "same_answers": self.same,
            "max_loss": self.max_loss,
            "notes": list(self.notes),
        }


def check_without_data(options: QualityOptions) -> None:
    """Checks that options about data come with data; the examples to calibrate with have a `dataset` and a `limit`, too.

    Raises:
        UsageError: they do not.
    """
    given: dict[str, str | float | None] = {"--max-loss": options.max_loss}
    if not isinstance(options, QuantizationOptions) or options.calibration is None:
        given |= {"--dataset": options.dataset, "--limit": options.limit}
    for option, value in given.items():
        if options.data is None and value is not None:
            raise UsageError(f"{option} {value} is about examples, and there are none: give --data, or leave it out")


def read_goal(options: QualityOptions, task: str) -> QualityGoal | None:
    """Reads the data that sets a goal; None where there is none.

    Raises:
        DataError: it cannot be read, or is for another task.
    """
    if options.data is None:
        return None
    max_loss = MAX_LOSS if options.max_loss is None else options.max_loss
    return QualityGoal(read_sample(options.data, task, options), max_loss)


def read_sample(
    data: str | Path | Data, task: str, options: QualityOptions, *, purpose: Purpose = "evaluation"
) -> Data:
    """Reads at most `options.limit` examples of `data`, drawn by `options.seed`; of its part for `purpose`.

    Raises:
        DataError: it cannot be read, or is for another task.
    """
    if isinstance(data, str | Path):
        if task not in LABELLED:
            raise DataError(f"{data}: there are no data readers for {task}; leave --data and --calibration out")
        data = read_examples(data, task=task, dataset=options.dataset, purpose=purpose)
    return sample(data, EXAMPLES if options.limit is None else options.limit, seed=options.seed)


def judge(
    goal: QualityGoal, reference: ModelResult, network: Network, *, provider: str, progress: Progress = SILENT
) -> Quality:
    """Evaluates `network` and compares it with `reference`, the original's result on the same data."""
    result = evaluate_network(network, goal.data, provider=provider, progress=progress)
    metric = goal.metric(reference)
    notes = judged_by_text(goal.data.examples) if isinstance(goal.data, QuestionData) else result.notes
    same = sum(result.predictions[key] == answer for key, answer in reference.predictions.items())
    return Quality(
        goal.data.name,
        len(goal.data.examples),
        metric,
        reference.metrics[metric],
        result.metrics[metric],
        same,
        goal.max_loss,
        goal.data.split,
        (*goal.data.notes, *notes),
    )
