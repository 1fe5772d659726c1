#!/usr/bin/env python3
"""Time and memory of one long sequence: ModernBERT of base size (benchmarks/families.py), 12 layers with random weights.

    python -m benchmarks.long_inputs [--length 8192] [--rounds 2]

The portable file holds the scores of whole layers, as every exporter's graph does. The file for CPUs computes them in blocks
where layers have a window, and otherwise tile by tile. Each run has a process of its own, rounds alternate, and peaks are of
the whole process. Results go to benchmarks/results/long-inputs.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.families import make_checkpoint
from benchmarks.measuring import write_results
from exporters.session import Session
from prune_export.verbs.export import export

ROWS = (("portable", "fp32"), ("cpu", "fp32"), ("cpu", "int8"))


def run_once(model: Path, length: int, threads: int) -> dict[str, float]:
    """The seconds of one run, and the peaks in MiB of this process before and after it."""
    session, padding = Session(model, threads=threads), 100
    ids = np.random.default_rng(0).integers(5, 50_000, (1, length))
    mask = np.ones((1, length), dtype=np.int64)
    mask[:, -padding:] = 0
    loaded, start = peak(), time.perf_counter()
    session.run({"input_ids": ids, "attention_mask": mask})
    return {"seconds": time.perf_counter() - start, "loaded_mib": loaded, "peak_mib": peak()}


def peak() -> float:
    """The largest resident set so far, in MiB; `ru_maxrss` would be that of the process that started this one, if larger."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("build/families"), help="where the checkpoint is made")
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)  # one run, in a process of its own
    options = parser.parse_args()
    if options.run:
        print(json.dumps(run_once(options.run, options.length, options.threads)))
        return
    checkpoint = options.work / "modernbert"
    make_checkpoint("modernbert", checkpoint)
    models = {}
    for target, dtype in ROWS:
        folder = options.work / f"long-{target}-{dtype}"
        export(checkpoint, folder, target=target, dtype=dtype, verify=False, overwrite=True)
        models[f"{target} {dtype}"] = folder / "model.onnx"
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in models}
    given = ["--length", str(options.length), "--threads", str(options.threads)]
    for _ in range(options.rounds):
        for name, model in models.items():
            command = [sys.executable, "-m", "benchmarks.long_inputs", *given, "--run", str(model)]
            found = subprocess.run(command, check=True, capture_output=True, text=True)
            runs[name].append(json.loads(found.stdout))
            print(name, runs[name][-1], flush=True)
    rows: dict[str, Any] = {
        name: {key: median(run[key] for run in own) for key in own[0]} | {"runs": own} for name, own in runs.items()
    }
    conditions = {"length": options.length, "threads": options.threads, "rounds": options.rounds}
    print(write_results("long-inputs", {**conditions, "rows": rows}))


if __name__ == "__main__":
    main()
