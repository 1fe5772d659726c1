"""What a candidate costs: milliseconds by measured tables, and bytes of its file by measured files."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporters.axes import sizes_of
from exporters.cost import count_parameters, layer_shape
from exporters.encoder import Encoder
from exporters.onnx.precision import PRECISIONS
from exporters.onnx.serialize import save
from exporters.onnx.targets import TARGETS
from exporters.onnx.writer import build
from prune_export.pruning.block_networks import BlockNetworks
from prune_export.pruning.costs import Costs
from prune_export.subarchitecture.candidate import Candidate
from prune_export.subarchitecture.width_latency import WidthLatency


@dataclass(frozen=True, slots=True)
class FileSize:
    """Bytes of an exported file: per parameter of a block, and per parameter of what is left without blocks."""

    block: float
    rest: float
    rest_parameters: int
    embedding_rows: int

    def of(self, candidate: Candidate, encoder: Encoder) -> float:
        """Returns the bytes of the file of a candidate of `encoder`."""
        full = encoder.hidden_size
        widths = candidate.widths or (full,) * (2 * len(encoder.layers) + 1)
        blocks, rest = 0, self.rest_parameters
        if candidate.widths:
            rest -= self.embedding_rows * (sizes_of(encoder.embeddings)["embedding"] - widths[0])
        for distinct, layer in enumerate(encoder.distinct_layers):
            first = encoder.layer_indices.index(distinct)
            before, middle, after = widths[2 * first : 2 * first + 3]
            shape = layer_shape(layer)
            heads, columns = candidate.counts[distinct]
            read, written = 2 * shape.query_key_size + shape.value_size, shape.value_size
            blocks += heads * (read * before + written * middle) + columns * (middle + after)
            if candidate.widths:
                blocks += before * middle + middle * after
        return self.block * blocks + self.rest * rest


def measure_file_size(encoder: Encoder, target: str, dtype: str) -> FileSize:
    """Measures the files of the unpruned network, and of its embeddings, norms and head alone."""
    alone = BlockNetworks(encoder).without_blocks()
    with tempfile.TemporaryDirectory() as name:
        whole_bytes, rest_bytes = (
            written_bytes(network, target, dtype, Path(name) / f"{index}.onnx")
            for index, network in enumerate((encoder, alone))
        )
    embeddings = encoder.embeddings
    rows = sum(
        len(table) for table in (embeddings.word, embeddings.position, embeddings.token_type) if table is not None
    )
    rest = count_parameters(alone)
    size = FileSize(1.0, 0.0, rest, rows)
    shapes = [layer_shape(layer) for layer in encoder.distinct_layers]
    full = Candidate(tuple(shape.heads for shape in shapes), tuple(shape.columns for shape in shapes))
    return FileSize((whole_bytes - rest_bytes) / size.of(full, encoder), rest_bytes / rest, rest, rows)


def written_bytes(encoder: Encoder, target: str, dtype: str, path: Path) -> int:
    """Writes `encoder` as it is exported to `path`; returns the bytes of the file and of its weights beside it."""
    save(build(encoder, TARGETS[target], PRECISIONS[dtype]), path)
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))


@dataclass(frozen=True, slots=True)
class CandidateCosts:
    """The costs of `encoder`'s candidates. `blocks` are those of its latency table, `by_width` those of sliced networks."""

    encoder: Encoder
    blocks: Costs
    size: FileSize
    by_width: WidthLatency | None = None

    def latency_ms(self, candidate: Candidate) -> float:
        """Returns the milliseconds of one batch."""
        if not candidate.widths:
            return self.blocks.total(candidate.counts)
        assert self.by_width is not None
        return self.by_width.total(candidate, self.encoder.layer_indices)

    def bytes(self, candidate: Candidate) -> float:
        """Returns the bytes of the exported file."""
        return self.size.of(candidate, self.encoder)

    def to_json(self) -> dict[str, Any]:
        """Returns the conditions under which a search is the same: everything that was measured."""
        return {"latency": self.blocks.dense, "bytes_per_parameter": [self.size.block, self.size.rest]}
