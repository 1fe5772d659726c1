#!/usr/bin/env python3
"""Which form of the graph runs fastest on this machine's CPU provider.

The same slim network in the forms of every target: `portable` is plain operations in batch-first 3-D shapes and the
baseline, `cpu` plain operations in sequence-first 2-D rows, `cuda` ONNX Runtime's fused operations (on the CPU provider
here). Each row is a process of its own, rounds alternate, medians after warm-up, no padding.

    python -m benchmarks.forms --model CHECKPOINT [--shapes 1x128 1x384 8x384] [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measuring import spread, write_results

BASELINE = "portable"
TARGETS = ("portable", "cpu", "cuda")

# Run in its own process: loads the model, warms up, prints the median milliseconds.
WORKER = """
import sys, time
from pathlib import Path
from statistics import median
import numpy as np
from exporters import runtime
path, batch, length, threads, seconds = Path(sys.argv[1]), *map(int, sys.argv[2:5]), float(sys.argv[5])
session = runtime.create_session(path, threads=threads)
ids = np.random.default_rng(0).integers(5, 1000, (batch, length))
inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
for _ in range(3):
    runtime.run(session, inputs)
times, end = [], time.perf_counter() + seconds
while time.perf_counter() < end or len(times) < 5:
    start = time.perf_counter()
    runtime.run(session, inputs)
    times.append(time.perf_counter() - start)
print(1000 * median(times))
"""


def milliseconds(path: Path, batch: int, length: int, threads: int, seconds: float) -> float:
    """Median latency of one run, in a process of its own."""
    arguments = [str(path), str(batch), str(length), str(threads), str(seconds)]
    found = subprocess.run([sys.executable, "-c", WORKER, *arguments], capture_output=True, text=True, check=True)
    return float(found.stdout)


def export(model: Path, folder: Path, target: str) -> Path:
    """Exports with `target`, unverified: this is about time."""
    import prune_export

    return prune_export.export(model, folder / target, target=target, verify=False).model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--shapes", nargs="+", default=["1x128", "1x384", "8x384"], help="batch x length")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2.0, help="measured time of a row and round")
    parser.add_argument("--name", default="forms", help="name of the results file")
    options = parser.parse_args()
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = {target: export(options.model, Path(folder), target) for target in TARGETS}
        for shape in options.shapes:
            batch, length = map(int, shape.split("x"))
            times: dict[str, list[float]] = {target: [] for target in TARGETS}
            for _ in range(options.rounds):
                for target, path in paths.items():
                    times[target].append(milliseconds(path, batch, length, options.threads, options.seconds))
            rows[shape] = {
                target: {
                    "milliseconds": spread(found),
                    f"speed_over_{BASELINE}": median(
                        base / own for base, own in zip(times[BASELINE], found, strict=True)
                    ),
                }
                for target, found in times.items()
            }
            print(shape, json.dumps(rows[shape]), flush=True)
    print(write_results(options.name, {"checkpoint": options.model.name, "threads": options.threads, "rows": rows}))


if __name__ == "__main__":
    main()
