"""Measures the points of a front as they would be used: refitted, exported, and run by ONNX Runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from prune_export.pruning.block_timing import open_session, time_in_turns
from prune_export.subarchitecture.candidate_costs import written_bytes
from prune_export.subarchitecture.divergence import Divergence
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


def as_exported(encoder: Encoder, *, is_sliced: bool) -> Encoder:
    """Returns what the surgeon makes of a refitted network; a sliced one has nothing left to remove."""
    return encoder if is_sliced else operate(encoder, plan_from_zeros(encoder))
