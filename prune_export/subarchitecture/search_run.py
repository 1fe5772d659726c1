"""Runs a search: measures costs, lets candidates evolve, refits and measures the front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import msgspec

from exporters.encoder import Encoder
from exporters.errors import UsageError
from prune_export.checkpoint.load import Checkpoint
from prune_export.checkpoint.masked import write_masked
from prune_export.checkpoint.reference_model import load_reference_model
from prune_export.checkpoint.slim_writing import write_slim
from prune_export.checkpoint.weights import read_weights
from prune_export.options.search import SearchOptions
from prune_export.outputs.folder_types import MASKED, SLIM_CHECKPOINT
from prune_export.pruning.costs import counts_of
from prune_export.pruning.file_size import FileSize, measure_file_size
from prune_export.pruning.gates import hugging_face_layers
from prune_export.pruning.latency import LatencyTable, latency_costs
from prune_export.pruning.latency_cache import latency_table
from prune_export.pruning.obs import block_moments, obs_scores
from prune_export.pruning.pruned_network import full_size_tensors
from prune_export.pruning.scores import LayerScores
from prune_export.pruning.selection import Rules, least_cost, select
from prune_export.slicing.bases import Basis, spectra
from prune_export.slicing.widths import widths_by_share
from prune_export.subarchitecture.candidate import Candidate, candidate_of
from prune_export.subarchitecture.candidate_costs import CandidateCosts
from prune_export.subarchitecture.candidate_networks import CandidateNetworks
from prune_export.subarchitecture.divergence import Divergence
from prune_export.subarchitecture.evaluation_journal import Journal
from prune_export.subarchitecture.evolution import Judged, evolve
from prune_export.subarchitecture.front_point import Costs, FrontPoint, SearchFront, layers_of
from prune_export.subarchitecture.measured_front import Measuring, Nominee, as_exported, measure_front
from prune_export.subarchitecture.moves import Moves
from prune_export.subarchitecture.pareto import spread
from prune_export.subarchitecture.search_data import SearchData
from prune_export.subarchitecture.search_folder import JOURNAL, make_room
from prune_export.subarchitecture.width_latency import WidthLatency, measure_widths

# Fractions of the unpruned network's time at which the search starts, narrow streams at every third of them, and fractions
# of the eigenvalues that these keep.
_FRACTIONS = tuple(hundredths / 100 for hundredths in (*range(97, 69, -3), *range(65, 15, -5)))
_EVERY_NARROW = 3
# One batch of so many shows whether a candidate is worth the others: it is not where a point of the front that costs no more
# has an error so many times as small on it.
_FEW, _MARGIN = 4, 1.05
_SHARES = (0.99, 0.97, 0.94, 0.9)


class Tables(msgspec.Struct, frozen=True):
    """All that was measured before the search: a search that goes on must not measure it anew."""

    latency: LatencyTable
    size: FileSize
    by_width: WidthLatency | None


class Search:
    """A search over the subarchitectures of one checkpoint."""

    def __init__(
        self, checkpoint: Checkpoint, data: SearchData, options: SearchOptions, journal: Journal, keep: frozenset[int]
    ) -> None:
        self.checkpoint, self.data, self.options, self.journal, self.keep = checkpoint, data, options, journal, keep
        self.encoder = checkpoint.encoder
        self.progress = options.progress
        self.rules = Rules(options.align, keep)
        self.judge = Divergence(checkpoint, data.search.batches, device=options.device)
        self.tables = self._tables()
        self.costs = CandidateCosts(
            self.encoder, latency_costs(self.tables.latency, self.encoder), self.tables.size, self.tables.by_width
        )
        self.scores, self.networks = self._networks()

    def _tables(self) -> Tables:
        def measure() -> Any:
            encoder, options = self.encoder, self.options
            table = latency_table(encoder, options, progress=self.progress)
            by_width = measure_widths(encoder, table.settings, progress=self.progress) if options.widths else None
            size = measure_file_size(encoder, table.settings["target"], table.settings["dtype"])
            return msgspec.to_builtins(Tables(table, size, by_width))

        found = self.journal.once(["tables"], measure)
        try:
            return msgspec.convert(found, Tables)
        except msgspec.ValidationError as error:
            raise UsageError(
                f"{Path(self.options.output) / JOURNAL}: its measured tables are damaged, or of another version: {error}; "
                "remove the file to begin anew"
            ) from error

    def _networks(self) -> tuple[tuple[LayerScores, ...], CandidateNetworks]:
        model, batches = load_reference_model(self.checkpoint), self.data.fit.batches
        self.progress.stage("Scoring heads and columns", self.data.fit.samples)
        moments = block_moments(
            model,
            hugging_face_layers(self.checkpoint, model),
            self.encoder.task,
            self.encoder.inputs,
            batches,
            seed=self.options.seed,
            device=self.options.device,
            progress=self.progress,
        )
        scores = obs_scores(self.encoder, moments)
        bases: Sequence[Basis] | None = None
        if self.options.widths:
            self.progress.stage("Finding the directions of the residual stream", len(batches))
            bases = spectra(
                self.encoder, batches, seed=self.options.seed, device=self.options.device, progress=self.progress
            )
        device = self.options.device
        return scores, CandidateNetworks(self.encoder, moments, scores, batches, bases, device, self.judge.of)

    def run(self) -> SearchFront:
        """Searches, and measures the front.

        Raises:
            OutputError: the journal cannot be written.
            UsageError: no network was found that is faster than the model and near enough to it.
        """
        options, batches = self.options, self.data.search.batches
        few, others = (
            Divergence(self.checkpoint, part, device=options.device)
            for part in (batches[::_FEW], [batch for index, batch in enumerate(batches) if index % _FEW])
        )
        count, dense, nearest = 0, self.costs.blocks.dense, math.inf

        def is_of_use(candidate: Candidate, latency_ms: float) -> bool:
            return latency_ms < dense or bool(candidate.widths)

        def judged(candidate: Candidate, front: Sequence[Judged[Candidate]]) -> Judged[Candidate] | None:
            nonlocal count, nearest
            count += 1
            network = cache(lambda: self.networks.estimated(candidate))
            first = max(0.0, self.journal.once([*candidate.key, "few"], lambda: few.of(network())))
            latency_ms, size = self.costs.latency_ms(candidate), self.costs.bytes(candidate)
            if any(
                point.latency_ms <= latency_ms and point.bytes <= size and _MARGIN * point.first <= first
                for point in front
            ):
                return None
            rest = max(0.0, self.journal.once([*candidate.key, "others"], lambda: others.of(network())))
            error = (few.examples * first + others.examples * rest) / (few.examples + others.examples)
            if is_of_use(candidate, latency_ms):
                nearest = min(nearest, error)
            return Judged(candidate, error, latency_ms, size, first)

        self.progress.stage("Searching", options.evaluations)
        front = evolve(
            self._starts(),
            self._moves(),
            judged,
            evaluations=options.evaluations,
            seed=options.seed,
            most_error=options.max_divergence,
            progress=self.progress,
        )
        useful = [
            point
            for point in front
            if point.error <= options.max_divergence and is_of_use(point.candidate, point.latency_ms)
        ]
        if not useful:
            found = "none was faster" if nearest == math.inf else f"the nearest faster one has {nearest:.3g}"
            raise UsageError(
                f"found no network that takes less than the model's {dense:.3g} ms with a divergence of at most "
                f"{options.max_divergence:.3g}: {found}; raise --max-divergence or --evaluations"
            )
        return self._measured(spread(useful, options.points, lambda point: point.latency_ms), count)

    def full(self) -> Candidate:
        """Returns the sizes of the unpruned network."""
        heads, columns = zip(*counts_of(self.encoder), strict=True)
        return Candidate(heads, columns, self.encoder.widths if self.options.widths else ())

    def _moves(self) -> Moves:
        return Moves(
            self.full(),
            self.costs.latency_ms,
            self.options.align,
            keep_layers=self.keep,
            depth=self.options.depth,
        )

    def _starts(self) -> list[Candidate]:
        """Returns exact selections at several fractions of the time, and the same on narrow streams."""
        dense = self.costs.blocks.dense
        found = (self.selection(fraction * dense) for fraction in _FRACTIONS)
        selections = [selection for selection in found if selection is not None]
        narrow = []
        if self.networks.bases is not None:
            full = self.full()
            for share in _SHARES:
                widths = widths_by_share(self.networks.bases, share)
                narrow += [candidate._replace(widths=widths) for candidate in (full, *selections[::_EVERY_NARROW])]
        return [*selections, *narrow] or [self.full()]

    def selection(self, latency_ms: float) -> Candidate | None:
        """Returns the exact selection for a latency, without layers beyond the depth asked for; None where there is none."""
        blocks = self.costs.blocks
        if latency_ms < least_cost(self.scores, blocks, self.rules):
            return None
        selection = candidate_of(select(self.scores, blocks, latency_ms, self.rules))
        return selection if self.options.depth is None else self._shallow(selection)

    def _shallow(self, candidate: Candidate) -> Candidate:
        """Returns the candidate with those layers emptied whose units have the least scores, down to the depth asked for."""
        assert self.options.depth is not None
        worth = [
            float(layer.heads[list(heads)].sum() + layer.columns[list(columns)].sum())
            for layer, (heads, columns) in zip(self.scores, candidate.units(self.scores), strict=True)
        ]
        by_worth = sorted(range(len(worth)), key=lambda layer: (layer not in self.keep, -worth[layer]))
        kept = set(by_worth[: self.options.depth])
        heads, columns = (
            tuple(count if layer in kept else 0 for layer, count in enumerate(counts))
            for counts in (candidate.heads, candidate.columns)
        )
        return candidate._replace(heads=heads, columns=columns)

    # --- the front ----------------------------------------------------------------------------------------------------

    def _measured(self, front: Sequence[Judged[Candidate]], evaluations: int) -> SearchFront:
        measuring = Measuring(
            self.checkpoint,
            self.data,
            self.tables.latency.settings,
            max_seq_length=self.options.max_seq_length,
            labels=self.options.labels,
        )
        self.progress.stage("Refitting the front", len(front))
        nominees: dict[tuple[Any, ...], Nominee] = {}
        for judged in front:
            nominee = self._nominee(judged)
            nominees.setdefault(tuple(nominee.key), nominee)
            self.progress.advance()
        points, unpruned = measure_front(
            measuring, self.journal, nominees.values(), len(nominees), progress=self.progress
        )
        return SearchFront(points, unpruned, evaluations)

    def _nominee(self, judged: Judged[Candidate]) -> Nominee:
        """Returns the network of a point: the candidate's, or that of the exact selection for its latency.

        Candidates are judged by networks that are refitted block by block. Here both are refitted as a whole, and the one
        that is nearer to the model on the search's examples is measured.
        """
        selection = None if judged.candidate.widths else self.selection(judged.latency_ms)
        rivals = dict.fromkeys((judged.candidate, selection or judged.candidate))
        if len(rivals) == 1:
            return self.nominee_of(judged.candidate, judged.error)
        encoders: dict[Candidate, Encoder] = {}

        def error(rival: Candidate) -> float:
            encoders[rival] = self._exported(rival)
            return max(0.0, self.judge.of(encoders[rival]))

        errors = {rival: self.journal.once([*rival.key, "refitted"], partial(error, rival)) for rival in rivals}
        nearest = min(rivals, key=errors.__getitem__)
        return self.nominee_of(nearest, errors[nearest], encoders.get(nearest))

    def nominee_of(self, candidate: Candidate, error: float, encoder: Encoder | None = None) -> Nominee:
        """Returns what is measured of a candidate; `encoder` is its network, refitted as a whole (None: not made yet)."""
        make = cache(lambda: self._exported(candidate) if encoder is None else encoder)
        predicted = Costs(self.costs.latency_ms(candidate), self.costs.bytes(candidate), error)
        return Nominee(candidate.key, make, layers_of(candidate.units(self.scores)), predicted, candidate.widths)

    def _exported(self, candidate: Candidate) -> Encoder:
        network = self.networks.refitted(candidate.units(self.scores), candidate.widths)
        return as_exported(network.encoder, is_sliced=bool(candidate.widths))

    def write(self, point: FrontPoint, folder: Path, record: dict[str, Any]) -> None:
        """Refits the network of a point and writes it: a masked checkpoint, or a slim one where the stream is narrower.

        Raises:
            OutputError: the folder holds other files, or cannot be written.
        """
        network = self.networks.refitted(point.units, point.widths, progress=self.progress)
        self.progress.stage(f"Writing {folder}")
        source = self.checkpoint.source.folder
        make_room(folder, SLIM_CHECKPOINT if point.widths else MASKED)
        if point.widths:
            write_slim(network.encoder, self.checkpoint.config, folder, beside=source, method="search", **record)
            return
        changed = full_size_tensors(self.checkpoint, read_weights(source, self.checkpoint.family), network)
        write_masked(self.checkpoint, network.plan, folder, overwrite=True, changed=changed, method="search", **record)
