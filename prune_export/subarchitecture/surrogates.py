"""The published algorithm's surrogates of size and speed: polynomials in the sizes of a shape.

de Wynter 2020, "An Approximation Algorithm for Optimal Subarchitecture Extraction" (arXiv 2010.08512): p̂ is the number of
parameters, î the sum over layers of additions, multiplications and other operations. Neither builds or runs a network.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from exporters.axes import leaves
from exporters.encoder import Encoder
from prune_export.subarchitecture.shape import Shape


class Operations(NamedTuple):
    """Scalar operations: additions and subtractions, multiplications, and others (divisions, exponentials, …)."""

    additions: int
    multiplications: int
    others: int

    @property
    def total(self) -> int:
        return self.additions + self.multiplications + self.others


def parameter_surrogate(parent: Encoder) -> Callable[[Shape], int]:
    """Returns p̂: the parameters of the embeddings and layers of a network of a shape made of `parent`, without task head.

    Each tensor of the parent counts with the sizes of the shape on its axes; those that the shape does not name stay, as the
    embedding size does where embeddings are projected to the hidden size (ELECTRA). Layers are those at the same places. A
    single row of token types is left out where it is added to the position rows when a checkpoint is read.
    """
    is_projected = parent.embeddings.projection is not None
    seen: set[int] = set()
    whole = _axes(parent.embeddings, seen) + _axes(parent.final_norm, seen)
    layers = [_axes(layer, seen) for layer in parent.layers]

    def surrogate(shape: Shape) -> int:
        head_size = shape.hidden // shape.heads
        sizes = {
            **dict.fromkeys(("hidden", "middle", "output", "written", "features", "distance_feature"), shape.hidden),
            **dict.fromkeys(("head", "original_head"), shape.heads),
            **dict.fromkeys(("query_key", "value"), head_size),
            "intermediate": shape.intermediate,
            **({} if is_projected else {"embedding": shape.hidden}),
        }
        every = sum(layers[: shape.depth], whole)
        return sum(count * math.prod(sizes.get(axis, size) for axis, size in axes) for axes, count in every.items())

    return surrogate


def _axes(part: Any, seen: set[int]) -> Counter[tuple[tuple[str, int], ...]]:
    """Returns how often a part has tensors with the same axes, which are pairs of name and size.

    Tensors with an identity in `seen`, to which those of the part are added, do not count: layers have them in common.
    """
    found: Counter[tuple[tuple[str, int], ...]] = Counter()
    for _, value, axes in leaves(part) if part is not None else ():
        if isinstance(value, Tensor) and id(value) not in seen:
            seen.add(id(value))
            found[tuple(zip(axes.names, value.shape, strict=True))] += 1
    return found


def operation_surrogate(shape: Shape, *, sequence_length: int, is_gated: bool = False) -> Operations:
    """Returns î of all layers for one sequence of `sequence_length` tokens.

    Products of matrices are counted as written in a textbook: a sum of n terms has n - 1 additions. Softmax subtracts no
    maximum. Norms are (x - mean) / sqrt(variance + epsilon) · weight + bias. The activation counts as one operation per
    column. A gate is a second map without activation, and a product per column. Embeddings and the task head are left out:
    they do not depend on the depth. So are rotations of queries and keys, and biases of scores by distance.
    """
    depth, heads, hidden, intermediate = shape
    tokens, size = sequence_length, hidden // heads
    additions = 4 * hidden * hidden  # query, key, value and output: hidden - 1 for the sum, 1 for the bias
    multiplications = 4 * hidden * hidden
    others = 0
    additions += heads * tokens * (size - 1)  # scores
    multiplications += heads * tokens * (size + 1)  # and their scale
    additions += heads * (tokens - 1)  # softmax
    others += heads * 2 * tokens
    additions += hidden * (tokens - 1)  # contexts
    multiplications += hidden * tokens
    additions += 2 * intermediate * hidden  # up and down, with their biases
    multiplications += 2 * intermediate * hidden
    others += intermediate
    if is_gated:
        additions += intermediate * hidden
        multiplications += intermediate * hidden + intermediate
    additions += 2 * hidden  # residual sums
    # Two norms: mean, differences, variance and its epsilon, bias; squares and weight; mean, variance, root, quotients.
    additions += 2 * (hidden - 1 + hidden + hidden - 1 + 1 + hidden)
    multiplications += 2 * 2 * hidden
    others += 2 * (1 + 1 + 1 + hidden)
    count = depth * tokens
    return Operations(count * additions, count * multiplications, count * others)
