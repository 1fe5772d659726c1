"""`python -m tests.fuzz --minutes 10 --seed 0 --output FILE`: fuzzes every reader and says what came of it."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks.measuring import machine
from tests.fuzz.readers import readers
from tests.fuzz.running import Figures, fuzz


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="in all, shared out over the readers (default: 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the first cases (default: 0)")
    parser.add_argument("--readers", nargs="+", metavar="NAME", help="only these")
    parser.add_argument("--output", type=Path, help="write the figures as JSON there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    where = machine()
    found: list[Figures] = []
    with tempfile.TemporaryDirectory() as folder:
        chosen = [one for one in readers(Path(folder)) if not options.readers or one.name in options.readers]
        for reader in chosen:
            seconds = options.minutes * 60 / len(chosen)
            found.append(fuzz(reader, first_seed=options.seed * 1_000_000, seconds=seconds))
            _print(found[-1])
    if options.output is not None:
        record = {
            "machine": where,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "minutes": options.minutes,
            "seed": options.seed,
            "readers": [asdict(figures) for figures in found],
        }
        options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 1 if any(figures.failure for figures in found) else 0


def _print(figures: Figures) -> None:
    print(
        f"{figures.reader:22} {figures.cases:7} cases {figures.refused:7} refused {figures.accepted:7} accepted "
        f"{figures.slowest_seconds:7.3f} s {figures.mebibytes:7.1f} MiB  {figures.failure or ''}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
