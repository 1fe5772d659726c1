#!/usr/bin/env python3
"""Speed that was asked for against speed that was measured: `prune --speedup 1.5 2 3`, exported, beside the dense model.

Three steps; the first and the last want a machine that does nothing else, the middle one does not care.

    python -m benchmarks.asked_speed profile    # latency tables, into the cache that prune looks into
    python -m benchmarks.asked_speed prune      # masked checkpoints and exports, in --work
    python -m benchmarks.asked_speed measure    # all of a type in one run, each in a process of its own

Results go to benchmarks/results/asked-speed.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measuring import write_results
from prune_export.benchmark.rows import Shape
from prune_export.benchmark.run import run_rows
from prune_export.benchmark.sources import onnx_row
from prune_export.cli.console import progress
from prune_export.options.bench import RunConditions
from prune_export.verbs.export import export
from prune_export.verbs.profile import profile
from prune_export.verbs.prune import prune

ASKED = (1.5, 2.0, 3.0)
SEQUENCE_LENGTH = 384
DENSE = "unpruned"


def profiles(model: Path, dtypes: list[str]) -> None:
    with progress(quiet=False) as listener:
        for dtype in dtypes:
            profile(model, dtype=dtype, sequence_length=SEQUENCE_LENGTH, fresh=True, progress=listener)


def prunes(model: Path, calibration: list[Path], work: Path, dtypes: list[str], samples: int) -> None:
    """Exports are not verified: int8 would keep blocks in fp32 where answers change, and this is about time."""
    with progress(quiet=False) as listener:
        for dtype in dtypes:
            results = prune(
                model,
                list(calibration),
                work / dtype,
                speedup=ASKED,
                dtype=dtype,
                sequence_length=SEQUENCE_LENGTH,
                samples=samples,
                overwrite=True,
                progress=listener,
            )
            for result in results:
                assert result.speed is not None
                found = result.speed.to_json() | {
                    "samples": samples,
                    "kept": [[len(layer.heads), len(layer.columns)] for layer in result.plan.layers],
                }
                (work / f"{dtype}-{result.budget.value:g}.json").write_text(json.dumps(found), encoding="utf-8")
                onnx = work / f"{dtype}-{result.budget.value:g}"
                export(result.folder, onnx, target="cpu", dtype=dtype, verify=False, overwrite=True, progress=listener)
            export(
                model, work / f"{dtype}-1", target="cpu", dtype=dtype, verify=False, overwrite=True, progress=listener
            )


def measures(work: Path, dtypes: list[str], rounds: int, seconds: float) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for dtype in dtypes:
        rows = [onnx_row(work / f"{dtype}-1", name=DENSE)]
        rows += [onnx_row(work / f"{dtype}-{asked:g}", name=f"{asked:g}") for asked in ASKED]
        with progress(quiet=False) as listener:
            report = run_rows(
                rows, [Shape(1, SEQUENCE_LENGTH)], RunConditions(rounds=rounds, seconds=seconds), progress=listener
            )
        (result,) = report.shapes
        found[dtype] = {"noise": result.noise, "others": result.others, "asked": []}
        for latency in result.rows[1:]:
            predicted = json.loads((work / f"{dtype}-{latency.row}.json").read_text(encoding="utf-8"))
            found[dtype]["asked"].append(
                {
                    "asked": float(latency.row),
                    "predicted": predicted["predicted_speedup"],
                    "predicted_ms": predicted["predicted_ms"],
                    "measured_while_pruning": predicted["measured_speedup"],
                    "measured": latency.speed_up,
                    "measured_range": [min(latency.speed_ups), max(latency.speed_ups)],
                    "measured_ms": median(latency.milliseconds),
                    "kept": predicted["kept"],
                }
            )
        found[dtype]["samples"] = predicted["samples"]
        found[dtype]["unpruned_ms"] = median(result.rows[0].milliseconds)
        found[dtype]["unpruned_predicted_ms"] = predicted["dense_predicted_ms"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("profile", "prune", "measure"))
    parser.add_argument("--data", type=Path, default=Path("../shared"), help="folder with data/ and models/")
    parser.add_argument("--work", type=Path, default=Path("build/asked-speed"))
    parser.add_argument("--dtypes", nargs="+", default=["fp32", "int8"])
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    model = options.data / "models" / "minilm-qa-dense"
    match options.step:
        case "profile":
            profiles(model, options.dtypes)
        case "prune":
            files = sorted((options.data / "data" / "qa").glob("squadshifts-*.json"))
            prunes(model, files, options.work, options.dtypes, options.samples)
        case _:
            found = measures(options.work, options.dtypes, options.rounds, options.seconds)
            shape = {"model": model.name, "batch_size": 1, "sequence_length": SEQUENCE_LENGTH}
            print(write_results("asked-speed", shape | {"dtypes": found}))


if __name__ == "__main__":
    main()
