"""The surgeon's parts by themselves, against NumPy and attention written out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from exporters.cost import LayerShape, count_parameters, flops_per_token
from exporters.encoder import (
    Attention,
    DotProduct,
    Embeddings,
    Encoder,
    FeatureHead,
    FeedForward,
    Layer,
    Linear,
    Norm,
    Ungated,
    map_layers,
)
from exporters.errors import SurgeryError
from prune_export.surgeon.biases import drop_key_bias, fold_value_bias, shifted
from prune_export.surgeon.head_dimensions import remove_query_key_dimensions, remove_value_dimensions
from prune_export.surgeon.heads import remove_heads


def block(heads: int = 4, size: int = 3, hidden: int = 8) -> Attention:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return Attention(
        heads=tuple(range(heads)),
        query_weight=random(heads, size, hidden),
        query_bias=random(heads, size),
        key_weight=random(heads, size, hidden),
        key_bias=random(heads, size),
        value_weight=random(heads, size, hidden),
        value_bias=random(heads, size),
        output_weight=random(hidden, heads, size),
        output_bias=random(hidden),
        scores=DotProduct(0.5),
    )


def attend(one: Attention, x: Tensor) -> Tensor:
    """What the block adds for `x` `[sequence, hidden]`, head by head."""
    total = one.output_bias.double()
    x = x.double()
    for head in range(len(one.heads)):
        query = x @ one.query_weight[head].double().T + one.query_bias[head].double()
        key = x @ one.key_weight[head].double().T
        value = x @ one.value_weight[head].double().T
        key = key if one.key_bias is None else key + one.key_bias[head].double()
        value = value if one.value_bias is None else value + one.value_bias[head].double()
        weights = torch.softmax(one.scores.scale * query @ key.T, dim=-1)
        total = total + weights @ value @ one.output_weight[:, head].double().T
    return total


X = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))


def test_folded_biases_leave_the_sum_as_it_is() -> None:
    one = block()
    folded = fold_value_bias(drop_key_bias(one))
    assert (folded.key_bias, folded.value_bias) == (None, None)
    torch.testing.assert_close(attend(folded, X), attend(one, X), atol=1e-5, rtol=0)
    kept = replace(one, value_bias=None)
    assert fold_value_bias(kept).output_bias is kept.output_bias


def test_folds_are_summed_in_float64() -> None:
    """Thousands of large terms that cancel: float32 loses the small one that is left."""
    constant = torch.tensor([1e8, 1.0, -1e8] * 1001)
    found = shifted(torch.zeros(2), torch.ones(2, len(constant)), constant)
    assert found.tolist() == [1001.0, 1001.0]
    assert found.dtype == torch.float32
    bias = torch.ones(2)
    assert shifted(bias, torch.full((2, 3), torch.inf), torch.zeros(3)) is bias
    only_used = shifted(bias, torch.tensor([[torch.inf, 2.0], [torch.nan, 3.0]]), torch.tensor([0.0, 1.0]))
    assert only_used.tolist() == [3.0, 4.0]  # what is multiplied by 0 is not looked at


def test_heads_that_stay_keep_all_that_is_theirs() -> None:
    one = replace(block(), value_bias=None)
    one.value_weight[1] = 0
    one.output_weight[:, 3] = 0
    found = remove_heads(one, (0, 2))
    assert found.heads == (0, 2)
    for name in ("query_weight", "query_bias", "key_weight", "key_bias", "value_weight"):
        assert torch.equal(getattr(found, name), getattr(one, name)[[0, 2]])
    assert torch.equal(found.output_weight, one.output_weight[:, [0, 2]])
    torch.testing.assert_close(attend(found, X), attend(one, X), atol=1e-5, rtol=0)
    with pytest.raises(SurgeryError, match="head 2 contributes"):
        remove_heads(found, (0,))
    assert remove_heads(one, (0, 1, 2, 3)) is one


@pytest.mark.parametrize("kept", [(0,), (0, 2), (1,), (0, 1, 2)])
def test_value_dimensions(kept: tuple[int, ...]) -> None:
    one = replace(block(), value_bias=None)
    gone = [dimension for dimension in range(3) if dimension not in kept]
    for head in range(4):
        one.value_weight[head, gone[: head % 2 + 1]] = 0
        one.output_weight[:, head, gone[head % 2 + 1 :]] = 0
    found = remove_value_dimensions(one, dict.fromkeys(range(4), kept))
    assert found.value_size == len(kept)
    torch.testing.assert_close(attend(found, X), attend(one, X), atol=1e-5, rtol=0)
    some = remove_value_dimensions(one, {0: kept})  # the others need all three
    assert some is one


def test_heads_of_different_needs_get_one_size() -> None:
    one = replace(block(), key_bias=None, value_bias=None)
    one.key_weight[0, 1:] = 0
    one.key_weight[1, 0] = 0
    one.value_weight[0, :2] = 0
    one.value_weight[1:, 1] = 0
    one.key_weight[2:, 2] = 0
    found = remove_query_key_dimensions(one, {0: (0,), 1: (1, 2), 2: (0, 1), 3: (0, 1)})
    found = remove_value_dimensions(found, {0: (2,), 1: (0, 2), 2: (0, 2), 3: (0, 2)})
    assert (found.query_key_size, found.value_size) == (2, 2)
    torch.testing.assert_close(attend(found, X), attend(one, X), atol=1e-5, rtol=0)


def test_constant_queries_of_a_head_become_one() -> None:
    """Dimensions 0 and 1 have no query row, only a bias: together one dimension, a query of 1 and the sum of their keys."""
    one = replace(block(), key_bias=None, value_bias=None)
    one.query_weight[:, :2] = 0
    found = remove_query_key_dimensions(one, dict.fromkeys(range(4), (2,)))
    assert found.query_key_size == 2
    torch.testing.assert_close(attend(found, X), attend(one, X), atol=1e-5, rtol=0)
    bias, keys = one.query_bias.numpy(), one.key_weight.numpy()
    for head in range(4):
        merged = bias[head, 0] * keys[head, 0] + bias[head, 1] * keys[head, 1]
        np.testing.assert_allclose(found.key_weight[head, 1], merged, atol=1e-6)
        assert found.query_bias[head, 1] == 1
        assert not found.query_weight[head, 1].any()
    without = replace(one, query_bias=one.query_bias * torch.tensor([0.0, 0.0, 1.0]))
    alone = remove_query_key_dimensions(without, dict.fromkeys(range(4), (2,)))
    assert alone.query_key_size == 1
    torch.testing.assert_close(attend(alone, X), attend(without, X), atol=1e-5, rtol=0)


# --- what a network costs, and its layers -----------------------------------------------------------------------------


def forward(columns: int = 7, hidden: int = 8) -> FeedForward:
    up, down = torch.randn(columns, hidden), torch.randn(hidden, columns)
    return FeedForward(Linear(up, torch.zeros(columns)), Ungated("relu"), Linear(down, torch.zeros(hidden)))


def test_operations_are_those_that_pytorch_counts() -> None:
    """Of the blocks written out, with queries of 3 numbers and values of 2; the feed-forward block has 7 columns."""
    one, other = block(), forward()
    one = replace(one, value_weight=one.value_weight[:, :2], value_bias=None, output_weight=one.output_weight[..., :2])
    with FlopCounterMode(display=False) as counter:
        attend(one, X)
        torch.relu(X @ other.up.weight.T) @ other.down.weight.T
    shape = LayerShape(heads=4, query_key_size=3, value_size=2, columns=7)
    length, hidden = X.shape
    assert length * flops_per_token((shape,), hidden_size=hidden, sequence_length=length) == counter.get_total_flops()
    twice = flops_per_token((shape, shape), hidden_size=hidden, sequence_length=length)
    assert length * twice == 2 * counter.get_total_flops()


def test_shared_layers_are_mapped_and_counted_once() -> None:
    norm = Norm(torch.ones(8), torch.zeros(8), 1e-12)
    one, other = (Layer(block(), norm, forward(), norm) for _ in range(2))
    word, position = torch.zeros(11, 8), torch.zeros(6, 8)
    embeddings = Embeddings(word, position, None, norm, None, "absolute", 0)
    encoder = Encoder("feature-extraction", embeddings, (one, other, one), FeatureHead())
    attention, feed_forward = 4 * 4 * 3 * 8 + 3 * 4 * 3 + 8, 2 * 7 * 8 + 7 + 8
    assert count_parameters(encoder) == 11 * 8 + 6 * 8 + 2 * 8 + 2 * (attention + feed_forward)
    calls: list[tuple[int, Layer]] = []

    def changed(index: int, layer: Layer) -> Layer:
        calls.append((index, layer))
        return replace(layer, feed_forward=forward(columns=3))

    first, second, third = map_layers(encoder, changed).layers
    assert [index for index, _ in calls] == [0, 1]
    assert (calls[0][1], calls[1][1]) == (one, other)
    assert first is third
    assert first is not second
    assert (first.attention, second.attention) == (one.attention, other.attention)
