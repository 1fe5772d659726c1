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
from prune_export.facts.plan import parse_indices
from prune_export.facts.record import versions
from prune_export.options.keywords import from_keywords
from prune_export.options.search import SearchOptions
from prune_export.pruning.calibration import Source
from prune_export.pruning.latency import timing_length
from prune_export.pruning.selection import Kept, layers_to_keep
from prune_export.slicing.support import check_sliceable
from prune_export.subarchitecture.evaluation_journal import Journal
from prune_export.subarchitecture.front_point import FrontPoint, PointLayer, choose, is_choice
from prune_export.subarchitecture.search_data import SearchData, read_search_data
from prune_export.subarchitecture.search_folder import CHECKPOINT, JOURNAL, check_folder, write_front, write_point
from prune_export.subarchitecture.search_run import Search, SearchFront

# The options that decide what a search is. One that goes on must have the same; `evaluations` may be more.
_SAME = (
    *("task", "samples", "seed", "dataset", "labels", "max_seq_length", "target", "dtype", "batch_size"),
    *("sequence_length", "threads", "widths", "depth", "align", "keep_layers", "device"),
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

    A subarchitecture keeps some heads and columns of each layer, and with `widths` a narrower residual stream. Its weights
    are the model's, refitted to `calibration`; nothing is trained. Candidates are judged by the divergence of their answers,
    by measured tables of latencies and by bytes. `points` of the front are then refitted, exported and measured.

    `output` holds the front as JSON and as a picture. With `max_loss`, `latency_ms`, `max_mib`, `best_w` or `point` one
    point is written to `checkpoint` in it: a masked checkpoint, or with `widths` a slim one. A search that was killed goes
    on when it is started again, and ends in the same front.

    Raises:
        UsageError: an option is out of range, or the folder is that of another search, or no point is within the limits.
        UnsupportedError: the residual stream of the model cannot be narrowed.
        DataError: the data cannot be read or is not for the task.
        CheckpointError, OutputError, ProviderError: see `export`.
    """
    progress = options.progress
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
    if options.widths:
        check_sliceable(checkpoint.encoder)
    keep = layers_to_keep(checkpoint.encoder, options.keep_layers)
    if options.depth is not None and len(keep) > options.depth:
        raise UsageError(f"--depth {options.depth}: --keep-layers names {len(keep)} layers; expected no more than that")
    options = replace(options, sequence_length=timing_length(options, checkpoint.encoder))
    progress.stage("Reading the data")
    data = read_search_data(options, checkpoint)
    record = _record(checkpoint, data, options)
    check_folder(folder)
    journal = Journal(folder / JOURNAL, record)
    run = Search(checkpoint, data, options, journal, keep)
    front = run.run()
    write_front(front, record, folder)
    chosen, written = None, None
    if is_choice(options):
        chosen = choose(front.points, front.unpruned, options)
        written = folder / CHECKPOINT
        network = run.networks.refitted(_units(chosen.layers), chosen.widths, progress=progress)
        point = {"point": msgspec.to_builtins(chosen), "search": record}
        progress.stage(f"Writing {written}")
        write_point(checkpoint, network, written, is_sliced=bool(chosen.widths), method="search", **point)
    return SearchResult(folder, front, chosen, written, record)


def _record(checkpoint: Checkpoint, data: SearchData, options: SearchOptions) -> dict[str, Any]:
    """Returns what a search depends on, as JSON: in front.json and at the head of the journal."""
    given = {name: getattr(options, name) for name in _SAME}
    settings: dict[str, Any] = msgspec.to_builtins(given)
    return {
        "options": settings,
        "data": {"name": data.fit.name, "sha256": data.digest},
        "source": checkpoint.source_to_json() | {"weights_sha256": sha256(checkpoint.weights_files)},
        "versions": versions(),
    }


def _units(layers: tuple[PointLayer, ...]) -> Kept:
    return tuple(
        (parse_indices(layer.heads, f"layer {index}, heads"), parse_indices(layer.columns, f"layer {index}, columns"))
        for index, layer in enumerate(layers)
    )
