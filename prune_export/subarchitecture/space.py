"""Spaces of shapes: lists of depths, numbers of heads, hidden and intermediate sizes, from TOML or scaled to a parent."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated

import msgspec

from exporters.errors import UsageError
from prune_export.families.names import Dimensions
from prune_export.files.reading import ReadingError, one_line, read_text, user_path
from prune_export.subarchitecture.shape import Shape, has_head_size, has_projection, shape_of

_LARGEST_FILE = 1 << 20
_MOST_SHAPES = 100_000

Sizes = Annotated[
    tuple[Annotated[int, msgspec.Meta(ge=1, le=1 << 20)], ...], msgspec.Meta(min_length=1, max_length=1000)
]


class _File(msgspec.Struct, forbid_unknown_fields=True):
    depth: Sizes
    heads: Sizes
    hidden: Sizes
    intermediate: Sizes


@dataclass(frozen=True, slots=True)
class Space:
    """A space Ξ of shapes: every combination of the sizes whose heads divide the hidden size."""

    depth: tuple[int, ...]
    heads: tuple[int, ...]
    hidden: tuple[int, ...]
    intermediate: tuple[int, ...]

    def shapes(self, parent: Dimensions) -> tuple[Shape, ...]:
        """Enumerates the shapes that a plain network of the parent with `parent`'s sizes can have, each once.

        Where embeddings are projected to the hidden size (ELECTRA), that is never the embedding size: transformers then has
        no projection. Heads whose scores depend on positions keep their size (`has_head_size`).

        Raises:
            UsageError: a size is above the parent's, no shape is left, or there are more than 100,000.
        """
        sizes = [sorted(set(values)) for values in (self.depth, self.heads, self.hidden, self.intermediate)]
        for name, values, most in zip(Shape._fields, sizes, shape_of(parent), strict=True):
            if values[-1] > most:
                raise UsageError(f"space: {name}: expected sizes up to {most}, the parent's; found {values[-1]}")
        count = len(sizes[0]) * len(sizes[1]) * len(sizes[2]) * len(sizes[3])
        if count > _MOST_SHAPES:
            raise UsageError(f"space: expected at most {_MOST_SHAPES:,} shapes; found {count:,}; leave out some sizes")
        every = (Shape(*values) for values in product(*sizes))
        shapes = tuple(
            shape
            for shape in every
            if not shape.hidden % shape.heads and has_head_size(shape, parent) and has_projection(shape, parent)
        )
        if not shapes:
            size = f", with {parent.head_size} for each head" if parent.keeps_head_size else ""
            raise UsageError(f"space: expected numbers of heads that divide a hidden size{size}; found none")
        return shapes


def read_space(path: str | Path) -> Space:
    """Reads the TOML file `path`: `depth`, `heads`, `hidden` and `intermediate`, a list of whole numbers each.

    Raises:
        UsageError: it cannot be read, or a list is missing, unknown, empty or holds something else.
    """
    try:
        data = tomllib.loads(read_text(user_path(path), limit=_LARGEST_FILE).removeprefix("\ufeff"))
        file = msgspec.convert(data, _File)
    except ReadingError as error:
        reason = str(error)
    except msgspec.ValidationError as error:
        text = one_line(error)
        reason = f"{text[:1].lower()}{text[1:]}"
    except (ValueError, RecursionError) as error:  # ValueError: integers of thousands of digits, no such day
        reason = f"not readable as TOML: {'nested too deep' if isinstance(error, RecursionError) else one_line(error)}"
    else:
        return Space(file.depth, file.heads, file.hidden, file.intermediate)
    raise UsageError(
        f"{path}: {reason}; expected a space in TOML: depth, heads, hidden and intermediate, each a list such as [2, 4]"
    )


def default_space(dimensions: Dimensions) -> Space:
    """Returns Bort's space, scaled to a parent: its sizes as fractions of the largest one of each list.

    The original has D of 2, 4, 6, 8, 10, 12, A of 4, 8, 12, 16, H of 512, 768, 1024, and I of 256, 512, 768, 1024, 3072 (de
    Wynter and Perry 2020, "Optimal Subarchitecture Extraction for BERT", arXiv 2010.10499). Heads that keep their
    size are as many as the hidden size has room for.
    """
    parent = shape_of(dimensions)

    def scaled(most: int, *original: int) -> tuple[int, ...]:
        return tuple(sorted({max(1, round(most * size / max(original))) for size in original}))

    heads, hidden = scaled(parent.heads, 4, 8, 12, 16), scaled(parent.hidden, 512, 768, 1024)
    if dimensions.keeps_head_size:
        heads = scaled(parent.heads, 512, 768, 1024)
        hidden = tuple(count * dimensions.head_size for count in heads)
    return Space(
        depth=scaled(parent.depth, 2, 4, 6, 8, 10, 12),
        heads=heads,
        hidden=hidden,
        intermediate=scaled(parent.intermediate, 256, 512, 768, 1024, 3072),
    )
