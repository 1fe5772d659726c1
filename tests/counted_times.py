"""Times that are the same in every run: a network takes as many milliseconds as it has thousands of parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from exporters.cost import count_parameters
from exporters.encoder import Encoder
from prune_export.pruning import block_timing
from prune_export.subarchitecture import measured_front, shape_latency, width_latency

Run = Callable[[], Encoder]


def count_instead_of_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces what a search measures; test_latency_tables.py, and searches that are killed, do measure."""
    for module in (block_timing, measured_front, shape_latency, width_latency):
        monkeypatch.setattr(module, "open_session", lambda network, *_: lambda: network)
        monkeypatch.setattr(module, "time_in_turns", _time_in_turns)


def _time_in_turns(
    yardstick: Run, runs: Sequence[Run], advance: Callable[[], None] = lambda: None
) -> tuple[float, list[float]]:
    advance()
    return _milliseconds(yardstick), [_milliseconds(run) for run in runs]


def _milliseconds(run: Run) -> float:
    return count_parameters(run()) / 1000
