"""Loaders for a benchmark's processes that need no network: what they "measure" shows what a process was given."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from prune_export.benchmark.rows import Conditions, Cost, Row
from prune_export.benchmark.worker import Loaded

Timed = Callable[[], float]


def _loaded(prepare: Callable[[Mapping[str, Any]], Timed]) -> Loaded:
    return Loaded(prepare, load_seconds=0.25, size_bytes=3 << 20, cost=Cost(1000, 10))


def constant(row: Row, conditions: Conditions) -> Loaded:  # noqa: ARG001
    """Every run takes `row.model` milliseconds."""
    print("a library that prints on stdout")  # which must not get between the replies
    return _loaded(lambda batch: lambda: float(row.model))  # noqa: ARG005


def checksum(row: Row, conditions: Conditions) -> Loaded:  # noqa: ARG001
    """The sum of the token ids times their place."""
    return _loaded(lambda batch: lambda: float((batch["input_ids"].ravel() * range(batch["input_ids"].size)).sum()))


def processors(row: Row, conditions: Conditions) -> Loaded:  # noqa: ARG001
    """How many processors the process may use, and the threads that OpenMP is told: 10 * the one + the other."""
    threads = int(os.environ["OMP_NUM_THREADS"])
    return _loaded(lambda batch: lambda: 10.0 * len(os.sched_getaffinity(0)) + threads)  # noqa: ARG005


def busy(row: Row, conditions: Conditions) -> Loaded:  # noqa: ARG001
    """A thread spins for ever, as an idle thread pool does for a while."""
    import threading

    threading.Thread(target=lambda: [None for _ in iter(time.process_time, -1.0)], daemon=True).start()
    return _loaded(lambda batch: lambda: 1.0)  # noqa: ARG005


def refuses(row: Row, conditions: Conditions) -> Loaded:  # noqa: ARG001
    raise ValueError("this cannot\nbe loaded")


def exits(row: Row, conditions: Conditions) -> Loaded:  # noqa: ARG001
    print("the last words of a library", file=sys.stderr, flush=True)
    os._exit(7)


def dies_when_measured(row: Row, conditions: Conditions) -> Loaded:  # noqa: ARG001
    return _loaded(lambda batch: lambda: float(os.kill(os.getpid(), signal.SIGKILL) or 0))  # noqa: ARG005
