"""`prune_export.search` finds subarchitectures of a checkpoint: the front of error, latency and size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from exporters.errors import CheckpointError, OutputError, UsageError
from exporters.providers import PROVIDERS
from prune_export.checkpoint.load import Checkpoint, load_checkpoint
from prune_export.checkpoint.source import resolve
from prune_export.checkpoint.weights import sha256
from prune_export.facts.record import versions
from prune_export.files.holding import held
from prune_export.options.keywords import from_keywords
from prune_export.options.search import FPTAS, SearchOptions
from prune_export.pruning.calibration import Source
from prune_export.pruning.latency import timing_length
from prune_export.pruning.selection import layers_to_keep
from prune_export.slicing.support import check_sliceable
from prune_export.subarchitecture.evaluation_journal import Journal
from prune_export.subarchitecture.fptas_run import FptasSearch
from prune_export.subarchitecture.front_point import FrontPoint, SearchFront, choose, is_choice
from prune_export.subarchitecture.plain_config import check_parent
from prune_export.subarchitecture.search_data import SearchData, read_search_data
from prune_export.subarchitecture.search_folder import CHECKPOINT, JOURNAL, check_folder, write_front
from prune_export.subarchitecture.search_run import Search
from prune_export.subarchitecture.space import Space
from prune_export.subarchitecture.uniform_networks import space_of, space_to_json
from prune_export.subarchitecture.uniform_run import UniformSearch

# The options that decide what a search is. One that goes on must have the same; `evaluations` may be more.
_SAME = (
    *("task", "samples", "seed", "dataset", "labels", "max_seq_length", "target", "dtype", "batch_size"),
    *("sequence_length", "threads", "widths", "depth", "align", "keep_layers", "device", "uniform", "method"),
    *("epsilon", "steps", "inherit", "max_divergence"),
)


@dataclass(frozen=True, slots=True, eq=False)
class SearchResult:
    """A finished search. `chosen` is the point that was written to `checkpoint`; both are None where none was asked for."""

    folder: Path
    front: SearchFront
    chosen: FrontPoint | None
    checkpoint: Path | None
    record: dict[str, Any]


@from_keywords(SearchOptions, Source=Source)
def search(options: SearchOptions) -> SearchResult:
    """Finds the subarchitectures of the checkpoint `model` that no other one beats in error, latency and size.

    A subarchitecture keeps some heads and columns of each layer, and with `widths` a narrower residual stream. With
    `uniform` all layers are alike and there is one width, out of the sizes in `space`. Its weights are the model's, refitted
    to `calibration`; nothing is trained. Candidates are judged by the divergence of their answers, by measured tables of
    latencies and by bytes. `points` of the front are then refitted, exported and measured. `method` "fptas" is the published
    algorithm (de Wynter and Perry 2020, arXiv 2010.10499), which finds one uniform shape.

    `output` holds the front as JSON and as a picture. With `max_loss`, `latency_ms`, `max_mib`, `best_w` or `point` one
    point is written to `checkpoint` in it: a masked checkpoint, with `widths` a slim one, of a uniform network a plain one.
    A search that was killed goes on when it is started again, and ends in the same front.

    Raises:
        UsageError: an option is out of range, or the folder is that of another search, or no point is within the limits.
        UnsupportedError: the residual stream of the model cannot be narrowed, or it has no uniform networks.
        DataError: the data cannot be read or is not for the task.
        CheckpointError, OutputError, ProviderError: see `export`.
    """
    progress = options.progress
    options.check_combination()
    PROVIDERS[options.device].check_torch("--device")
    folder = Path(options.output)
    source = resolve(options.model, options, progress=progress)
    if folder.resolve() == source.folder.resolve():
        raise OutputError(f"{folder} is the model's own folder; choose another")
    progress.stage("Reading the checkpoint")
    checkpoint = load_checkpoint(source, task=options.task)
    if checkpoint.form not in ("plain", "masked"):
        raise CheckpointError(
            f"'{source.name}' is in {checkpoint.form} format; a search needs a checkpoint with weights of full size"
        )
    keep = _checked_layers(checkpoint, options)
    space = space_of(checkpoint, options) if options.is_uniform else None
    options = replace(options, sequence_length=timing_length(options, checkpoint.encoder))
    progress.stage("Reading the data")
    data = read_search_data(options, checkpoint)
    record = _record(checkpoint, data, options, space)
    check_folder(folder)
    with held(folder, "search"):
        journal = Journal(folder / JOURNAL, record)
        run: Search | UniformSearch | FptasSearch
        if space is None:
            run = Search(checkpoint, data, options, journal, keep)
        else:
            kind = FptasSearch if options.method == FPTAS else UniformSearch
            run = kind(checkpoint, data, options, journal, space)
        front = run.run()
        write_front(front, record, folder)
        if not is_choice(options):
            return SearchResult(folder, front, None, None, record)
        chosen = choose(front.points, front.unpruned, options)
        written = folder / CHECKPOINT
        run.write(chosen, written, {"point": msgspec.to_builtins(chosen), "search": record})
    return SearchResult(folder, front, chosen, written, record)


def _checked_layers(checkpoint: Checkpoint, options: SearchOptions) -> frozenset[int]:
    """Returns the layers that lose nothing, after checks that the model can be searched in this way."""
    if options.is_uniform:
        check_parent(checkpoint)
        return frozenset()
    if options.widths:
        check_sliceable(checkpoint.encoder)
    keep = layers_to_keep(checkpoint.encoder, options.keep_layers)
    if options.depth is not None and len(keep) > options.depth:
        raise UsageError(f"--depth {options.depth}: --keep-layers names {len(keep)} layers; expected no more than that")
    return keep


def _record(checkpoint: Checkpoint, data: SearchData, options: SearchOptions, space: Space | None) -> dict[str, Any]:
    """Returns what a search depends on, as JSON: in front.json and at the head of the journal."""
    given = {name: getattr(options, name) for name in _SAME}
    settings: dict[str, Any] = msgspec.to_builtins(given)
    return {
        "options": settings,
        **({} if space is None else {"space": space_to_json(space)}),
        "data": {"name": data.fit.name, "sha256": data.digest},
        "source": checkpoint.source_to_json() | {"weights_sha256": sha256(checkpoint.weights_files)},
        "versions": versions(),
    }
