"""What the benchmarks share: processes measured from outside, and results that say where they come from."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.source_tree import commit
from prune_export.facts.machine import machine as machine_facts

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True, slots=True)
class Run:
    """One finished process: wall-clock seconds, and its largest resident set in MiB (children counted singly)."""

    seconds: float
    peak_mib: float


def run_process(command: list[str]) -> Run:
    """Runs `command` to its end.

    Raises:
        RuntimeError: it failed; the message holds the end of its output.
    """
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        output = process.stdout.read().decode(errors="replace")
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed with {process.returncode}:\n{output[-2000:]}")
    return Run(seconds, usage.ru_maxrss / 1024)


def spread(values: list[float]) -> dict[str, float]:
    """Minimum, median and maximum."""
    return {"min": min(values), "median": median(values), "max": max(values)}


def machine() -> dict[str, Any]:
    """The hardware and software that the figures hold for."""
    return machine_facts() | {"commit": commit()}


def write_results(name: str, results: dict[str, Any]) -> Path:
    """Writes `results` with the machine's description under benchmarks/results."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine()} | results, indent=1) + "\n", encoding="utf-8")
    return path


def as_json(runs: list[Run]) -> dict[str, Any]:
    """All runs of one row, with their spread."""
    return {
        "seconds": spread([run.seconds for run in runs]),
        "peak_mib": spread([run.peak_mib for run in runs]),
        "runs": [asdict(run) for run in runs],
    }
