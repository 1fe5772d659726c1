"""The blocks that lose most when their linear maps multiply 8-bit integers, found by measuring."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from exporters import runtime
from exporters.encoder import Encoder
from exporters.onnx.context import Target
from exporters.onnx.precision import FP32, INT8, Quantization
from exporters.onnx.writer import quantizable_maps
from prune_export.parity.inputs import Batch
from prune_export.quantization.trials import trial_session

Outputs = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class BlockLoss:
    """One block (`layer_3/feed_forward`) in 8 bits and all else in fp32.

    `error` is the root mean square of the change in the outputs, relative to that of the outputs themselves.
    """

    block: str
    maps: tuple[str, ...]
    error: float


def quantized_blocks(encoder: Encoder, quantization: Quantization) -> dict[str, tuple[str, ...]]:
    """Returns the linear maps that `quantization` has in 8 bits, by block."""
    blocks: dict[str, tuple[str, ...]] = {}
    for name in quantizable_maps(encoder):
        if name in quantization.keep_float:
            continue
        block = name.rsplit("/", 1)[0]
        blocks[block] = (*blocks.get(block, ()), name)
    return blocks


def rank_blocks(
    encoder: Encoder,
    target: Target,
    quantization: Quantization,
    batches: Sequence[Batch],
    *,
    advance: Callable[[], None] = lambda: None,
) -> tuple[BlockLoss, ...]:
    """Measures the loss on `batches` of every block that `quantization` has in 8 bits, each alone; largest first.

    `advance` is called after each block.
    """
    every, by_token = frozenset(quantizable_maps(encoder)), not encoder.head.reads_first_token_only
    with trial_session(encoder, target, FP32) as session:
        exact = [runtime.run(session, batch) for batch in batches]
    losses = []
    for block, maps in quantized_blocks(encoder, quantization).items():
        alone = replace(quantization, keep_float=every - set(maps), embeddings=False)
        with trial_session(encoder, target, INT8, quantization=alone) as session:
            rounded = [runtime.run(session, batch) for batch in batches]
        losses.append(BlockLoss(block, maps, _relative_error(exact, rounded, batches, by_token=by_token)))
        advance()
    return tuple(sorted(losses, key=lambda loss: -loss.error))


def _relative_error(
    exact: Sequence[Outputs], rounded: Sequence[Outputs], batches: Sequence[Batch], *, by_token: bool
) -> float:
    """Returns the error over real tokens, if outputs are per token, or over all values."""
    change = size = 0.0
    for reference, outputs, batch in zip(exact, rounded, batches, strict=True):
        counts = batch["attention_mask"] == 1
        for name, expected in reference.items():
            exact_values, rounded_values = (
                (expected[counts], outputs[name][counts]) if by_token else (expected, outputs[name])
            )
            change += float(np.square(rounded_values - exact_values, dtype=np.float64).sum())
            size += float(np.square(exact_values, dtype=np.float64).sum())
    return float(np.sqrt(change / size)) if size else 0.0


def with_worst_in_float(
    quantization: Quantization, losses: Sequence[BlockLoss]
) -> Iterator[tuple[Quantization, tuple[BlockLoss, ...]]]:
    """Yields `quantization` with the worst 1, 2, 4, … blocks in floating point, down to one block in 8 bits."""
    count = 1
    while count < len(losses):
        worst = tuple(losses[:count])
        names = frozenset(name for loss in worst for name in loss.maps)
        yield replace(quantization, keep_float=quantization.keep_float | names), worst
        count *= 2
