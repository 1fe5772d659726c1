"""Times ONNX Runtime sessions: of single blocks for the latency table, and of whole networks side by side."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from exporters.encoder import Encoder
from exporters.onnx.precision import PRECISIONS
from exporters.onnx.serialize import save
from exporters.onnx.targets import TARGETS
from exporters.onnx.writer import build
from exporters.session import Session
from prune_export.progress import SILENT, Progress
from prune_export.pruning.block_networks import COPIES, BlockNetworks, largest_layer
from prune_export.pruning.latency import LatencyTable, latency_costs
from prune_export.pruning.speed import Speed
from prune_export.timing import median_time, timed

_WIDTHS = 16  # feed-forward widths that are measured, beside 0
_ROUNDS = 7
_SECONDS = 0.02  # the least that a session runs in a round
# Threads of a session that has run wait for its next run in a busy loop, and would take the processors of another session.
_ALONE = {"session.force_spinning_stop": "1"}
_GROUP = 5  # sessions between two runs of the unpruned network, the yardstick


def measure_speed(dense: Encoder, slim: Encoder, table: LatencyTable, *, predicted_ms: float) -> Speed:
    """Measures both networks as they are exported; they run in turns."""
    with tempfile.TemporaryDirectory() as folder:
        yardstick, run = (open_session(network, table.settings, Path(folder)) for network in (dense, slim))
        dense_ms, (slim_ms,) = time_in_turns(yardstick, [run])
    return Speed(predicted_ms, slim_ms, latency_costs(table, dense).dense, dense_ms)


def measure_blocks(encoder: Encoder, settings: dict[str, Any], *, progress: Progress = SILENT) -> LatencyTable:
    """Measures the blocks of networks shaped like the unpruned `encoder` under the conditions in `settings`.

    Blocks are measured among copies of themselves. One factor for all of them corrects for that: the times of the unpruned
    network's blocks then add up to its own measured time. `settings` become those of the table.
    """
    shape = largest_layer(encoder)
    head_counts = list(range(1, shape.heads + 1))
    has_last_layer = encoder.head.reads_first_token_only
    widths = sorted({max(1, round(shape.columns * step / _WIDTHS)) for step in range(1, _WIDTHS + 1)})
    last_widths = sorted({widths[0], widths[len(widths) // 2], widths[-1]}) if has_last_layer else []
    blocks = BlockNetworks(encoder)
    networks = [blocks.without_blocks(), blocks.repeated()]
    networks += [blocks.repeated(heads=count) for count in head_counts]
    networks += [blocks.repeated(columns=count) for count in widths]
    if has_last_layer:
        networks += [blocks.last_layer(heads=count) for count in head_counts]
        networks += [blocks.last_layer(heads=1, columns=count) for count in last_widths]
    with tempfile.TemporaryDirectory() as name:
        progress.stage("Preparing block sessions", len(networks))
        yardstick, runs = open_session(encoder, settings, Path(name)), []
        for network in networks:
            runs.append(open_session(network, settings, Path(name)))
            progress.advance()
        progress.stage("Measuring blocks", _ROUNDS)
        dense, (rest, empty, *times) = time_in_turns(yardstick, runs, progress.advance)
    measured = iter(times)
    heads = [(count, max(0.0, (next(measured) - empty) / COPIES)) for count in head_counts]
    columns = [(count, max(0.0, (next(measured) - empty) / COPIES)) for count in widths]
    last_heads = [(count, max(0.0, next(measured) - rest)) for count in (head_counts if has_last_layer else ())]
    last_columns = [(count, max(0.0, next(measured) - rest - last_heads[0][1])) for count in last_widths]
    table = LatencyTable(settings, rest, *(_with_zero(pairs) for pairs in (heads, columns, last_heads, last_columns)))
    predicted = latency_costs(table, encoder).dense
    return table.scaled((dense - rest) / (predicted - rest)) if min(dense, predicted) > rest else table


def _with_zero(pairs: list[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    return ((0, 0.0), *pairs) if pairs else ()


def open_session(encoder: Encoder, settings: dict[str, Any], folder: Path) -> Callable[[], object]:
    """Returns a function that runs a network once, as it would be exported."""
    path = folder / f"{len(list(folder.iterdir()))}.onnx"
    target, precision = TARGETS[settings["target"]], PRECISIONS[settings["dtype"]]
    save(build(encoder, target, precision), path)
    exported = target.settings(precision, encoder.embeddings.max_length)
    session = Session(
        path,
        provider=settings["provider"],
        threads=settings["threads"],
        settings=replace(exported, entries={**exported.entries, **_ALONE}),
    )
    shape = (settings["batch_size"], settings["sequence_length"])
    token_ids = np.random.default_rng(0).integers(0, encoder.embeddings.word.shape[0], size=shape)
    inputs = {
        "input_ids": token_ids.astype(np.int64),
        "attention_mask": np.ones(shape, dtype=np.int64),
        "token_type_ids": np.zeros(shape, dtype=np.int64),
    }
    return lambda: session.run(inputs)


def time_in_turns(
    yardstick: Callable[[], object], runs: Sequence[Callable[[], object]], advance: Callable[[], None] = lambda: None
) -> tuple[float, list[float]]:
    """Returns the milliseconds of one run of `yardstick`, and of one run of each of `runs`, measured in turns.

    A machine's clock changes, for seconds or minutes. Each time is therefore taken as a fraction of the yardstick's just
    before and after it, and the median of the fractions counts.
    """
    for run in (yardstick, *runs):
        run()
    yardstick_times: list[float] = []
    fractions: list[list[float]] = [[] for _ in runs]
    for _ in range(_ROUNDS):
        before = _median(yardstick)
        for start in range(0, len(runs), _GROUP):
            group = [_median(run) for run in runs[start : start + _GROUP]]
            after = _median(yardstick)
            for index, milliseconds in enumerate(group, start):
                fractions[index].append(2 * milliseconds / (before + after))
            yardstick_times.append(after)
            before = after
        advance()
    whole = statistics.median(yardstick_times)
    return whole, [whole * statistics.median(of_run) for of_run in fractions]


def _median(run: Callable[[], object]) -> float:
    return median_time(timed(run), _SECONDS, fewest=3)[0]
