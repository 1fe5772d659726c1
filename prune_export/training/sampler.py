"""Draws the order in which a training sees its examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Generator
from torch.utils.data import Sampler

# The examples of 50 steps are drawn together and sorted: enough to save most of the padding, few enough to stay random.
_STEPS_TOGETHER = 50


class TrainingSampler(Sampler[int]):
    """Draws `count` examples in a random order, which differs from epoch to epoch.

    With `lengths`, the `step` examples of an optimiser step are of nearly the same length; the choice and the order of the
    steps are random. The order follows from `seed` and epoch alone, so that a resumed training sees the same examples.
    """

    def __init__(self, count: int, *, step: int, seed: int, lengths: Sequence[int] | None = None) -> None:
        super().__init__()
        self._count, self._step, self._seed, self._epoch = count, step, seed, 0
        self._lengths = None if lengths is None else torch.tensor(lengths)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of `epoch`; called at its start."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        generator = Generator().manual_seed(self._seed * 100_003 + self._epoch)
        drawn = torch.randperm(self._count, generator=generator)
        if self._lengths is None:
            yield from drawn.tolist()
            return
        for indices in drawn.split(self._step * _STEPS_TOGETHER):
            ordered = indices[self._lengths[indices].argsort(stable=True)]
            steps = ordered.split(self._step)
            # An incomplete step comes last: otherwise every later step would have examples of two lengths.
            whole = len(ordered) // self._step
            for index in torch.randperm(whole, generator=generator).tolist():
                yield from steps[index].tolist()
            for rest in steps[whole:]:
                yield from rest.tolist()
