#!/usr/bin/env python3
"""Time and peak memory of the whole `prune-export prune`, imports and reading included.

    python -m benchmarks.prune_cost --model ../shared/models/minilm-qa-dense --calibration train.json

Adds a row to benchmarks/results/prune-cost.json; the same model, samples and budget again replace theirs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from benchmarks.measuring import RESULTS, as_json, run_process, write_results

NAME = "prune-cost"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--calibration", type=Path, nargs="+", required=True)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--flops", type=float, default=0.5)
    parser.add_argument("--runs", type=int, default=1)
    options = parser.parse_args()
    runs = []
    for _ in range(options.runs):
        with tempfile.TemporaryDirectory() as folder:
            words = ["--model", options.model, "--calibration", *options.calibration, "--samples", options.samples]
            words += ["--flops", options.flops, "--output", f"{folder}/masked", "--quiet"]
            runs.append(run_process([sys.executable, "-m", "prune_export", "prune", *map(str, words)]))
            print(runs[-1], flush=True)
    path = RESULTS / f"{NAME}.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
    row = {"model": options.model.name, "samples": options.samples, "flops": options.flops}
    rows = [other for other in rows if any(other[key] != value for key, value in row.items())]
    print(write_results(NAME, {"rows": [*rows, row | as_json(runs)]}))


if __name__ == "__main__":
    main()
