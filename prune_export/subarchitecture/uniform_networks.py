"""Plain networks of a search: inherited and refitted, described for the front, made again from a point, and written."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from exporters.encoder import Encoder
from exporters.errors import UsageError
from prune_export.checkpoint.load import Checkpoint
from prune_export.options.search import SearchOptions
from prune_export.progress import Progress
from prune_export.subarchitecture.front_point import Costs, FrontPoint, PointShape, layers_of
from prune_export.subarchitecture.measured_front import Nominee, as_exported
from prune_export.subarchitecture.plain_config import plain_shapes
from prune_export.subarchitecture.plain_files import write_plain
from prune_export.subarchitecture.plain_network import PlainNetwork, inherit, prepare_inheritance
from prune_export.subarchitecture.search_data import SearchData
from prune_export.subarchitecture.shape import Shape, shape_of
from prune_export.subarchitecture.space import Space, default_space, read_space

_PART, _FEWEST = 16, 4  # one of 16 batches, but 4 at least, fit the networks while the search goes on


class UniformNetworks:
    """The plain networks of one parent, fitted to the fitting part of the data."""

    def __init__(self, checkpoint: Checkpoint, data: SearchData, options: SearchOptions) -> None:
        self.options = options
        self.inheritance = prepare_inheritance(
            checkpoint, data.fit.batches, seed=options.seed, device=options.device, progress=options.progress
        )
        few = data.fit.batches[: max(_FEWEST, len(data.fit.batches) // _PART)]
        self._with_few = replace(self.inheritance, batches=few)

    def estimated(self, shape: Shape) -> PlainNetwork:
        """Returns the network of `shape`, fitted to a few of the batches."""
        return inherit(self._with_few, shape)

    def nominee(self, shape: Shape, predicted: Costs | None, progress: Progress) -> Nominee:
        """Returns the network of `shape`, fitted to all batches, for the front."""
        network = inherit(self.inheritance, shape)
        progress.note(f"fitted {shape}")
        of_point = PointShape(**shape._asdict(), parent_layers=network.layers)
        return Nominee([*shape], partial(exported, network), layers_of(network.units), predicted, shape=of_point)

    def network(self, point: FrontPoint) -> PlainNetwork:
        """Makes the network of a point again, of what stands in front.json."""
        assert point.shape is not None
        of_point = point.shape
        shape = Shape(of_point.depth, of_point.heads, of_point.hidden, of_point.intermediate)
        return inherit(
            self.inheritance,
            shape,
            layers=of_point.parent_layers,
            units=point.units,
            progress=self.options.progress,
        )

    def write(self, point: FrontPoint, folder: Path, record: dict[str, Any]) -> None:
        """Makes the network of a point again, and writes it as a plain checkpoint.

        Raises:
            CheckpointError, OutputError: see `write_plain`.
        """
        network = self.network(point)
        self.options.progress.stage(f"Writing {folder}")
        write_plain(self.inheritance.checkpoint, network, folder, overwrite=True, **record)


def exported(network: PlainNetwork) -> Encoder:
    """Returns the network as it is exported."""
    return as_exported(network.encoder, is_sliced=False)


def space_of(checkpoint: Checkpoint, options: SearchOptions) -> Space:
    """Returns the space of `options`, with depths up to `options.depth`.

    Raises:
        UsageError: the file cannot be read, no depth is left, or there is no shape but the model's own.
    """
    dimensions = checkpoint.family.dimensions(checkpoint.config)
    parent = shape_of(dimensions)
    space = default_space(dimensions) if options.space is None else read_space(options.space)
    if options.depth is not None:
        depths = tuple(depth for depth in space.depth if depth <= options.depth)
        if not depths:
            raise UsageError(
                f"--depth {options.depth}: the space has depths from {min(space.depth)}; expected one of them"
            )
        space = replace(space, depth=depths)
    if set(plain_shapes(checkpoint, space)) == {parent}:
        raise UsageError("space: holds the model's own shape alone; expected smaller ones")
    return space


def space_to_json(space: Space) -> dict[str, Any]:
    """Returns the sizes of a space as JSON."""
    sizes: dict[str, Any] = msgspec.to_builtins(space)
    return sizes
