"""Shapes: the architectural parameters of a plain network, whose layers are all alike."""

from __future__ import annotations

from typing import NamedTuple

from exporters.errors import UsageError
from prune_export.families.names import Dimensions


class Shape(NamedTuple):
    """The sizes of a network whose layers are all alike, as config.json has them: each head has `hidden // heads`
    dimensions.

    de Wynter and Perry 2020, "Optimal Subarchitecture Extraction for BERT": D, A, H and I.
    """

    depth: int
    heads: int
    hidden: int
    intermediate: int

    def __str__(self) -> str:
        return f"{self.depth} layers, {self.heads} heads, hidden {self.hidden}, intermediate {self.intermediate}"


def shape_of(dimensions: Dimensions) -> Shape:
    """Returns the shape of an unpruned network."""
    return Shape(dimensions.layers, dimensions.heads, dimensions.hidden, dimensions.intermediate)


def has_projection(shape: Shape, parent: Dimensions) -> bool:
    """Says whether the embeddings of a network of `shape` are projected if those of `parent` are (ELECTRA).

    transformers has no projection where the embedding size is the hidden size.
    """
    return parent.embedding == parent.hidden or shape.hidden != parent.embedding


def has_head_size(shape: Shape, parent: Dimensions) -> bool:
    """Says whether heads of a network of `shape` have a size that those of `parent` can be given.

    Some keep theirs: the angles of rotary heads follow from it, and embeddings of distances are projected to it.
    """
    return not parent.keeps_head_size or shape.hidden == shape.heads * parent.head_size


def check_shape(shape: Shape, parent: Dimensions) -> None:
    """Checks that a network of `shape` exists and can be made of one with the sizes `parent`.

    Raises:
        UsageError: a size is below 1 or above the parent's, heads do not divide the hidden size, heads that keep their size
        would have another one, or a projection is lost.
    """
    for name, value, most in zip(Shape._fields, shape, shape_of(parent), strict=True):
        if not 1 <= value <= most:
            raise UsageError(f"{name}: expected 1 to {most}, the parent's; found {value}")
    if shape.hidden % shape.heads:
        raise UsageError(f"hidden: expected a multiple of the {shape.heads} heads; found {shape.hidden}")
    if not has_head_size(shape, parent):
        raise UsageError(
            f"hidden: expected {shape.heads * parent.head_size}, {parent.head_size} for each of {shape.heads} heads: "
            f"what their scores have by position is for that size; found {shape.hidden}"
        )
    if not has_projection(shape, parent):
        raise UsageError(
            f"hidden: expected another size than {shape.hidden}, the parent's embedding size: transformers would leave out "
            "the projection of the embeddings"
        )
