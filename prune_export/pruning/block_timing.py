"""Times real ONNX Runtime sessions: of single blocks for the latency table, and of whole networks side by side."""

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
from prune_export.pruning.block_networks import COPIES, Blocks, largest_layer
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
    """Both networks as they are exported, run in turns."""
    with tempfile.TemporaryDirectory() as folder:
        yardstick, run = (_session(part, table.settings, Path(folder)) for part in (dense, slim))
        dense_ms, (slim_ms,) = _time(yardstick, [run])
    return Speed(predicted_ms, slim_ms, latency_costs(table, dense).dense, dense_ms)


def measure_blocks(encoder: Encoder, settings: dict[str, Any], *, progress: Progress = SILENT) -> LatencyTable:
    """Measures the blocks of networks shaped like the unpruned `encoder`, as `settings` (those of the table) say.

    Blocks are measured among copies of themselves; what that changes is taken back by one factor for all of them, so that
    the unpruned network takes the time that it was measured with.
    """
    shape = largest_layer(encoder)
    head_counts = list(range(1, shape.heads + 1))
    short = encoder.head.reads_first_token_only
    widths = sorted({max(1, round(shape.columns * part / _WIDTHS)) for part in range(1, _WIDTHS + 1)})
    last_widths = sorted({widths[0], widths[len(widths) // 2], widths[-1]}) if short else []
    blocks = Blocks(encoder)
    networks = [blocks.nothing(), blocks.repeated()]
    networks += [blocks.repeated(heads=count) for count in head_counts]
    networks += [blocks.repeated(columns=count) for count in widths]
    if short:
        networks += [blocks.last(heads=count) for count in head_counts]
        networks += [blocks.last(heads=1, columns=count) for count in last_widths]
    with tempfile.TemporaryDirectory() as name:
        progress.stage("Preparing block sessions", len(networks))
        yardstick, runs = _session(encoder, settings, Path(name)), []
        for network in networks:
            runs.append(_session(network, settings, Path(name)))
            progress.advance()
        progress.stage("Measuring blocks", _ROUNDS)
        dense, (rest, empty, *times) = _time(yardstick, runs, progress.advance)
    found = iter(times)
    heads = [(count, max(0.0, (next(found) - empty) / COPIES)) for count in head_counts]
    columns = [(count, max(0.0, (next(found) - empty) / COPIES)) for count in widths]
    last_heads = [(count, max(0.0, next(found) - rest)) for count in (head_counts if short else ())]
    last_columns = [(count, max(0.0, next(found) - rest - last_heads[0][1])) for count in last_widths]
    table = LatencyTable(settings, rest, *(_from_none(pairs) for pairs in (heads, columns, last_heads, last_columns)))
    predicted = latency_costs(table, encoder).dense
    return table.scaled((dense - rest) / (predicted - rest)) if min(dense, predicted) > rest else table


def _from_none(pairs: list[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    return ((0, 0.0), *pairs) if pairs else ()


def _session(encoder: Encoder, settings: dict[str, Any], folder: Path) -> Callable[[], object]:
    """A network as it would be exported, ready to run once."""
    path = folder / f"{len(list(folder.iterdir()))}.onnx"
    target, precision = TARGETS[settings["target"]], PRECISIONS[settings["dtype"]]
    save(build(encoder, target, precision), path)
    usual = target.settings(precision, encoder.embeddings.max_length)
    session = Session(
        path,
        provider=settings["provider"],
        threads=settings["threads"],
        settings=replace(usual, entries={**usual.entries, **_ALONE}),
    )
    shape = (settings["batch_size"], settings["sequence_length"])
    numbers = np.random.default_rng(0).integers(0, encoder.embeddings.word.shape[0], size=shape)
    inputs = {
        "input_ids": numbers.astype(np.int64),
        "attention_mask": np.ones(shape, dtype=np.int64),
        "token_type_ids": np.zeros(shape, dtype=np.int64),
    }
    return lambda: session.run(inputs)


def _time(
    yardstick: Callable[[], object], runs: Sequence[Callable[[], object]], advance: Callable[[], None] = lambda: None
) -> tuple[float, list[float]]:
    """Milliseconds of one run of `yardstick`, and of each of `runs`, in turns.

    A machine's clock changes, for seconds or minutes. So each time is a fraction of the yardstick's just before and after
    it; the median of the fractions counts.
    """
    for run in (yardstick, *runs):
        run()
    lengths: list[float] = []
    fractions: list[list[float]] = [[] for _ in runs]
    for _ in range(_ROUNDS):
        before = _median(yardstick)
        for start in range(0, len(runs), _GROUP):
            group = [_median(run) for run in runs[start : start + _GROUP]]
            after = _median(yardstick)
            for index, milliseconds in enumerate(group, start):
                fractions[index].append(2 * milliseconds / (before + after))
            lengths.append(after)
            before = after
        advance()
    whole = statistics.median(lengths)
    return whole, [whole * statistics.median(found) for found in fractions]


def _median(run: Callable[[], object]) -> float:
    return median_time(timed(run), _SECONDS, fewest=3)[0]
