"""The published algorithm's surrogates of size and speed: polynomials in the sizes of a shape.

de Wynter 2020, "An Approximation Algorithm for Optimal Subarchitecture Extraction" (arXiv 2010.08512): p̂ is the number of
parameters, î the sum over layers of additions, multiplications and other operations. Neither builds or runs a network.
"""

from __future__ import annotations

from typing import NamedTuple

from prune_export.families.names import Dimensions
from prune_export.subarchitecture.shape import Shape


class Operations(NamedTuple):
    """Scalar operations: additions and subtractions, multiplications, and others (divisions, exponentials, …)."""

    additions: int
    multiplications: int
    others: int

    @property
    def total(self) -> int:
        return self.additions + self.multiplications + self.others


def parameter_surrogate(shape: Shape, parent: Dimensions) -> int:
    """Returns p̂, the parameters of the embeddings and layers of a network of `shape`; the task head is left out.

    `parent` gives the sizes that stay: vocabulary, positions, token types, and the embedding size where embeddings are
    projected to the hidden size (ELECTRA).
    """
    depth, _, hidden, intermediate = shape
    rows = parent.vocabulary + parent.positions + parent.types + 2  # 2: the norm
    is_projected = parent.embedding != parent.hidden
    embeddings = rows * parent.embedding + (parent.embedding + 1) * hidden if is_projected else rows * hidden
    attention = 4 * hidden * hidden + 4 * hidden
    feed_forward = 2 * hidden * intermediate + intermediate + hidden
    norms = 2 * 2 * hidden
    return embeddings + depth * (attention + feed_forward + norms)


def operation_surrogate(shape: Shape, *, sequence_length: int) -> Operations:
    """Returns î of all layers for one sequence of `sequence_length` tokens.

    Products of matrices are counted as written in a textbook: a sum of n terms has n - 1 additions. Softmax subtracts no
    maximum. Norms are (x - mean) / sqrt(variance + epsilon) · weight + bias. The activation counts as one operation per
    column. Embeddings and the task head are left out: they do not depend on the depth.
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
    additions += 2 * hidden  # residual sums
    # Two norms: mean, differences, variance and its epsilon, bias; squares and weight; mean, variance, root, quotients.
    additions += 2 * (hidden - 1 + hidden + hidden - 1 + 1 + hidden)
    multiplications += 2 * 2 * hidden
    others += 2 * (1 + 1 + 1 + hidden)
    count = depth * tokens
    return Operations(count * additions, count * multiplications, count * others)
