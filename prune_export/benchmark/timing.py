"""How one network's runs are timed, inside its own process."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from statistics import median

_FEWEST_WARM_UPS = 3  # where they do not take longer than the measurement itself
_WARM_UP = 0.15  # of the measured time: a process that was stopped has to wake its threads and fill its caches


def by_wall_clock(step: Callable[[], object]) -> Callable[[], float]:
    """Runs `step` and returns the milliseconds that it took."""

    def timed() -> float:
        start = time.perf_counter()
        step()
        return 1000 * (time.perf_counter() - start)

    return timed


def measure(timed: Callable[[], float], seconds: float) -> tuple[float, int]:
    """Warms up, then runs for `seconds`, but once at least: the median in milliseconds, and the number of runs."""
    gc.collect()
    gc.disable()
    try:
        _warm_up(timed, seconds)
        times = [timed()]
        end = time.perf_counter() + seconds - times[0] / 1000
        while time.perf_counter() < end:
            times.append(timed())
    finally:
        gc.enable()
    return median(times), len(times)


def _warm_up(timed: Callable[[], float], seconds: float) -> None:
    start = time.perf_counter()
    for runs in range(1, 1_000_000):
        timed()
        spent = time.perf_counter() - start
        if spent >= seconds or (runs >= _FEWEST_WARM_UPS and spent >= _WARM_UP * seconds):
            return
