"""Describes the machine on which measurements are made."""

from __future__ import annotations

import os
import platform
import sys
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

from prune_export.facts.record import versions


def machine() -> dict[str, Any]:
    """Returns date, processor, cores and versions."""
    return {
        "date": date.today().isoformat(),
        "processor": processor(),
        "cores": len(physical_cpus()),
        "python": sys.version.split()[0],
        "system": platform.platform(terse=True),
        "versions": versions(),
    }


def physical_cpus() -> tuple[int, ...]:
    """Returns one logical processor per physical core that this process may run on; none where the system names none."""
    if not hasattr(os, "sched_getaffinity"):
        return ()
    seen: set[str] = set()
    chosen = []
    for cpu in sorted(os.sched_getaffinity(0)):
        siblings = str(cpu)
        with suppress(OSError):
            siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text().strip()
        if siblings not in seen:
            seen.add(siblings)
            chosen.append(cpu)
    return tuple(chosen)


def processor() -> str:
    """Returns the processor's model name."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
