"""Runs a search over shapes: networks whose layers are all alike and have one width, judged with inherited weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from prune_export.checkpoint.load import Checkpoint
from prune_export.options.search import SearchOptions
from prune_export.pruning.file_size import file_bytes
from prune_export.pruning.latency_cache import timing_settings
from prune_export.subarchitecture.divergence import Divergence
from prune_export.subarchitecture.evaluation_journal import Journal
from prune_export.subarchitecture.evolution import Judged, evolve
from prune_export.subarchitecture.front_point import Costs, FrontPoint, SearchFront
from prune_export.subarchitecture.measured_front import Measuring, Nominee, measure_front
from prune_export.subarchitecture.pareto import spread
from prune_export.subarchitecture.plain_config import plain_shapes
from prune_export.subarchitecture.search_data import SearchData
from prune_export.subarchitecture.shape import Shape, shape_of
from prune_export.subarchitecture.shape_latency import ShapeLatency, measure_shapes
from prune_export.subarchitecture.shape_moves import ShapeMoves, first_shapes
from prune_export.subarchitecture.space import Space
from prune_export.subarchitecture.uniform_networks import UniformNetworks, exported

_FIRST = 0.5  # of the evaluations: shapes all over the space; the others are neighbours of the front


class UniformSearch:
    """A search over the shapes of a `space`, for plain networks made of one checkpoint."""

    def __init__(
        self, checkpoint: Checkpoint, data: SearchData, options: SearchOptions, journal: Journal, space: Space
    ) -> None:
        self.checkpoint, self.data, self.options, self.journal = checkpoint, data, options, journal
        self.progress = options.progress
        self.parent = shape_of(checkpoint.family.dimensions(checkpoint.config))
        self.shapes = tuple(shape for shape in plain_shapes(checkpoint, space) if shape != self.parent)
        self.settings = timing_settings(checkpoint.encoder, options)
        self.latency = self._latency()
        self.networks = UniformNetworks(checkpoint, data, options)

    def _latency(self) -> ShapeLatency:
        def measure() -> Any:
            table = measure_shapes(
                self.checkpoint.encoder, self.parent, self.shapes, self.settings, progress=self.progress
            )
            return msgspec.to_builtins(table)

        return msgspec.convert(self.journal.once(["tables"], measure), ShapeLatency)

    def run(self) -> SearchFront:
        """Searches, and measures the front.

        Raises:
            OutputError: the journal cannot be written.
        """
        options = self.options
        judge = Divergence(self.checkpoint, self.data.search.batches, device=options.device)
        every: list[Judged[Shape]] = []

        def judged(shape: Shape, _front: Sequence[Judged[Shape]]) -> Judged[Shape]:
            def evaluate() -> dict[str, float]:
                network = self.networks.estimated(shape)
                size = file_bytes(exported(network), self.settings["target"], self.settings["dtype"])
                return {"divergence": max(0.0, judge.of(network.encoder)), "bytes": size}

            found = self.journal.once([*shape], evaluate)
            every.append(Judged(shape, found["divergence"], self.latency.total(shape), found["bytes"]))
            return every[-1]

        evaluations = min(options.evaluations, len(self.shapes))
        self.progress.stage("Searching", evaluations)
        front = evolve(
            first_shapes(self.shapes, self.parent, self.latency.total, math.ceil(_FIRST * evaluations)),
            ShapeMoves(frozenset(self.shapes)),
            judged,
            evaluations=evaluations,
            seed=options.seed,
            progress=self.progress,
        )
        return self._measured(spread(front, options.points, lambda point: point.latency_ms), every)

    def _measured(self, front: tuple[Judged[Shape], ...], every: list[Judged[Shape]]) -> SearchFront:
        options = self.options
        measuring = Measuring(
            self.checkpoint, self.data, self.settings, max_seq_length=options.max_seq_length, labels=options.labels
        )
        nominees = map(self._nominee, front)
        points, unpruned = measure_front(measuring, self.journal, nominees, len(front), progress=self.progress)
        evaluated = tuple(
            point.candidate._asdict()
            | {"latency_ms": point.latency_ms, "bytes": point.bytes, "divergence": point.error}
            for point in every
        )
        return SearchFront(points, unpruned, len(every), evaluated)

    def _nominee(self, judged: Judged[Shape]) -> Nominee:
        predicted = Costs(judged.latency_ms, judged.bytes, judged.error)
        return self.networks.nominee(judged.candidate, predicted, self.progress)

    def write(self, point: FrontPoint, folder: Path, record: dict[str, Any]) -> None:
        """Makes the network of a point again, and writes it as a plain checkpoint.

        Raises:
            CheckpointError, OutputError: see `write_plain`.
        """
        self.networks.write(point, folder, record)
