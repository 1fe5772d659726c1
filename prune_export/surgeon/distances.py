"""The key bias and query/key dimensions of heads whose scores have terms by distance.

A dimension of a head adds `q * k + q * PK + k * PQ`. There q = query · x + b_q and k = key · x + b_k; PK and PQ stand in the
distance's row of the two tables, or are zero where a term is missing. Softmax ignores what depends on the query alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from exporters.axes import concatenate, pad, take
from exporters.distances import Distances, Projection
from exporters.encoder import Attention
from exporters.errors import SurgeryError
from prune_export.facts.plan import Indices
from prune_export.surgeon.exactness import exact_for
from prune_export.surgeon.head_dimensions import split_dimensions, with_common_size
from prune_export.surgeon.zeros import scoring_dimensions


@exact_for(Distances)
def drop_key_bias_beside_distances(block: Attention) -> Attention:
    """Drops the key bias where it adds `query · key_bias` alone; within a shared table of keys it adds the same again.

    Raises:
        SurgeryError: there is a term position to content, for which the bias adds `key_bias · PQ` of the distance.
    """
    if block.scores.key_bias_matters:
        raise SurgeryError(
            "the key bias scores distances in the term position to content, and cannot be dropped exactly"
        )
    return replace(block, key_bias=None)


@exact_for(Distances)
def remove_dimensions_with_distances(block: Attention, keep: Mapping[int, Indices]) -> Attention:
    """Keeps, of each head in `keep`, only the query/key dimensions listed there.

    A dimension may be removed in two cases:

    1. Its key row is zero, and so is its row of the projection to PK: `b_k * PQ` is left.
    2. Its query row is zero, and so is its row of the projection to PQ, which is then the constant c:
       `(b_q + c) * k + b_q * PK` is left.

    What is left of all removed dimensions of a head becomes at most two dimensions, never more than were removed. They are
    written as Hugging Face's model has them: where projections are shared, PK and PQ of a merged dimension follow from its
    key and its query row. A head that loses all dimensions is kept, with one dimension of zeros if no head needs more. The
    heads of a block get one common size; missing dimensions are zeros. The attention scale remains that of the original
    size.

    Raises:
        SurgeryError: a dimension to be removed is in neither case.
    """
    if not keep:
        return block
    scoring = scoring_dimensions(block)
    heads = []
    for position in range(len(block.heads)):
        kept, removed = split_dimensions(block, scoring, position, keep)
        merged = [part for part in (_constant_key(removed), _constant_query(removed)) if part is not None]
        heads.append(concatenate([kept, *merged], "query_key"))
    return with_common_size(block, heads, "query_key")


def _constant_key(removed: Attention) -> Attention | None:
    """Returns a dimension with a constant key of 1, for case 1; None where nothing is left.

    `removed` is a single head; its tensors are `[1, dimensions, …]`.
    """
    scores = _scores_of(removed)
    if removed.key_bias is None or not scores.position_to_content:
        return None
    keys = _reads(removed.key_weight) | _reads_own(scores.key)
    weights = torch.where(keys, 0.0, removed.key_bias[0].double())
    to_query = removed.query_weight if scores.query is None else scores.query.weight
    row = _weighted(weights, to_query)
    if not row.any():
        return None
    one = _blank(removed)
    one = replace(one, key_bias=torch.ones_like(removed.key_bias[:, :1]))
    if scores.query is None:
        return replace(one, query_weight=row)
    return replace(one, scores=replace(_scores_of(one), query=_with_weight(_scores_of(one).query, row)))


def _constant_query(removed: Attention) -> Attention | None:
    """Returns a dimension with a constant query of 1, for case 2; None where nothing is left."""
    scores = _scores_of(removed)
    assert removed.query_bias is not None, "DeBERTa's queries have a bias"
    queries = _reads(removed.query_weight) | _reads_own(scores.query)
    of_distances = torch.where(queries, 0.0, removed.query_bias[0].double())
    of_keys = of_distances
    if scores.query is not None and scores.query.bias is not None:
        of_keys = of_distances + torch.where(queries, 0.0, scores.query.bias[0].double())
    # In shared projections PQ of the merged dimension is 1 as well, and doubles the score of the key, as b_q + c does.
    key = _weighted(of_keys, removed.key_weight)
    to_key = None if scores.key is None else _weighted(of_distances, scores.key.weight)
    if not key.any() and (to_key is None or not to_key.any()):
        return None
    one = _blank(removed)
    one = replace(one, query_bias=torch.ones_like(removed.query_bias[:, :1]), key_weight=key)
    if to_key is None:
        return one
    return replace(one, scores=replace(_scores_of(one), key=_with_weight(_scores_of(one).key, to_key)))


def _scores_of(block: Attention) -> Distances:
    assert isinstance(block.scores, Distances)
    return block.scores


def _reads(weight: Tensor) -> Tensor:
    """Returns which rows of a single head `[1, dimensions, hidden]` are not zero."""
    return weight[0].ne(0).any(dim=1)


def _reads_own(projection: Projection | None) -> Tensor:
    return torch.tensor(False) if projection is None else _reads(projection.weight)


def _weighted(weights: Tensor, rows: Tensor) -> Tensor:
    """Returns the sum of `rows` `[1, dimensions, hidden]` times `weights`, summed in float64: `[1, 1, hidden]`."""
    return (weights @ rows[0].double()).to(rows.dtype)[None, None]


def _blank(removed: Attention) -> Attention:
    """Returns the head with one query/key dimension of zeros in place of its own."""
    return pad(take(removed, "query_key", ()), "query_key", 1)


def _with_weight(projection: Projection | None, weight: Tensor) -> Projection:
    assert projection is not None
    return replace(projection, weight=weight)
