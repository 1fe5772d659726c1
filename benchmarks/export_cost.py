#!/usr/bin/env python3
"""How long an export takes and how much memory, beside optimum's of the same checkpoint.

Whole processes, imports included, no parity on either side where it can be left out, rounds alternating:

    prune-export       prune-export --no-verify
    optimum, no check  optimum's main_export with do_validation=False
    optimum-cli        optimum-cli export onnx, as users run it (it always compares at the end)
    imports            a process that only imports what prune-export imports

    python -m benchmarks.export_cost --model CHECKPOINT [--rounds 3]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.measuring import Run, as_json, run_process, write_results

IMPORTS = "import prune_export; prune_export.export; from transformers import AutoConfig"
MAIN_EXPORT = (
    "import sys; from optimum.exporters.onnx import main_export; "
    "main_export(sys.argv[1], output=sys.argv[2], task='question-answering', do_validation=False)"
)


def commands(model: Path, folder: Path) -> dict[str, list[str]]:
    """One command a row; outputs go into `folder`."""
    scripts = Path(sys.executable).parent
    task = ["--task", "question-answering"]
    return {
        "prune-export": [
            str(scripts / "prune-export"),
            *(
                "--model",
                str(model),
                "--output",
                str(folder / "ours"),
                "--target",
                "cpu",
                "--no-verify",
                "--quiet",
                *task,
            ),
        ],
        "optimum, no check": [sys.executable, "-c", MAIN_EXPORT, str(model), str(folder / "unchecked")],
        "optimum-cli": [
            str(scripts / "optimum-cli"),
            *("export", "onnx", "--model", str(model), *task, str(folder / "optimum")),
        ],
        "imports": [sys.executable, "-c", IMPORTS],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--name", default="export_cost", help="name of the results file")
    options = parser.parse_args()
    runs: dict[str, list[Run]] = {}
    sizes: dict[str, float] = {}
    for turn in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            for name, command in commands(options.model, Path(folder)).items():
                runs.setdefault(name, []).append(run_process(command))
                print(f"round {turn}: {name}: {runs[name][-1]}", flush=True)
            for name in ("ours", "optimum"):
                sizes[name] = sum(path.stat().st_size for path in (Path(folder) / name).glob("*.onnx*")) / 2**20
    size = sum(path.stat().st_size for path in options.model.glob("*.safetensors")) / 2**20
    imports = median(run.peak_mib for run in runs["imports"])
    results = {
        "checkpoint": {"name": options.model.name, "mib": size},
        "onnx_mib": sizes,
        "rows": {name: as_json(found) for name, found in runs.items()},
        "time_of_optimum_cli": _ratio(runs, "optimum-cli"),
        "time_of_optimum_without_check": _ratio(runs, "optimum, no check"),
        "memory_beyond_imports_in_checkpoint_sizes": {
            name: (median(run.peak_mib for run in found) - imports) / size for name, found in runs.items()
        },
    }
    print(write_results(options.name, results))
    for key in ("time_of_optimum_cli", "time_of_optimum_without_check", "memory_beyond_imports_in_checkpoint_sizes"):
        print(key, results[key])


def _ratio(runs: dict[str, list[Run]], other: str) -> float:
    """Our time as a fraction of the other's, median over rounds of the ratio within a round."""
    return median(ours.seconds / theirs.seconds for ours, theirs in zip(runs["prune-export"], runs[other], strict=True))


if __name__ == "__main__":
    main()
