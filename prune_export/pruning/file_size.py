"""Bytes of exported files, predicted from three that are written: whole, with the smallest blocks, and without blocks."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from exporters.axes import sizes_of
from exporters.cost import count_parameters, layer_shape
from exporters.encoder import Encoder
from exporters.onnx.precision import PRECISIONS
from exporters.onnx.serialize import save
from exporters.onnx.targets import TARGETS
from exporters.onnx.writer import build
from prune_export.pruning.block_networks import BlockNetworks
from prune_export.pruning.costs import Costs, counts_of
from prune_export.pruning.pruned_network import keep_units, unpruned

MIB = 2**20


@dataclass(frozen=True, slots=True)
class FileSize:
    """Bytes of an exported file: per parameter of a block, per block, and per parameter of what is left without blocks.

    A number in a table of distances is as large as `table` parameters.
    """

    parameter: float
    block: float
    rest: float
    rest_parameters: int
    embedding_rows: int
    table: float = 1.0

    def of(self, encoder: Encoder, counts: Sequence[tuple[int, int]], widths: Sequence[int] = ()) -> float:
        """Returns the bytes of the file of `encoder` with `counts` (heads, columns) per distinct layer and these widths.

        Without `widths` the residual stream is as wide as it is.
        """
        full = encoder.hidden_size
        of_norms = widths or (full,) * (2 * len(encoder.layers) + 1)
        blocks, parameters, rest = 0, 0.0, self.rest_parameters
        if widths:
            rest -= self.embedding_rows * (sizes_of(encoder.embeddings)["embedding"] - widths[0])
        for distinct, layer in enumerate(encoder.distinct_layers):
            first = encoder.layer_indices.index(distinct)
            before, middle, after = of_norms[2 * first : 2 * first + 3]
            shape = layer_shape(layer)
            heads, columns = counts[distinct]
            read, written = 2 * shape.query_key_size + shape.value_size, shape.value_size
            blocks += (heads > 0) + (columns > 0)
            parameters += heads * (read * before + written * middle) + columns * (middle + after)
            parameters += self.table * heads * shape.query_key_size * shape.distance_terms * shape.distance_rows
            if widths:
                parameters += before * middle + middle * after
        return self.parameter * parameters + self.block * blocks + self.rest * rest


def measure_file_size(encoder: Encoder, target: str, dtype: str) -> FileSize:
    """Measures the files of the unpruned network, of one with a head and a column per layer, and of one without blocks."""
    counts = counts_of(encoder)
    least = [(min(heads, 1), min(columns, 1)) for heads, columns in counts]
    kept = tuple((tuple(range(heads)), tuple(range(columns))) for heads, columns in least)
    smallest = keep_units(unpruned(encoder), kept).encoder
    alone = BlockNetworks(encoder).without_blocks()
    whole_bytes, small_bytes, rest_bytes = (
        file_bytes(network, target, dtype) for network in (encoder, smallest, alone)
    )
    embeddings = encoder.embeddings
    rows = sum(
        len(table) for table in (embeddings.word, embeddings.position, embeddings.token_type) if table is not None
    )
    rest = count_parameters(alone)
    table = 4.0 if PRECISIONS[dtype].quantized else 1.0  # tables stay in float32
    parameters = FileSize(1.0, 0.0, 0.0, rest, rows, table)
    of_whole, of_smallest = parameters.of(encoder, counts), parameters.of(encoder, least)
    parameter = (whole_bytes - small_bytes) / max(1.0, of_whole - of_smallest)
    blocks = sum((heads > 0) + (columns > 0) for heads, columns in counts)
    block = (small_bytes - rest_bytes - parameter * of_smallest) / max(1, blocks)
    return FileSize(parameter, block, rest_bytes / rest, rest, rows, table)


def written_bytes(encoder: Encoder, target: str, dtype: str, path: Path) -> int:
    """Writes `encoder` as it is exported to `path`; returns the bytes of the file and of its weights beside it."""
    save(build(encoder, TARGETS[target], PRECISIONS[dtype]), path)
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))


def file_bytes(encoder: Encoder, target: str, dtype: str) -> int:
    """Returns the bytes of the file that `encoder` is exported to, its weights beside it included."""
    with tempfile.TemporaryDirectory() as name:
        return written_bytes(encoder, target, dtype, Path(name) / "model.onnx")


def file_costs(size: FileSize, encoder: Encoder) -> Costs:
    """Returns the MiB of the files of `encoder`'s pruned networks."""
    none = [(0, 0)] * len(encoder.distinct_layers)
    fixed = size.of(encoder, none) / MIB
    heads, columns = [], []
    for index, (most_heads, most_columns) in enumerate(counts_of(encoder)):

        def added(unit: tuple[int, int], layer: int = index) -> float:
            return size.of(encoder, [*none[:layer], unit, *none[layer + 1 :]]) / MIB - fixed

        heads.append(tuple(added((count, 0)) for count in range(most_heads + 1)))
        columns.append(tuple(added((0, count)) for count in range(most_columns + 1)))
    return Costs("MiB", size.of(encoder, counts_of(encoder)) / MIB, fixed, tuple(heads), tuple(columns))
