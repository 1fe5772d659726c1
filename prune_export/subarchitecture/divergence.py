"""The error of a candidate: how far its answers are from those of the unpruned network."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from exporters.encoder import Encoder
from exporters.errors import WeightsError
from prune_export.checkpoint.load import Checkpoint
from prune_export.slim_model.model import slim_module
from prune_export.subarchitecture.state_similarity import answers_divergence

Run = Callable[[Mapping[str, Tensor]], Any]


class Divergence:
    """The mean over examples of KL(unpruned network ‖ candidate) on `batches`; see `answers_divergence`.

    The unpruned network's answers are kept, so that a candidate costs one forward pass.
    """

    def __init__(self, checkpoint: Checkpoint, batches: Sequence[Mapping[str, Tensor]], *, device: str = "cpu") -> None:
        self.checkpoint, self.batches, self.device = checkpoint, batches, device
        self.examples = sum(len(batch["input_ids"]) for batch in batches)
        run = self._runner(checkpoint.encoder)
        self._answers = [run(batch) for batch in batches]

    def of(self, encoder: Encoder) -> float:
        """Returns the divergence of a network."""
        return self.of_answers(self._runner(encoder))

    def of_answers(self, run: Run) -> float:
        """Returns the divergence of a network that `run` runs: it gives outputs by name for a batch of int64 tensors.

        Raises:
            WeightsError: it is no finite number.
        """
        task = self.checkpoint.task
        total = 0.0
        for batch, answers in zip(self.batches, self._answers, strict=True):
            total += float(answers_divergence(task, run(batch), answers, batch["attention_mask"])) * len(
                batch["input_ids"]
            )
        if not math.isfinite(total):
            raise WeightsError(
                f"'{self.checkpoint.source.name}': a candidate's answers are not finite; give more examples"
            )
        return total / self.examples

    def _runner(self, encoder: Encoder) -> Run:
        model = slim_module(self.checkpoint, encoder).to(self.device)

        def run(batch: Mapping[str, Tensor]) -> Any:
            with torch.no_grad():
                outputs = model(**{name: batch[name].to(self.device) for name in encoder.inputs})
            return {name: outputs[name].cpu() for name in encoder.outputs}

        return run
