"""The axes of a description's tensors as data, and the functions that work along them.

A field of a description declares the dimensions of its tensor: `Annotated[Tensor, Axes("head", "value", "hidden")]`. A field
that holds a part, such as a `Linear`, declares what the part's axes are called there: `Annotated[Linear,
Renamed(inputs="hidden", outputs="intermediate")]`. Code that would otherwise list the tensors of a block uses the functions
below.

Fields without `Axes` are left alone. A tuple of numbers with one axis (the indices of heads) is treated like a tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from math import prod
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

P = TypeVar("P")
Sizes = Mapping[str, int]


@dataclass(frozen=True, slots=True, init=False)
class Axes:
    """The names of a tensor's dimensions, in order.

    In a checkpoint, the first `rows` of them are joined to the rows of a matrix, the others to its columns:
    `Axes("head", "value", "hidden", rows=2)` is `[heads * value, hidden]` there.
    """

    names: tuple[str, ...]
    rows: int

    def __init__(self, *names: str, rows: int = 1) -> None:
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "rows", rows)

    def renamed(self, names: Mapping[str, str]) -> Axes:
        """Returns the axes with the names in `names` replaced; the others stay."""
        return Axes(*(names.get(name, name) for name in self.names), rows=self.rows)

    def shape(self, sizes: Sizes) -> tuple[int, ...]:
        """Returns the tensor's shape for the sizes of axes in `sizes`."""
        return tuple(sizes[name] for name in self.names)

    def matrix_shape(self, sizes: Sizes) -> tuple[int, ...]:
        """Returns the shape of the matrix in a checkpoint: `(rows, columns)`, or `(rows,)` where all axes are rows."""
        shape = self.shape(sizes)
        rest = shape[self.rows :]
        return (prod(shape[: self.rows]), prod(rest)) if rest else (prod(shape),)


class Renamed:
    """The names of a part's axes within the description that holds it."""

    def __init__(self, **names: str) -> None:
        self.names = names


@dataclass(frozen=True, slots=True)
class _Field:
    """A field of a description class: its annotation of axes, whether it may be None, and the one class of its part."""

    name: str
    note: Axes | Renamed | None
    is_optional: bool
    is_tensor: bool
    part: type[Any] | None


_FIELDS: dict[type[Any], tuple[_Field, ...]] = {}


def _fields(kind: type[Any]) -> tuple[_Field, ...]:
    if kind not in _FIELDS:
        hints = get_type_hints(kind, include_extras=True)
        _FIELDS[kind] = tuple(_field(field.name, hints[field.name]) for field in fields(kind))
    return _FIELDS[kind]


def _field(name: str, hint: Any) -> _Field:
    note = None
    if get_origin(hint) is Annotated:
        hint, *notes = get_args(hint)
        note = next(item for item in notes if isinstance(item, Axes | Renamed))
    options = get_args(hint) if get_origin(hint) is UnionType else (hint,)
    parts = [option for option in options if isinstance(option, type) and is_dataclass(option)]
    return _Field(name, note, NoneType in options, Tensor in options, parts[0] if len(parts) == 1 else None)


def axes_of(kind: type[Any]) -> dict[str, Axes]:
    """Returns the axes of every tensor of a description class by path, such as "up.weight".

    A field that may hold several classes (an attention or a constant block) is left out.
    """
    axes: dict[str, Axes] = {}
    for field in _fields(kind):
        if isinstance(field.note, Axes) and field.is_tensor:
            axes[field.name] = field.note
        elif isinstance(field.note, Renamed) and field.part is not None:
            for path, inner in axes_of(field.part).items():
                axes[f"{field.name}.{path}"] = inner.renamed(field.note.names)
    return axes


def leaves(part: Any) -> Iterator[tuple[str, Any, Axes]]:
    """Yields path, value and axes of everything in a description that has axes, in the order of its fields."""
    yield from _leaves(part, "", {})


def _leaves(part: Any, prefix: str, names: Mapping[str, str]) -> Iterator[tuple[str, Any, Axes]]:
    for field in _fields(type(part)):
        name, value = field.name, getattr(part, field.name)
        if isinstance(field.note, Axes):
            if value is not None:
                yield f"{prefix}{name}", value, field.note.renamed(names)
        elif is_dataclass(value):
            yield from _leaves(value, f"{prefix}{name}.", _through(field.note, names))
        elif isinstance(value, tuple):
            for index, item in enumerate(value):
                if is_dataclass(item):
                    yield from _leaves(item, f"{prefix}{name}.{index}.", names)


def _through(note: Renamed | None, names: Mapping[str, str]) -> Mapping[str, str]:
    return names if note is None else {inner: names.get(outer, outer) for inner, outer in note.names.items()}


def named_tensors(part: Any) -> dict[str, Tensor]:
    """Returns every tensor of a description by its path, such as "attention.query_weight"."""
    return {path: value for path, value, _ in leaves(part) if isinstance(value, Tensor)}


def map_leaves(part: P, change: Callable[[Any, Axes], Any]) -> P:
    """Returns the part of a description with `change(value, axes)` in place of everything that has axes.

    A whole Encoder, which may hold one layer or tensor at several places, goes through `map_layers` instead.
    """
    return _map(part, change, {})  # type: ignore[no-any-return]


def _map(part: Any, change: Callable[[Any, Axes], Any], names: Mapping[str, str]) -> Any:
    changed: dict[str, Any] = {}
    for field in _fields(type(part)):
        value = getattr(part, field.name)
        if isinstance(field.note, Axes):
            changed[field.name] = None if value is None else change(value, field.note.renamed(names))
        elif is_dataclass(value):
            changed[field.name] = _map(value, change, _through(field.note, names))
        else:
            assert not isinstance(value, tuple), f"{field.name}: parts in a tuple are not mapped"
    return replace(part, **changed)


