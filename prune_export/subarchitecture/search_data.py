"""The examples of a search in three parts, of which none sees another: to fit, to search by, and to judge the front."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from itertools import pairwise

from exporters.errors import DataError
from prune_export.checkpoint.load import Checkpoint
from prune_export.data.examples import Data, part_of, sample, trainable
from prune_export.options.search import SearchOptions
from prune_export.pruning.calibration import Calibration, read_calibration, read_sources
from prune_export.tasks import LABELLED

_FIT, _SEARCH = 0.5, 0.125
_LEAST = 16  # examples in all


@dataclass(frozen=True, slots=True, eq=False)
class SearchData:
    """The three parts. `judged` are the examples of `judge`, for the official metric."""

    fit: Calibration
    search: Calibration
    judge: Calibration
    judged: Data

    @property
    def digest(self) -> str:
        """Returns the sha256 of all tokens and labels."""
        return hashlib.sha256("".join(part.digest for part in (self.fit, self.search, self.judge)).encode()).hexdigest()


def read_search_data(options: SearchOptions, checkpoint: Checkpoint) -> SearchData:
    """Draws `options.samples` examples by the seed and divides them.

    Raises:
        DataError: there are less than 16, or they are not for the model's task.
        UsageError, UnsupportedError: see `read_calibration`.
    """
    data = read_sources(options, checkpoint.task)
    if checkpoint.task in LABELLED:
        data = trainable(data)
    drawn = sample(data, options.samples, seed=options.seed)
    count = len(drawn.examples)
    if count < _LEAST:
        raise DataError(f"{drawn.name}: found {count} examples to search with; expected {_LEAST} or more")
    ends = [0, round(count * _FIT), round(count * (_FIT + _SEARCH)), count]
    parts = [part_of(drawn, start, stop) for start, stop in pairwise(ends)]
    fit, search, judge = (
        read_calibration(replace(options, calibration=part, samples=len(part.examples)), checkpoint) for part in parts
    )
    return SearchData(fit, search, judge, parts[2])
