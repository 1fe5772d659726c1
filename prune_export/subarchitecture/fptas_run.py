"""Runs the published algorithm over a space of shapes, and measures the shape that it finds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from prune_export.checkpoint.load import Checkpoint
from prune_export.options.search import SearchOptions
from prune_export.pruning.latency_cache import timing_settings
from prune_export.subarchitecture.evaluation_journal import Journal
from prune_export.subarchitecture.fptas import EvaluatedShape, Hyperparameters, fptas
from prune_export.subarchitecture.front_point import FrontPoint, SearchFront
from prune_export.subarchitecture.measured_front import Measuring, measure_front
from prune_export.subarchitecture.plain_config import plain_shapes
from prune_export.subarchitecture.search_data import SearchData
from prune_export.subarchitecture.short_training import ShortTraining
from prune_export.subarchitecture.space import Space
from prune_export.subarchitecture.surrogates import operation_surrogate, parameter_surrogate
from prune_export.subarchitecture.uniform_networks import UniformNetworks

EPSILON, STEPS = 0.1, 50


class FptasSearch:
    """The published algorithm: surrogates of size and speed, and short trainings, of which the best W is taken.

    The shape that it finds is then made with inherited weights, and measured as the front of any search.
    """

    def __init__(
        self, checkpoint: Checkpoint, data: SearchData, options: SearchOptions, journal: Journal, space: Space
    ) -> None:
        self.checkpoint, self.data, self.options, self.journal = checkpoint, data, options, journal
        self.shapes = plain_shapes(checkpoint, space)
        self.settings = timing_settings(checkpoint.encoder, options)
        self.networks = UniformNetworks(checkpoint, data, options)

    def run(self) -> SearchFront:
        """Searches, and measures the best shape.

        Raises:
            UsageError: `epsilon` is out of range.
            OutputError: the journal cannot be written.
        """
        options, checkpoint, length = self.options, self.checkpoint, self.settings["sequence_length"]
        is_gated = checkpoint.family.is_gated
        result = fptas(
            self.shapes,
            (Hyperparameters(),),
            parameters=parameter_surrogate(checkpoint.encoder),
            operations=lambda shape: operation_surrogate(shape, sequence_length=length, is_gated=is_gated).total,
            error=ShortTraining(
                checkpoint,
                self.data.fit.batches,
                self.data.search.batches,
                start=self.networks.estimated if options.inherit else None,
                steps=STEPS if options.steps is None else options.steps,
                seed=options.seed,
                device=options.device,
            ),
            epsilon=EPSILON if options.epsilon is None else options.epsilon,
            journal=self.journal,
            progress=options.progress,
        )
        measuring = Measuring(
            checkpoint, self.data, self.settings, max_seq_length=options.max_seq_length, labels=options.labels
        )
        nominee = self.networks.nominee(result.best.shape, None, options.progress)
        points, unpruned = measure_front(measuring, self.journal, [nominee], 1, progress=options.progress)
        return SearchFront(points, unpruned, len(result.evaluated), tuple(map(_to_json, result.evaluated)))

    def write(self, point: FrontPoint, folder: Path, record: dict[str, Any]) -> None:
        """Makes the network of a point again, and writes it as a plain checkpoint.

        Raises:
            CheckpointError, OutputError: see `write_plain`.
        """
        self.networks.write(point, folder, record)


def _to_json(point: EvaluatedShape) -> dict[str, Any]:
    return {
        **point.shape._asdict(),
        "parameters": point.parameters,
        "operations": point.operations,
        "error": point.error if math.isfinite(point.error) else None,
        **point.hyperparameters._asdict(),
        "w": point.w,
    }
