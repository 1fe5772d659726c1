"""Maps the tensors of a description to those of a checkpoint: one table per part, for reading and for writing.

A row maps the path of a tensor in the description ("attention.query_weight") to its name in the checkpoint and to the way
in which it is stored. The description's axes (`exporters.axes`) say which dimensions form the rows of a matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from exporters.axes import Axes, Sizes


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor in a checkpoint.

    Its rows are part `part` of `parts` of the rows of the matrix `name`. The parts follow one another, or with `per_head`
    those of the first head come first, then those of the second. A `transposed` matrix is stored as `[columns, rows]`.
    """

    name: str
    part: int = 0
    parts: int = 1
    per_head: bool = False
    transposed: bool = False

    @property
    def module(self) -> str:
        """Returns the path of the module that the tensor belongs to."""
        return self.name.rpartition(".")[0]

    def shape(self, axes: Axes, sizes: Sizes) -> tuple[int, ...]:
        """Returns the shape that the tensor `name` has in the checkpoint."""
        rows, *columns = axes.matrix_shape(sizes)
        return (*columns, self.parts * rows) if self.transposed else (self.parts * rows, *columns)

    def load(self, stored: Tensor, axes: Axes, sizes: Sizes) -> Tensor:
        """Returns the description's tensor, made of the checkpoint's; a view where that is possible."""
        matrix = stored.t() if self.transposed else stored
        if self.parts > 1:
            groups = (sizes["head"], self.parts, -1) if self.per_head else (1, self.parts, -1)
            matrix = matrix.unflatten(0, groups)[:, self.part]
        return matrix.reshape(axes.shape(sizes))


Table = Mapping[str, Stored]


def linear(field: str, path: str, **how: Any) -> dict[str, Stored]:
    """Returns the rows of a linear map or a norm: weight and bias of `field`, in the module `path`; `how` as for `Stored`.

    `field` ends in "_" where weight and bias are fields of the block itself ("attention.query_").
    """
    field = field if field.endswith("_") else f"{field}."
    bias = {name: value for name, value in how.items() if name != "transposed"}
    return {f"{field}weight": Stored(f"{path}.weight", **how), f"{field}bias": Stored(f"{path}.bias", **bias)}


def section(table: Table, part: str) -> Table:
    """Returns the rows of one part ("attention"), by their paths in the part."""
    return {path.removeprefix(f"{part}."): row for path, row in table.items() if path.startswith(f"{part}.")}


def read(
    table: Table, axes: Mapping[str, Axes], sizes: Sizes, source: Callable[[str, tuple[int, ...]], Tensor]
) -> dict[str, Tensor]:
    """Returns the tensors of `table` by their paths in the description.

    `axes` are the axes of these tensors; `source(name, shape)` returns the checkpoint's tensor `name` of that shape.
    """
    return {
        path: row.load(source(row.name, row.shape(axes[path], sizes)), axes[path], sizes) for path, row in table.items()
    }


def write(table: Table, tensors: Mapping[str, tuple[Tensor, Axes]]) -> dict[str, Tensor]:
    """Returns the checkpoint's tensors by name; `tensors` are those of the description with their axes, by path.

    `tensors` has all parts of a matrix or none. Rows of `table` without a tensor are left out.
    """
    matrices: dict[str, list[tuple[int, Tensor]]] = {}
    rows = {row.name: row for path, row in table.items() if path in tensors}
    for path, row in table.items():
        if path in tensors:
            tensor, axes = tensors[path]
            groups = tensor.shape[0] if row.per_head else 1
            matrix = tensor.reshape(groups, -1, *_columns(tensor, axes))  # [groups, rows of a part, columns]
            matrices.setdefault(row.name, []).append((row.part, matrix))
    written = {}
    for name, parts in matrices.items():
        ordered = [matrix for _, matrix in sorted(parts, key=lambda pair: pair[0])]
        matrix = (torch.cat(ordered, dim=1) if len(ordered) > 1 else ordered[0]).flatten(0, 1)
        written[name] = (matrix.t() if rows[name].transposed else matrix).contiguous()
    return written


def _columns(tensor: Tensor, axes: Axes) -> tuple[int, ...]:
    return (tensor.shape[axes.rows :].numel(),) if tensor.ndim > axes.rows else ()