def take(part: P, axis: str, indices: Sequence[int]) -> P:
    """Returns the description with only `indices` of `axis`, in that order."""
    chosen = torch.tensor(tuple(indices), dtype=torch.long)

    def change(value: Any, axes: Axes) -> Any:
        if axis not in axes.names:
            return value
        if isinstance(value, tuple):
            return tuple(value[index] for index in indices)
        return value.index_select(axes.names.index(axis), chosen.to(value.device))

    return map_leaves(part, change)


def mask(part: P, axes: Sequence[str], keep: Tensor) -> P:
    """Returns the description with zeros where `keep` is False; weights and biases alike.

    `keep` is bool and has the dimensions `axes`; tensors that lack one of them stay as they are.
    """

    def change(value: Any, own: Axes) -> Any:
        if not isinstance(value, Tensor) or not set(axes) <= set(own.names):
            return value
        shape = [size if name in axes else 1 for name, size in zip(own.names, value.shape, strict=True)]
        in_order = sorted(range(len(axes)), key=lambda index: own.names.index(axes[index]))
        return value.masked_fill(~keep.permute(in_order).reshape(shape), 0)

    return map_leaves(part, change)


def scatter(part: P, axis: str, indices: Sequence[int], size: int) -> P:
    """Returns the description with `size` along `axis`: its own values at `indices`, zeros elsewhere."""
    if tuple(indices) == tuple(range(size)):
        return part
    chosen = torch.tensor(tuple(indices), dtype=torch.long)

    def change(value: Any, axes: Axes) -> Any:
        if axis not in axes.names:
            return value
        if isinstance(value, tuple):
            return tuple(range(size))
        dimension = axes.names.index(axis)
        shape = list(value.shape)
        shape[dimension] = size
        return value.new_zeros(shape).index_copy(dimension, chosen.to(value.device), value)

    return map_leaves(part, change)


def pad(part: P, axis: str, size: int) -> P:
    """Returns the description with zeros appended along `axis` up to `size`."""
    present = sizes_of(part).get(axis, size)
    return part if present == size else scatter(part, axis, range(present), size)


def concatenate(parts: Sequence[P], axis: str) -> P:
    """Returns one description of `parts`, joined along `axis`; tensors without that axis are those of the first one."""
    others = [iter([value for _, value, _ in leaves(part)]) for part in parts]

    def change(_value: Any, axes: Axes) -> Any:
        values = [next(other) for other in others]
        if axis not in axes.names:
            return values[0]
        if isinstance(values[0], tuple):
            return sum(values, ())
        return torch.cat(values, dim=axes.names.index(axis))

    return map_leaves(parts[0], change)


def fill_missing(part: P, sizes: Sizes) -> P:
    """Returns the description with zeros for the tensors that it lacks, in the shapes that follow from `sizes`."""
    missing = {
        field.name: torch.zeros(field.note.shape(sizes))
        for field in _fields(type(part))
        if isinstance(field.note, Axes) and getattr(part, field.name) is None
    }
    return replace(part, **missing) if missing else part  # type: ignore[type-var]


def zeros(kind: type[P], sizes: Sizes, **values: Any) -> P:
    """Returns a description of the class `kind` whose tensors are all zero; `values` are those of its other fields."""
    return assemble(kind, {path: torch.zeros(axes.shape(sizes)) for path, axes in axes_of(kind).items()}, **values)


def to_device(part: P, device: str) -> P:
    """Returns the description with its tensors on `device`."""
    return map_leaves(part, lambda value, _: value.to(device) if isinstance(value, Tensor) else value)


def sizes_of(part: Any) -> dict[str, int]:
    """Returns the size of every axis, which is that of the first tensor with the axis."""
    sizes: dict[str, int] = {}
    for _, value, axes in leaves(part):
        shape = value.shape if isinstance(value, Tensor) else (len(value),)
        for name, size in zip(axes.names, shape, strict=False):
            sizes.setdefault(name, size)
    return sizes


def wrong_shapes(part: Any, sizes: Sizes) -> Iterator[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    """Yields path, shape and expected shape of every tensor whose shape differs from that of its axes in `sizes`.

    The size of an axis that `sizes` lacks is that of the first tensor with the axis.
    """
    known = {**sizes_of(part), **sizes}
    for path, value, axes in leaves(part):
        if isinstance(value, Tensor) and tuple(value.shape) != axes.shape(known):
            yield path, tuple(value.shape), axes.shape(known)


def assemble(kind: type[P], tensors: Mapping[str, Tensor], **values: Any) -> P:
    """Returns a description of the class `kind` with `tensors` by path (see `named_tensors`) and `values` of other fields.

    A value with the name of a field of inner parts ("epsilon" of norms) becomes that of the inner parts.

    Raises:
        KeyError: a tensor that must not be None is missing; the path is the argument.
    """
    given: dict[str, Any] = {}
    for field in _fields(kind):
        name = field.name
        if name in values:
            given[name] = values[name]
        elif isinstance(field.note, Axes):
            given[name] = tensors.get(name) if field.is_optional else tensors[name]
        elif isinstance(field.note, Renamed) and field.part is not None:
            given[name] = _inner_part(field, tensors, values)
    return kind(**given)


def _inner_part(field: _Field, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> Any:
    assert field.part is not None
    prefix = f"{field.name}."
    inside = {path.removeprefix(prefix): value for path, value in tensors.items() if path.startswith(prefix)}
    if field.is_optional and not inside:
        return None
    try:
        return assemble(field.part, inside, **values)
    except KeyError as error:
        raise KeyError(f"{prefix}{error.args[0]}") from None
