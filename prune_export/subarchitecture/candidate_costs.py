"""What a candidate costs: milliseconds by measured tables, and bytes of its file by measured files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from exporters.encoder import Encoder
from prune_export.pruning.costs import Costs
from prune_export.pruning.file_size import FileSize
from prune_export.subarchitecture.candidate import Candidate
from prune_export.subarchitecture.width_latency import WidthLatency


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
        return self.size.of(self.encoder, candidate.counts, candidate.widths)

    def to_json(self) -> dict[str, Any]:
        """Returns the conditions under which a search is the same: everything that was measured."""
        return {"latency": self.blocks.dense, "bytes_per_parameter": [self.size.block, self.size.rest]}
