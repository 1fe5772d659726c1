"""Scores with terms by distance (DeBERTa): the surgeon's rules, and rows of distances."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.models.deberta_v2.modeling_deberta_v2 import build_relative_position

from exporters.distances import Distances, Projection
from exporters.encoder import Attention, Norm
from exporters.errors import SurgeryError
from prune_export.families.deberta_v2 import log_bucket_rows
from prune_export.surgeon.biases import drop_key_bias, fold_value_bias
from prune_export.surgeon.distances import drop_key_bias_beside_distances, remove_dimensions_with_distances
from prune_export.surgeon.zeros import scoring_dimensions
from tests.deberta import TERMS
from tests.test_formulas_surgeon import block

X = torch.randn(9, 8, generator=torch.Generator().manual_seed(1))


def by_distance(terms: list[str], *, shared: bool, key_bias: bool = True, reach: int = 3) -> Attention:
    """Four heads of five dimensions, rows that distances do not share evenly, and a norm."""
    generator = torch.Generator().manual_seed(2)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    def own(term: str, *, bias: bool) -> Projection | None:
        return None if shared or term not in terms else Projection(random(4, 5, 8), random(4, 5) if bias else None)

    rows = torch.tensor([0, 0, 1, 3, 4, 4, 5])
    assert len(rows) == 2 * reach + 1
    scores = Distances(
        scale=0.3,
        embeddings=random(6, 8),
        norm=Norm(1 + 0.2 * random(8), random(8), 1e-7),
        row_of_distance=rows,
        content_to_position="c2p" in terms,
        position_to_content="p2c" in terms,
        key=own("c2p", bias=key_bias),
        query=own("p2c", bias=True),
    )
    one = replace(block(4, 5), scores=scores)
    return one if key_bias else replace(one, key_bias=None)


def attend(one: Attention, x: Tensor) -> np.ndarray:
    """What the block adds for `x` `[sequence, hidden]`, query by query and key by key."""
    scores = one.scores
    assert isinstance(scores, Distances)
    assert scores.embeddings is not None

    def numbers(tensor: Tensor | None) -> Any:
        return 0.0 if tensor is None else tensor.double().numpy()

    embeddings = numbers(scores.embeddings)
    if scores.norm is not None:
        centered = embeddings - embeddings.mean(axis=1, keepdims=True)
        deviation = np.sqrt((centered**2).mean(axis=1, keepdims=True) + scores.norm.epsilon)
        embeddings = centered / deviation * numbers(scores.norm.weight) + numbers(scores.norm.bias)
    inputs = numbers(x)
    total = np.tile(numbers(one.output_bias), (len(x), 1))
    for place in range(len(one.heads)):

        def of(weight: Tensor, bias: Tensor | None, source: np.ndarray, place: int = place) -> np.ndarray:
            rows: np.ndarray = source @ numbers(weight[place]).T + (0.0 if bias is None else numbers(bias[place]))
            return rows

        query, key, value = (
            of(getattr(one, f"{name}_weight"), getattr(one, f"{name}_bias"), inputs)
            for name in ("query", "key", "value")
        )
        to_key = Projection(one.key_weight, one.key_bias) if scores.key is None else scores.key
        to_query = Projection(one.query_weight, one.query_bias) if scores.query is None else scores.query
        keys, queries = (of(each.weight, each.bias, embeddings) for each in (to_key, to_query))
        for q in range(len(x)):
            found = []
            for k in range(len(x)):
                row = scores.row_of_distance[max(-scores.reach, min(scores.reach, q - k)) + scores.reach]
                score = query[q] @ key[k]
                if scores.content_to_position:
                    score += query[q] @ keys[row]
                if scores.position_to_content:
                    score += key[k] @ queries[row]
                found.append(scores.scale * score)
            weights = np.exp(np.array(found) - max(found))
            total[q] += numbers(one.output_weight[:, place]) @ (weights / weights.sum() @ value)
    return total


def zero_rows(one: Attention, side: str, head: int, *dimensions: int) -> None:
    """Zeros in a query (key) row and in that of its projection of distances; the biases stay."""
    assert isinstance(one.scores, Distances)
    for dimension in dimensions:
        getattr(one, f"{side}_weight")[head, dimension] = 0
        if (projection := getattr(one.scores, side)) is not None:
            projection.weight[head, dimension] = 0


@pytest.mark.parametrize("terms", TERMS, ids=str)
@pytest.mark.parametrize(
    ("shared", "key_bias"), [(True, True), (False, True), (False, False)], ids=["shared", "separate", "no key bias"]
)
def test_surgery_is_exact(terms: list[str], shared: bool, key_bias: bool) -> None:
    one = by_distance(terms, shared=shared, key_bias=key_bias)
    zero_rows(one, "query", 0, 0, 1, 3)
    zero_rows(one, "key", 1, 0, 2, 4)
    for side in ("query", "key"):  # both kinds, and a dimension of both
        zero_rows(one, side, 2, 1)
    zero_rows(one, "query", 2, 0, 2)
    zero_rows(one, "key", 2, 3, 4)
    zero_rows(one, "key", 3, 0, 1, 2, 3, 4)  # the head scores by distance alone, or not at all
    before = attend(one, X)
    ready = fold_value_bias(one)
    if not one.scores.key_bias_matters:
        ready = drop_key_bias_beside_distances(ready)
        assert ready.key_bias is None
    np.testing.assert_allclose(attend(ready, X), before, atol=1e-5)
    keep = {0: (2, 4), 1: (1, 3), 2: (), 3: ()}
    smaller = remove_dimensions_with_distances(ready, keep)
    merged = 1 if "p2c" not in terms or not key_bias else 2
    assert smaller.query_key_size == 3
    np.testing.assert_allclose(attend(smaller, X), before, atol=1e-5)
    if merged == 2:  # the head without keys is nothing like uniform
        uniform = replace(smaller, key_bias=torch.zeros_like(smaller.key_bias))  # type: ignore[arg-type]
        assert np.abs(attend(uniform, X) - before).max() > 1e-2
    # Merged dimensions are removed and merged again, and nothing else happens to them.
    again = remove_dimensions_with_distances(smaller, {head: tuple(range(3)) for head in smaller.heads} | {2: ()})
    assert not scoring_dimensions(smaller)[2].any()
    np.testing.assert_allclose(attend(again, X), before, atol=1e-5)


def test_a_row_of_the_projection_keeps_its_dimension() -> None:
    one = by_distance(["c2p", "p2c"], shared=False)
    one.query_weight[0, 1] = 0
    one.key_weight[0, 2] = 0
    assert scoring_dimensions(one).all()
    for dimension in (1, 2):
        keep = {0: tuple(index for index in range(5) if index != dimension)}
        with pytest.raises(SurgeryError, match=f"head 0: query/key dimension {dimension} has both"):
            remove_dimensions_with_distances(one, keep)


@pytest.mark.parametrize("shared", [True, False])
def test_the_key_bias_matters_under_position_to_content(shared: bool) -> None:
    one = by_distance(["p2c"], shared=shared)
    with pytest.raises(SurgeryError, match="key bias scores distances"):
        drop_key_bias_beside_distances(one)
    with pytest.raises(SurgeryError, match="is exact for ContentScores; found Distances"):
        drop_key_bias(one)
    assert np.abs(attend(replace(one, key_bias=None), X) - attend(one, X)).max() > 1e-1


@pytest.mark.parametrize(
    ("buckets", "span"), [(8, 32), (256, 512), (2, 9), (6, 5), (128, 1024), (-1, 7), (256, 65536), (64, 130)]
)
def test_rows_are_those_of_transformers(buckets: int, span: int) -> None:
    """Both terms read one row: transformers' gathers the second at the negative of the reversed distance."""
    length = 3 * min(span, 700)
    states = torch.zeros(1, length, 1)
    distances = build_relative_position(states, states, buckets, span)[0]
    half = buckets if buckets > 0 else span
    rows, reach = log_bucket_rows(buckets, span), len(log_bucket_rows(buckets, span)) // 2
    places = torch.arange(length)
    found = rows[(places[:, None] - places).clamp(-reach, reach) + reach]
    assert torch.equal(found, (distances + half).clamp(0, 2 * half - 1))
    assert torch.equal(found, (half - distances).clamp(0, 2 * half - 1).t())
    assert rows.diff().min() >= 0
    if span < 700:
        assert torch.equal(rows[[0, -1]], torch.tensor([1 if buckets == 2 else 0, 2 * half - 1]))
