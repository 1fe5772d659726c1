"""Times the runs of one network within the current process."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from statistics import median

_FEWEST_WARM_UPS = 3  # unless they take longer than the measurement itself
_WARM_UP = 0.15  # of the measured time: a process that was paused has to wake its threads and fill its caches


def timed(run: Callable[[], object]) -> Callable[[], float]:
    """Returns a function that calls `run` and returns the milliseconds that it took."""

    def call() -> float:
        start = time.perf_counter()
        run()
        return 1000 * (time.perf_counter() - start)

    return call


def median_time(call: Callable[[], float], seconds: float, *, fewest: int = 1) -> tuple[float, int]:
    """Repeats `call`, which returns milliseconds, for `seconds`, and at least `fewest` times.

    Returns:
        The median in milliseconds, and the number of calls.
    """
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < fewest or time.perf_counter() < end:
        times.append(call())
    return median(times), len(times)


def measure(call: Callable[[], float], seconds: float) -> tuple[float, int]:
    """Warms up, then measures as `median_time`, without garbage collection."""
    gc.collect()
    gc.disable()
    try:
        _warm_up(call, seconds)
        return median_time(call, seconds)
    finally:
        gc.enable()


def _warm_up(call: Callable[[], float], seconds: float) -> None:
    start = time.perf_counter()
    for runs in range(1, 1_000_000):
        call()
        spent = time.perf_counter() - start
        if spent >= seconds or (runs >= _FEWEST_WARM_UPS and spent >= _WARM_UP * seconds):
            return
