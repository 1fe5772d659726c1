"""Scores with terms by the distance of query and key, DeBERTa's disentangled attention (He et al. 2021, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional

from exporters.axes import Axes, Renamed
from exporters.encoder import Attention, AttentionScores, Norm


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """A linear map from the embeddings of distances to the query/key dimensions of each head."""

    weight: Annotated[Tensor, Axes("head", "query_key", "distance_feature", rows=2)]
    bias: Annotated[Tensor | None, Axes("head", "query_key", rows=2)]  # None: no bias


@dataclass(frozen=True, slots=True, eq=False)
class Distances(AttentionScores):
    """`scale * (query · key + query · position_key[row] + key · position_query[row])`; the last two may be absent.

    A padding token, which no other attends to, attends to all tokens alike, padding included.

    `row` is `row_of_distance[query - key + reach]`: int64, `[2 * reach + 1]`, never smaller at a larger distance. Distances
    beyond `reach` have the rows of its ends. The two tables are linear maps of `norm(embeddings)`, which all layers hold in
    common: `position_key` by `key` where there is `content_to_position`, `position_query` by `query` where there is
    `position_to_content`. Where such a projection is None it is the block's own key (query) projection, bias included.
    Without either term there are no embeddings.
    """

    embeddings: Annotated[Tensor | None, Axes("distance_row", "distance_feature")]
    norm: Annotated[Norm | None, Renamed(features="distance_feature")]
    row_of_distance: Tensor
    content_to_position: bool
    position_to_content: bool
    key: Annotated[Projection | None, Renamed()]
    query: Annotated[Projection | None, Renamed()]

    @property
    def reach(self) -> int:
        return len(self.row_of_distance) // 2

    @property
    def terms(self) -> int:
        """Returns the number of terms by distance, 1 or 2."""
        return self.content_to_position + self.position_to_content

    @property
    def key_bias_matters(self) -> bool:
        return self.position_to_content


def position_key(block: Attention) -> Projection | None:
    """Returns the projection of the term content to position; None where there is no such term."""
    scores = block.scores
    if not isinstance(scores, Distances) or not scores.content_to_position:
        return None
    return Projection(block.key_weight, block.key_bias) if scores.key is None else scores.key


def position_query(block: Attention) -> Projection | None:
    """Returns the projection of the term position to content; None where there is no such term."""
    scores = block.scores
    if not isinstance(scores, Distances) or not scores.position_to_content:
        return None
    return Projection(block.query_weight, block.query_bias) if scores.query is None else scores.query


def with_own_projections(block: Attention) -> Attention:
    """Returns the block with projections of distances of its own, where they were those of its queries and keys."""
    if not isinstance(block.scores, Distances):
        return block
    return replace(block, scores=replace(block.scores, key=position_key(block), query=position_query(block)))


def normalized_embeddings(scores: Distances, dtype: torch.dtype = torch.float32) -> Tensor:
    """Returns what the projections are applied to, `[rows, features]`, computed in `dtype`."""
    assert scores.embeddings is not None
    embeddings, norm = scores.embeddings.to(dtype), scores.norm
    if norm is None:
        return embeddings
    assert norm.epsilon is not None
    bias = None if norm.bias is None else norm.bias.to(dtype)
    return functional.layer_norm(embeddings, norm.weight.shape, norm.weight.to(dtype), bias, norm.epsilon)


def projected(embeddings: Tensor, projection: Projection) -> Tensor:
    """Returns a table of the embeddings `[rows, features]`: `[heads, rows, query_key]`, in their type."""
    table = torch.einsum("rf,hdf->hrd", embeddings, projection.weight.to(embeddings.dtype))
    return table if projection.bias is None else table + projection.bias.to(embeddings.dtype)[:, None]


@lru_cache(maxsize=8)  # all layers have the same `row_of_distance`
def _rows_between(row_of_distance: Tensor, length: int, device: torch.device) -> tuple[Tensor, int, int]:
    """Returns the row of each pair of a query and a key, int64 `[length, length]`, and the least and the largest of them."""
    reach = len(row_of_distance) // 2
    with torch.inference_mode(False):  # a training may use the same tensor later
        places = torch.arange(length)
        rows = row_of_distance[(places[:, None] - places).clamp(-reach, reach) + reach]
        return rows.to(device), int(rows.min()), int(rows.max())


def distance_terms(
    scores: Distances,
    embeddings: Tensor,
    query: Tensor,
    key: Tensor,
    to_key: Projection | None,
    to_query: Projection | None,
) -> Tensor:
    """Returns the sum of the terms by distance, without the scale: `[batch, heads, sequence, sequence]`.

    `embeddings` are the normalized ones, `query` and `key` are `[batch, heads, sequence, query_key]`. `to_key` and
    `to_query` are the projections of the two terms (None: no such term); one of them has to be given.
    """
    rows, first, last = _rows_between(scores.row_of_distance, query.shape[2], query.device)
    reached = embeddings[first : last + 1]
    index = (rows - first).expand(*query.shape[:2], -1, -1)
    terms = []
    if to_key is not None:
        terms.append((query @ projected(reached, to_key).transpose(1, 2)).gather(3, index))
    if to_query is not None:
        terms.append((projected(reached, to_query) @ key.transpose(2, 3)).gather(2, index))
    return terms[0] if len(terms) == 1 else terms[0] + terms[1]
