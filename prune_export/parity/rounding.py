"""What roundings alone do to a network's answers: the network in float64, and with its weights rounded anew."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from prune_export.network.opening import Batch, Outputs, torch_runner

_EPSILON = 2**-24  # the largest relative error of a number that is rounded to float32
_DRAWS = 3


def rounded_runs(
    load: Callable[[], nn.Module], inputs: tuple[str, ...], outputs: tuple[str, ...]
) -> Callable[[Batch], list[Outputs]]:
    """Returns a function that runs the model of `load` in float64: as it is, then with its weights rounded in three ways.

    Each weight is multiplied by 1 + 2⁻²⁴ n, where n is normally distributed. The model is loaded when the function is first
    called.
    """
    models: list[nn.Module] = []

    def run(batch: Batch) -> list[Outputs]:
        if not models:
            models.append(load().double())
        (model,) = models
        answer = torch_runner(model, inputs, outputs)
        found = [answer(batch)]
        for seed in range(_DRAWS):
            _scale(model, seed, Tensor.mul_)
            found.append(answer(batch))
            _scale(model, seed, Tensor.div_)
        return found

    return run


def _scale(model: nn.Module, seed: int, operation: Callable[[Tensor, Tensor], object]) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator).to(parameter)
            operation(parameter, 1 + _EPSILON * noise)
