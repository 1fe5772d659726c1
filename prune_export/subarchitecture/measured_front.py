"""Measures the points of a front as they would be used: refitted, exported, and run by ONNX Runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from exporters.encoder import Encoder
from exporters.onnx.precision import PRECISIONS
from exporters.onnx.targets import TARGETS
from exporters.session import Session
from prune_export.checkpoint.load import Checkpoint
from prune_export.evaluation.evaluate_network import evaluate_network
from prune_export.network.opening import Network
from prune_export.options.evaluate import EvaluationSettings
from prune_export.progress import SILENT, Progress
from prune_export.pruning.block_timing import open_session, time_in_turns
from prune_export.pruning.file_size import written_bytes
from prune_export.subarchitecture.divergence import Divergence
from prune_export.subarchitecture.evaluation_journal import Journal
from prune_export.subarchitecture.front_point import (
    UNPRUNED,
    Costs,
    FrontPoint,
    PointLayer,
    PointShape,
    judged_points,
)
from prune_export.subarchitecture.search_data import SearchData
from prune_export.surgeon import operate
from prune_export.surgeon.zeros import plan_from_zeros
from prune_export.tasks import LABELLED, SPECS


@dataclass(frozen=True, slots=True)
class Measured:
    """A network as exported: its divergence and metric on the judging examples, and the bytes of its file.

    `metric` is a percentage; None for tasks without labels.
    """

    divergence: float
    metric: float | None
    bytes: int


class Measuring:
    """Measures exported networks of one checkpoint on the judging part of the data."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        data: SearchData,
        settings: Mapping[str, Any],
        *,
        max_seq_length: int | None,
        labels: Sequence[str] | None,
    ) -> None:
        """Takes the `settings` of the latency table: target, dtype, provider, threads and shape."""
        self.checkpoint, self.data, self.settings = checkpoint, data, dict(settings)
        self.evaluation = EvaluationSettings(max_seq_length=max_seq_length, labels=labels)
        self.divergence = Divergence(checkpoint, data.judge.batches)

    def measure(self, encoder: Encoder) -> Measured:
        """Exports `encoder`, runs it on all examples, and counts the bytes of its file."""
        target, precision = TARGETS[self.settings["target"]], PRECISIONS[self.settings["dtype"]]
        with tempfile.TemporaryDirectory() as name:
            path = Path(name) / "model.onnx"
            count = written_bytes(encoder, target.name, precision.name, path)
            session = Session(
                path,
                provider=self.settings["provider"],
                threads=self.settings["threads"],
                settings=target.settings(precision, encoder.embeddings.max_length),
            )

            def run(batch: Mapping[str, Tensor]) -> Any:
                outputs = session.run({name: batch[name].numpy() for name in encoder.inputs})
                return {name: torch.from_numpy(value) for name, value in outputs.items()}

            divergence = max(0.0, self.divergence.of_answers(run))
            metric = None
            if encoder.task in LABELLED:
                network = Network(
                    *("candidate", "onnx", encoder.task, self.checkpoint.source.folder),
                    *(session.inputs, session.outputs, session.run),
                )
                metrics = evaluate_network(network, self.data.judged, settings=self.evaluation).metrics
                metric = metrics[SPECS[encoder.task].metric or next(iter(metrics))]
        return Measured(divergence, metric, count)

    def latencies(self, networks: Sequence[Encoder], advance: Callable[[], None]) -> tuple[float, list[float]]:
        """Returns the milliseconds of the unpruned network and of each of `networks`, which run in turns."""
        with tempfile.TemporaryDirectory() as name:
            runs = [
                open_session(network, self.settings, Path(name)) for network in (self.checkpoint.encoder, *networks)
            ]
            return time_in_turns(runs[0], runs[1:], advance)


@dataclass(frozen=True, slots=True, eq=False)
class Nominee:
    """A network of the predicted front: `key` is its sizes for the journal, `encoder` makes the network as it is exported.

    It is made where something is to be measured, and not where the journal holds everything. The other fields are those of
    `FrontPoint`.
    """

    key: list[int | float | str]
    encoder: Callable[[], Encoder]
    layers: tuple[PointLayer, ...]
    predicted: Costs | None
    widths: tuple[int, ...] = ()
    shape: PointShape | None = None


def measure_front(
    measuring: Measuring, journal: Journal, nominees: Iterable[Nominee], count: int, *, progress: Progress = SILENT
) -> tuple[tuple[FrontPoint, ...], Costs]:
    """Measures `count` networks and the unpruned one; returns the points, p01 onwards, and the unpruned network's costs.

    What the journal holds is not measured again.

    Raises:
        OutputError: the journal cannot be written.
    """
    dense = measuring.checkpoint.encoder
    progress.stage("Refitting and measuring the front", count + 1)

    def measured(name: str, nominee: Nominee) -> Any:
        key: list[int | float | str] = [name, *nominee.key]
        found = journal.once(key, lambda: msgspec.to_builtins(measuring.measure(nominee.encoder())))
        progress.advance()
        return found

    of_unpruned = measured(UNPRUNED, Nominee([], lambda: dense, (), None))
    rows: list[tuple[str, Nominee]] = []
    found: list[Any] = []
    for index, nominee in enumerate(nominees, 1):
        rows.append((f"p{index:02d}", nominee))
        found.append(measured(*rows[-1]))

    def times() -> list[float]:
        progress.stage("Making the networks that are timed", len(rows))
        networks = []
        for _, nominee in rows:
            networks.append(nominee.encoder())
            progress.advance()
        progress.stage("Measuring latencies")
        whole, others = measuring.latencies(networks, progress.advance)
        return [whole, *others]

    key = ["latencies", *(f"{name} {nominee.key}" for name, nominee in rows)]
    whole, *latencies = journal.once(key, times)
    unpruned = _costs(whole, of_unpruned)
    points = [
        FrontPoint(
            name, nominee.layers, nominee.widths, nominee.predicted, _costs(latency, figures), shape=nominee.shape
        )
        for (name, nominee), figures, latency in zip(rows, found, latencies, strict=True)
    ]
    return judged_points(points, unpruned), unpruned


def _costs(latency_ms: float, figures: dict[str, Any]) -> Costs:
    return Costs(latency_ms, figures["bytes"], figures["divergence"], figures["metric"])


def as_exported(encoder: Encoder, *, is_sliced: bool) -> Encoder:
    """Returns what the surgeon makes of a refitted network; a sliced one has nothing left to remove."""
    return encoder if is_sliced else operate(encoder, plan_from_zeros(encoder))
