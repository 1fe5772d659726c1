#!/usr/bin/env python3
"""All that needs a GPU, in one run of at most eight minutes: versions, tests, parity, speed, and which kernels ran.

    python -m benchmarks.cuda --output DIR [--device cuda] [--minutes 8] [--data FOLDER] [--overwrite]
        [--only STEP …]

After each step its results are in DIR, one JSON per step, and one log. A step that fails says so in its file, and the next
ones go on; the exit code is 1 at the end. What there was no time for is named under "skipped". `--device cpu` walks through
the same with tiny networks. Nothing needs to be installed but torch, transformers and ONNX Runtime with CUDA, and what they
need; CONTRIBUTING.md says how to bring them.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from benchmarks.cuda.results import ResultError
from benchmarks.cuda.run import run
from benchmarks.cuda.steps import STEPS
from benchmarks.source_tree import ROOT


def find_data() -> Path | None:
    """The folder with real checkpoints: PRUNE_EXPORT_DATA, or shared/ in or beside the source tree."""
    named = os.environ.get("PRUNE_EXPORT_DATA")
    places = [Path(named)] if named else [ROOT / "shared", ROOT.parent / "shared"]
    return next((place for place in places if (place / "models").is_dir()), None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="where the results go")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all of it (default: 8)")
    parser.add_argument("--data", type=Path, help="folder with models/ (default: PRUNE_EXPORT_DATA, shared, ../shared)")
    parser.add_argument("--overwrite", action="store_true", help="remove the results of an earlier run from DIR")
    parser.add_argument(
        "--only", nargs="+", choices=[step.name for step in STEPS], metavar="STEP", help="not all steps"
    )
    options = parser.parse_args()
    if not options.minutes > 0:
        parser.error(f"--minutes {options.minutes}: expected more than 0")
    try:
        sound = run(
            options.output.resolve(),
            device=options.device,
            minutes=options.minutes,
            data=options.data.resolve() if options.data else find_data(),
            overwrite=options.overwrite,
            steps=[step for step in STEPS if options.only is None or step.name in options.only],
            say=lambda line: print(line, flush=True),
        )
    except ResultError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
