"""Damages to a network, each of a kind that a wrong surgeon, writer or file could do: what a proof has to notice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from exporters.encoder import Attention, Encoder, FeedForward, Layer, Norm, SpanHead, Ungated
from prune_export.network.opening import Batch

Place = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Damage:
    """`damage(encoder)` is the damaged network, `inputs(batch)` what it is fed in place of a batch.

    `place` names the tensor or the block, empty where the whole network is meant.
    """

    kind: str
    place: str
    damage: Callable[[Encoder], Encoder] = lambda encoder: encoder
    inputs: Callable[[Batch], Batch] = lambda batch: batch


def all_damages(encoder: Encoder, *, seed: int = 0) -> Iterator[Damage]:
    """Every kind of damage in every block and tensor where it can be done."""
    yield from _weights(encoder, seed)
    yield from _inputs()
    yield from _embeddings(encoder)
    for index, layer in enumerate(encoder.layers):
        yield from _layer(index, layer)
    norms = [place for place, part in _parts(encoder) if isinstance(part, Norm) and part.epsilon]
    for place in norms:
        yield _change("epsilon × 10", place, lambda norm: replace(norm, epsilon=10 * norm.epsilon))
    if isinstance(encoder.head, SpanHead):
        yield _change("start and end swapped", ("head", "output"), _rows_reversed)


def _weights(encoder: Encoder, seed: int) -> Iterator[Damage]:
    """One weight of each tensor: the largest and a random one changed by 1 %, the largest lost; each bias lost."""
    random = np.random.default_rng(seed)
    for place, part in _parts(encoder):
        if not isinstance(part, Tensor) or not part.any():
            continue
        largest, nonzero = int(part.abs().argmax()), part.flatten().nonzero().flatten()
        other = int(nonzero[int(random.integers(len(nonzero)))])
        yield _change("largest weight + 1 %", place, _scaled(largest, 1.01))
        yield _change("random weight + 1 %", place, _scaled(other, 1.01))
        yield _change("largest weight lost", place, _scaled(largest, 0.0))
        if str(place[-1]).endswith("bias"):
            yield _change("bias lost", place, torch.zeros_like)


def _inputs() -> Iterator[Damage]:
    def ignored(batch: Batch) -> Batch:
        return {**batch, "attention_mask": np.ones_like(batch["attention_mask"])}

    def first_row(batch: Batch) -> Batch:
        mask = batch["attention_mask"]
        return {**batch, "attention_mask": np.broadcast_to(mask[:1], mask.shape).copy()}

    def shifted(batch: Batch) -> Batch:
        """The token after the last one, or before the first, counts."""
        mask = batch["attention_mask"].copy()
        mask[:, 1:] |= batch["attention_mask"][:, :-1]
        mask[:, :-1] |= batch["attention_mask"][:, 1:]
        return {**batch, "attention_mask": mask}

    yield Damage("wrong mask", "ignored", inputs=ignored)
    yield Damage("wrong mask", "the first row's for all rows", inputs=first_row)
    yield Damage("wrong mask", "one token too long", inputs=shifted)


def _embeddings(encoder: Encoder) -> Iterator[Damage]:
    rows = encoder.embeddings.position.shape[0]
    for row in sorted({rows // 8, rows // 2, rows - 2}):
        yield _change(
            "wrong position row", ("embeddings", "position"), _rows_swapped(row, row + 1), f"rows {row}, {row + 1}"
        )
    yield _change("wrong position row", ("embeddings", "position"), lambda table: table.roll(1, 0), "all one off")
    types = encoder.embeddings.token_type
    if types is not None and len(types) > 1:
        yield _change("wrong token-type row", ("embeddings", "token_type"), _rows_swapped(0, 1))


def _layer(index: int, layer: Layer) -> Iterator[Damage]:
    yield Damage(
        "layer skipped",
        f"layers/{index}",
        lambda encoder: replace(encoder, layers=(*encoder.layers[:index], *encoder.layers[index + 1 :])),
    )
    match layer.attention:
        case Attention(heads=heads) as attention:
            place = ("layers", index, "attention")
            if len(heads) > 1:
                yield _change("heads swapped", (*place, "output_weight"), lambda weight: _first_two_swapped(weight, 1))
                yield _change("heads swapped", (*place, "query_weight"), lambda weight: _first_two_swapped(weight, 0))
            yield _change(
                "scale of another head size", (*place, "scores"), lambda part: replace(part, scale=part.scale / 2**0.5)
            )
            hidden = attention.output_bias.shape[0]
            for name, width in (
                ("query", attention.query_key_size),
                ("key", attention.query_key_size),
                ("value", attention.value_size),
            ):
                if len(heads) * width == hidden:
                    yield _change("square matrix transposed", (*place, f"{name}_weight"), _transposed)
            if len(heads) * attention.value_size == hidden:
                yield _change("square matrix transposed", (*place, "output_weight"), _transposed)
    match layer.feed_forward:
        case FeedForward(gating=Ungated(activation)) if activation.startswith("gelu"):
            other = "gelu_new" if activation == "gelu" else "gelu"
            yield _change("GELU's other form", ("layers", index, "feed_forward", "gating"), lambda _: Ungated(other))


def _scaled(index: int, factor: float) -> Callable[[Tensor], Tensor]:
    def change(values: Tensor) -> Tensor:
        changed = values.clone().contiguous()
        changed.view(-1)[index] *= factor
        return changed

    return change


def _rows_swapped(first: int, second: int) -> Callable[[Tensor], Tensor]:
    def change(table: Tensor) -> Tensor:
        changed = table.clone()
        changed[[first, second]] = table[[second, first]]
        return changed

    return change


def _first_two_swapped(weight: Tensor, dimension: int) -> Tensor:
    order = torch.arange(weight.shape[dimension])
    order[:2] = torch.tensor([1, 0])
    return weight.index_select(dimension, order)


def _transposed(weight: Tensor) -> Tensor:
    side = round(weight.numel() ** 0.5)
    return weight.reshape(side, side).T.reshape(weight.shape).contiguous()


def _rows_reversed(linear: Any) -> Any:
    return replace(linear, weight=linear.weight.flip(0), bias=linear.bias.flip(0))


def _parts(node: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Every tensor and every dataclass below `node`, with the way to it."""
    if isinstance(node, Tensor):
        yield place, node
    elif is_dataclass(node):
        yield place, node
        for field in fields(node):
            yield from _parts(getattr(node, field.name), (*place, field.name))
    elif isinstance(node, tuple):
        for index, item in enumerate(node):
            yield from _parts(item, (*place, index))


def _change(kind: str, place: Place, change: Callable[[Any], Any], detail: str = "") -> Damage:
    name = "/".join(map(str, place)) + (f" ({detail})" if detail else "")
    return Damage(kind, name, lambda encoder: _replaced(encoder, place, change))


def _replaced(node: Any, place: Place, change: Callable[[Any], Any]) -> Any:
    if not place:
        return change(node)
    step, rest = place[0], place[1:]
    if isinstance(step, int):
        return (*node[:step], _replaced(node[step], rest, change), *node[step + 1 :])
    return replace(node, **{step: _replaced(getattr(node, step), rest, change)})
