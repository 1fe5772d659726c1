"""Step 2: the tests that are marked `cuda`, each result on disk as soon as it is known."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.cuda.recording import Recorder
from benchmarks.cuda.reporting import RESULTS_FILE
from benchmarks.source_tree import ROOT

_SLOW_FILES = ("test_bench.py",)  # several processes per test: last
_MARGIN = 3.0  # seconds to read the results in


def run(recorder: Recorder) -> None:
    """Only files with marked tests are collected; their plugin leaves a line per result, which outlives the process."""
    lines, printed = (Path(recorder.settings.work) / name for name in ("tests.jsonl", "pytest.txt"))
    lines.touch()
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "cuda",
        "-p",
        "benchmarks.cuda.reporting",
        "-p",
        "no:cacheprovider",
    ]
    command += ["-q", "--continue-on-collection-errors", *map(str, marked_files(ROOT / "tests"))]
    environment = os.environ | {RESULTS_FILE: str(lines)}
    if recorder.settings.data:
        environment["PRUNE_EXPORT_DATA"] = recorder.settings.data
    ended = None
    with printed.open("wb") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file, env=environment)
        try:
            ended = process.wait(max(1.0, recorder.left - _MARGIN))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    found = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    recorder.figures |= summary(found) | {"exit code": ended}
    recorder.failures += [f"{test['test']}: {test['text']}" for test in found if test["outcome"] in ("failed", "error")]
    if recorder.on_gpu and not recorder.figures["outcomes"].get("passed"):
        recorder.failures.append("no test passed; 'skipped because' says why none ran")
    if ended is None:
        recorder.skipped.append(f"the tests after '{found[-1]['test'] if found else 'none'}': not enough time")
    elif ended not in (0, 1):  # 1: some failed, and are named
        recorder.failures.append(f"pytest ended with {ended}: {printed.read_text(errors='replace')[-3000:]}")


def marked_files(folder: Path) -> list[Path]:
    """The test files with tests marked `cuda`, those with slow ones last."""
    found = [
        path for path in sorted(folder.glob("test_*.py")) if "pytest.mark.cuda" in path.read_text(encoding="utf-8")
    ]
    return sorted(found, key=lambda path: path.name in _SLOW_FILES)


def summary(tests: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts by outcome, why tests were skipped, and the slowest."""
    reasons = Counter(test["text"] for test in tests if test["outcome"] == "skipped")
    slowest = sorted(tests, key=lambda test: -test["seconds"])[:8]
    return {
        "outcomes": dict(Counter(test["outcome"] for test in tests)),
        "skipped because": dict(reasons),
        "slowest": {test["test"]: test["seconds"] for test in slowest},
    }
