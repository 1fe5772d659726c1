"""Networks of candidates: at once from the moments of the unpruned network, or refitted layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from exporters.encoder import Attention, Encoder, FeedForward, Layer, map_layers
from prune_export.progress import SILENT, Progress
from prune_export.pruning.obs import BlockMoments, refit
from prune_export.pruning.pruned_network import PrunedNetwork, keep_units, unpruned
from prune_export.pruning.reconstruction.layerwise import reconstruct
from prune_export.pruning.scores import LayerScores
from prune_export.pruning.selection import Kept
from prune_export.slicing.bases import Basis
from prune_export.slicing.slicer import Refitting, slice_network
from prune_export.subarchitecture.candidate import Candidate, candidate_of

_MOST_BYTES = 1 << 30  # of refitted output projections that are kept


@dataclass(slots=True, eq=False)
class CandidateNetworks:
    """The networks of one parent's candidates.

    `moments` are those of `block_moments`, `scores` those of `obs_scores`, `batches` the examples that networks are fitted
    to, and `bases` those of `spectra` (None: no candidate is sliced). `judge` gives the error of a network.
    """

    dense: Encoder
    moments: Sequence[BlockMoments | None]
    scores: Sequence[LayerScores]
    batches: Sequence[Mapping[str, Tensor]]
    bases: Sequence[Basis] | None = None
    device: str = "cpu"
    judge: Callable[[Encoder], float] | None = None
    _outputs: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    _bytes: int = 0

    def estimated(self, candidate: Candidate) -> Encoder:
        """Returns a network whose output projections are refitted block by block, on the unpruned network's inputs.

        Nothing runs: levels of a block that candidates share are fitted once. Drift is not corrected, so the network is a
        little worse than the one of `refitted`.
        """
        pruned = self._with_outputs(keep_units(unpruned(self.dense), candidate.units(self.scores)).encoder, candidate)
        if not candidate.widths:
            return pruned
        return slice_network(self.dense, pruned, (), candidate.widths, bases=self.bases, refit="none")

    def refitted(self, units: Kept, widths: Sequence[int] = (), *, progress: Progress = SILENT) -> PrunedNetwork:
        """Returns the network with `units`, refitted to the unpruned network layer by layer, and sliced to `widths`.

        A sliced network is made in three ways: by formulas, with what writes the stream refitted, and with all refitted. It
        is the one with the least error by `judge`, or the last without that.
        """
        kept = keep_units(unpruned(self.dense), units)
        if widths:
            encoder = self._sliced(kept.encoder, candidate_of(units, tuple(widths)), progress)
        else:
            encoder, _ = reconstruct(self.dense, kept.encoder, self.batches, device=self.device, progress=progress)
        return PrunedNetwork(encoder, kept.heads, kept.columns)

    def _sliced(self, kept: Encoder, candidate: Candidate, progress: Progress) -> Encoder:
        ways: tuple[Refitting, ...] = ("full",) if self.judge is None else ("full", "writing")
        networks = [
            slice_network(
                self.dense,
                kept,
                self.batches,
                candidate.widths,
                bases=self.bases,
                refit=way,
                device=self.device,
                progress=progress,
            )
            for way in ways
        ]
        return networks[0] if self.judge is None else min((*networks, self.estimated(candidate)), key=self.judge)

    def _with_outputs(self, pruned: Encoder, candidate: Candidate) -> Encoder:
        order = self.dense.layer_indices
        units = candidate.units(self.scores)

        def changed(first: int, layer: Layer) -> Layer:
            index = order[first]
            attention, feed_forward = layer.attention, layer.feed_forward
            heads, columns = units[index]
            dense = self.dense.distinct_layers[index]
            if isinstance(attention, Attention) and len(heads) < len(self.scores[index].heads):
                assert isinstance(dense.attention, Attention)
                size = attention.value_size
                features = (torch.tensor(heads)[:, None] * size + torch.arange(size)).flatten()
                weight = self._refit(2 * index, dense.attention.output_weight.flatten(1), features)
                attention = replace(attention, output_weight=weight.unflatten(1, (len(heads), size)))
            if isinstance(feed_forward, FeedForward) and len(columns) < len(self.scores[index].columns):
                assert isinstance(dense.feed_forward, FeedForward)
                weight = self._refit(2 * index + 1, dense.feed_forward.down.weight, torch.tensor(columns))
                feed_forward = replace(feed_forward, down=replace(feed_forward.down, weight=weight))
            return replace(layer, attention=attention, feed_forward=feed_forward)

        return map_layers(pruned, changed)

    def _refit(self, block: int, weight: Tensor, features: Tensor) -> Tensor:
        key = (block, len(features))
        if key not in self._outputs:
            moments = self.moments[block]
            assert moments is not None
            fitted = refit(weight, moments, features)
            if self._bytes + fitted.nbytes > _MOST_BYTES:
                self._outputs.clear()
                self._bytes = 0
            self._outputs[key] = fitted
            self._bytes += fitted.nbytes
        return self._outputs[key]
