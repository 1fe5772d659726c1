"""The layers of a network that a shallower one begins with."""

from __future__ import annotations


def even_layers(count: int, layers: int) -> tuple[int, ...]:
    """Returns `count` of `layers` layers at even distances, counted from 0: the last of each block of them.

    The student's layer m is then the layer to which TinyBERT's mapping (`distillation.even_map`) assigns it.
    """
    return tuple(round((index + 1) * layers / count) - 1 for index in range(count))
