"""The process of one row: loads one network, then measures the shapes that the parent sends.

`python -m prune_export.benchmark.worker` reads JSON lines and answers each with one:

    {"row": …, "conditions": …}                                     -> {"load_seconds": …, "size_bytes": …, "cost": …}
    {"batch_size": B, "sequence_length": N, "seconds": S}           -> {"milliseconds": …, "runs": …, "others": …}
    {"finish": true}                                                -> {"peak_mib": …}, and it ends

or with {"error": message}, and ends with code 1. Nothing heavy is imported here: which libraries a process holds is part of
what is measured. A loader is a function `(Row, Conditions) -> Loaded` in a module of its own.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune_export.benchmark.rows import Conditions, Cost, Row, Shape

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Loaded:
    """A network that is ready.

    `prepare` moves a batch to the device and returns a function that runs the network on it once and returns the
    milliseconds. `load_seconds`: from files that are in the page cache to a network that can run, imports left out
    (PyTorch maps its weights; the first run reads them).
    """

    prepare: Callable[[Mapping[str, NDArray[np.int64]]], Callable[[], float]]
    load_seconds: float
    size_bytes: int
    cost: Cost | None = None


def main() -> int:
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not get between the replies
    die_with_parent()
    try:
        _serve(lambda reply: print(json.dumps(reply), file=replies, flush=True))
    except Exception as error:  # any error of a library: the parent turns it into one line
        import traceback

        traceback.print_exc()
        message = " ".join(str(error).split())[:600] or type(error).__name__
        print(json.dumps({"error": message}), file=replies, flush=True)
        return 1
    return 0


def _serve(reply: Callable[[dict[str, Any]], None]) -> None:
    first = json.loads(sys.stdin.readline())
    row, conditions = _row(first["row"]), _conditions(first["conditions"])
    if conditions.cpus and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, conditions.cpus)  # before any library starts its threads
    module, function = row.loader.split(":")
    loaded: Loaded = getattr(import_module(module), function)(row, conditions)
    cost = asdict(loaded.cost) if loaded.cost else None
    reply({"load_seconds": loaded.load_seconds, "size_bytes": loaded.size_bytes, "cost": cost})

    from prune_export.benchmark.inputs import make_batch
    from prune_export.benchmark.other_processes import now, share_of_others
    from prune_export.timing import measure

    prepared: dict[
        Shape, Callable[[], float]
    ] = {}  # CUDA graphs replay from the addresses that they were captured with
    for line in sys.stdin:
        request = json.loads(line)
        if "finish" in request:
            reply({"peak_mib": peak_mib()})
            return
        shape = Shape(request["batch_size"], request["sequence_length"])
        if shape not in prepared:
            prepared[shape] = loaded.prepare(make_batch(shape, conditions))
        before = now()
        milliseconds, runs = measure(prepared[shape], request["seconds"])
        reply({"milliseconds": milliseconds, "runs": runs, "others": share_of_others(before, now(), conditions.cpus)})


def _row(data: dict[str, Any]) -> Row:
    return Row(**data | {"cost": Cost(**data["cost"]) if data["cost"] else None})


def _conditions(data: dict[str, Any]) -> Conditions:
    return Conditions(**data | {"cpus": tuple(data["cpus"])})


def peak_mib() -> float:
    """Returns the largest resident set of this process so far, in MiB; pages of mapped files count."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    import resource

    unit = 2**20 if sys.platform == "darwin" else 2**10  # getrusage's own
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def read_through(files: tuple[Path, ...]) -> int:
    """Reads files into the page cache; returns their size in bytes."""
    total = 0
    for path in files:
        with path.open("rb") as file:
            while part := file.read(1 << 24):
                total += len(part)
    return total


def die_with_parent() -> None:
    """Has the system kill this process with its parent: while stopped, it would not notice the parent's end."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
