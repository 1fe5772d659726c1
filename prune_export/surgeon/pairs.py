"""Removes pairs of dimensions that rotary scores rotate together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from exporters.axes import concatenate, take
from exporters.encoder import Attention, Rotary
from exporters.errors import SurgeryError
from exporters.rotary import pad_pairs, pairs_of
from prune_export.facts.plan import Indices
from prune_export.surgeon.exactness import exact_for
from prune_export.surgeon.zeros import scoring_dimensions


@exact_for(Rotary)
def remove_pairs(block: Attention, keep: Mapping[int, Indices]) -> Attention:
    """Keeps, of each head in `keep`, only the query/key dimensions listed there, which are whole pairs.

    With q and k a pair's two dimensions as complex numbers, the pair adds `Re(q * conj(k) * exp(i * frequency * distance))`
    to a score. It may be removed if q or k is zero for every input: both rows and both biases are. A constant k adds another
    number at every distance, which softmax does not ignore. A head that loses all pairs attends uniformly over its window.

    The heads of a block get one common number of pairs, at least one; missing ones are zeros.

    Raises:
        SurgeryError: a pair to be removed has a query and a key, or one of its dimensions is kept.
    """
    if not keep:
        return block
    scoring, half = scoring_dimensions(block), block.query_key_size // 2
    kept_pairs: list[Indices] = []
    for position, head in enumerate(block.heads):
        kept = set(keep.get(head, range(block.query_key_size)))
        for pair in range(half):
            if (pair in kept) != (pair + half in kept):
                raise SurgeryError(
                    f"head {head}: query/key dimensions {pair} and {pair + half} are rotated together; expected both or "
                    "none to be kept"
                )
            if pair not in kept and scoring[position, pair]:
                raise SurgeryError(
                    f"head {head}: the pair of query/key dimensions {pair} and {pair + half} has a query and a key, and "
                    "cannot be removed exactly"
                )
        kept_pairs.append(tuple(pair for pair in range(half) if pair in kept))
    common, original = max(1, *map(len, kept_pairs)), pairs_of(block)
    if common == half:
        return block
    heads = []
    for position, pairs in enumerate(kept_pairs):
        assert isinstance(block.scores, Rotary)
        alone = take(take(block, "head", [position]), "query_key", (*pairs, *(pair + half for pair in pairs)))
        chosen = tuple(original[position][pair] for pair in pairs)
        heads.append(pad_pairs(replace(alone, scores=replace(block.scores, pairs=(chosen,))), common))
    return concatenate(heads, "head")
