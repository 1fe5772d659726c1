"""The processors' time that goes to other processes: they disturb some rows more than others, in every round alike."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_BUSY = (0, 1, 2, 5, 6, 7)  # user, nice, system, irq, softirq, steal: of the columns of /proc/stat (man 5 proc)


@dataclass(frozen=True, slots=True)
class Moment:
    """Seconds since some start: of the clock, of this process on all processors, and busy ones per processor."""

    clock: float
    own: float
    busy: dict[int, float]


def now() -> Moment:
    """Returns the state of this process and, if the system tells it, of the processors."""
    busy: dict[int, float] = {}
    with suppress(OSError):
        for line in Path("/proc/stat").read_text().splitlines():
            name, *columns = line.split()
            if name.startswith("cpu") and name != "cpu":
                ticks = sum(int(columns[column]) for column in _BUSY)
                busy[int(name[3:])] = ticks / os.sysconf("SC_CLK_TCK")
    return Moment(time.perf_counter(), time.process_time(), busy)


def share_of_others(before: Moment, after: Moment, cpus: tuple[int, ...]) -> float | None:
    """Returns the fraction of the time of `cpus`, where this process is pinned, that went to others; None: not known."""
    known = [cpu for cpu in cpus if cpu in before.busy and cpu in after.busy]
    wall = after.clock - before.clock
    if not known or wall <= 0:
        return None
    busy = sum(after.busy[cpu] - before.busy[cpu] for cpu in known)
    return min(1.0, max(0.0, (busy - (after.own - before.own)) / (wall * len(known))))
