"""Tables and lines of pruning and of latency tables."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.table import Table

from prune_export.pruning.latency import LatencyTable
from prune_export.pruning.one_shot import PruneResult


def budget_lines(result: PruneResult) -> Iterator[str]:
    """Yields the lines on a budget: the cost that was reached, the speed, and the notes."""
    kept = f"{result.cost / result.dense:.3f} of the unpruned network's"
    digits = 2 if result.unit in ("ms", "MiB") else 0
    yield f"{result.budget.name}: {result.cost:,.{digits}f} {result.unit}, {kept}; {_units(result)}"
    if (speed := result.speed) is not None:
        yield (
            f"predicted {speed.predicted_ms:.2f} ms ({speed.predicted_speedup:.2f}×), measured "
            f"{speed.measured_ms:.2f} ms ({speed.measured_speedup:.2f}×, unpruned {speed.dense_measured_ms:.2f} ms)"
        )
        if before := result.record["speed"]["before_correction"]:
            yield f"before one correcting step: measured {before['measured_ms']:.2f} ms ({before['measured_speedup']:.2f}×)"
    if result.bytes is not None:
        yield f"the exported file has {result.bytes / 2**20:.2f} MiB"
    for kind, layers in _removed_blocks(result):
        yield f"No {kind} is left in layer{'s' if len(layers) > 1 else ''} {', '.join(map(str, layers))}"
    if all(counts["kept"] == counts["of"] for counts in result.record["budget"]["units"].values()):
        yield "Note: the network meets this budget without pruning, and nothing was removed."
    for note in result.record["data"]["notes"]:
        yield f"Note: {note}."
    yield f"Written to {result.folder}"


def _units(result: PruneResult) -> str:
    """Returns the kept heads and columns, with their fractions of all."""
    units = result.record["budget"]["units"]
    return ", ".join(
        f"{counts['kept']:,} of {counts['of']:,} {name} ({counts['kept'] / max(counts['of'], 1):.3f})"
        for name, counts in units.items()
    )


def _removed_blocks(result: PruneResult) -> Iterator[tuple[str, list[int]]]:
    """Yields each kind of block with the layers that have lost it."""
    for kind, units in (("attention", "heads"), ("feed-forward block", "columns")):
        layers = [index for index, layer in enumerate(result.plan.layers) if not getattr(layer, units)]
        if layers:
            yield kind, layers


def latency_tables(table: LatencyTable) -> Iterator[Table]:
    """Yields tables of milliseconds by heads and by columns; those of the last layer as well, where they differ."""
    settings = table.settings
    conditions = f"{settings['target']}, {settings['dtype']}, {settings['batch_size']}×{settings['sequence_length']}"
    for name, pairs in (
        ("heads", table.heads),
        ("columns", table.columns),
        ("heads of the last layer", table.last_heads),
        ("columns of the last layer", table.last_columns),
    ):
        if not pairs:
            continue
        times = Table(box=box.SIMPLE_HEAD, title=f"Milliseconds by {name}, {conditions}", title_justify="left")
        for heading in (name.split()[0], "ms"):
            times.add_column(heading, justify="right")
        for count, milliseconds in pairs:
            times.add_row(str(count), f"{milliseconds:.3f}")
        yield times
