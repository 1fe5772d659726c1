"""Tables of what pruning did and of what was measured for it."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.table import Table

from prune_export.pruning.latency import LatencyTable
from prune_export.pruning.one_shot import PruneResult


def budget_lines(result: PruneResult) -> Iterator[str]:
    """What was asked for and what it came to."""
    kept = f"{result.cost / result.dense:.3f} of the unpruned network's"
    digits = 2 if result.unit == "ms" else 0
    yield f"{result.budget.name}: {result.cost:,.{digits}f} {result.unit}, {kept}; {_units(result)}"
    if (speed := result.speed) is not None:
        yield (
            f"predicted {speed.predicted_ms:.2f} ms ({speed.predicted_speedup:.2f}×), measured "
            f"{speed.measured_ms:.2f} ms ({speed.measured_speedup:.2f}×, unpruned {speed.dense_measured_ms:.2f} ms)"
        )
        if before := result.record["speed"]["before_correction"]:
            yield f"before one correcting step: measured {before['measured_ms']:.2f} ms ({before['measured_speedup']:.2f}×)"
    for kind, layers in _gone(result):
        yield f"No {kind} is left in layer{'s' if len(layers) > 1 else ''} {', '.join(map(str, layers))}"
    for note in result.record["data"]["notes"]:
        yield f"Note: {note}."
    yield f"Written to {result.folder}"


def _units(result: PruneResult) -> str:
    """Heads and columns that stay, as parts of all."""
    units = result.record["budget"]["units"]
    return ", ".join(
        f"{counts['kept']:,} of {counts['of']:,} {name} ({counts['kept'] / max(counts['of'], 1):.3f})"
        for name, counts in units.items()
    )


def _gone(result: PruneResult) -> Iterator[tuple[str, list[int]]]:
    """Blocks that went as a whole, by layer."""
    for kind, part in (("attention", "heads"), ("feed-forward block", "columns")):
        layers = [index for index, layer in enumerate(result.plan.layers) if not getattr(layer, part)]
        if layers:
            yield kind, layers


def latency_tables(table: LatencyTable) -> Iterator[Table]:
    """Milliseconds of one attention block by heads, of one feed-forward block by columns; the last ones if they differ."""
    settings = table.settings
    where = f"{settings['target']}, {settings['dtype']}, {settings['batch_size']}×{settings['sequence_length']}"
    for name, pairs in (
        ("heads", table.heads),
        ("columns", table.columns),
        ("heads of the last layer", table.last_heads),
        ("columns of the last layer", table.last_columns),
    ):
        if not pairs:
            continue
        grid = Table(box=box.SIMPLE_HEAD, title=f"Milliseconds by {name}, {where}", title_justify="left")
        for heading in (name.split()[0], "ms"):
            grid.add_column(heading, justify="right")
        for count, milliseconds in pairs:
            grid.add_row(str(count), f"{milliseconds:.3f}")
        yield grid
