"""Runs the steps: a process per part, the time they have, and what is recorded of one that died."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from benchmarks.cuda import results
from benchmarks.cuda.part import BROKEN_DEVICE
from benchmarks.cuda.recording import Settings
from benchmarks.cuda.steps import STEPS, Step
from benchmarks.source_tree import ROOT, commit
from prune_export.benchmark.process import same_modules

_OVERTIME = 10.0  # seconds that a part may take too long before it is killed
_LEAST = 5.0  # seconds under which no process is worth its start
_TRIES = 3


def run(
    output: Path,
    *,
    device: str,
    minutes: float,
    data: Path | None,
    overwrite: bool = False,
    steps: Sequence[Step] = STEPS,
    say: Callable[[str], None] = print,
) -> bool:
    """Runs `steps` within `minutes` and leaves their results in `output`; whether nothing failed.

    Raises:
        ResultError: `output` holds results of an earlier run.
    """
    files = [results.file_of(output, number, step.name) for number, step in enumerate(steps, 1)]
    results.prepare(output, (*(path.name for path in files), results.LOG), overwrite=overwrite)
    start, sound = time.time(), True
    head = {"run": datetime.now(UTC).isoformat(timespec="seconds"), "device": device, "commit": commit()}
    with tempfile.TemporaryDirectory(prefix="benchmarks-cuda-") as work, (output / results.LOG).open("ab") as log:
        for step, path in zip(steps, files, strict=True):
            deadline = start + 60 * minutes * step.done_by
            settings = Settings(device, str(data) if data else None, work, deadline)
            found = _run_step(step, path, head, settings, end=start + 60 * minutes, log=log)
            sound = sound and found["status"] != "failed"
            line = f"{path.name}: {found['status']} after {found['seconds']:.0f} s, {time.time() - start:.0f} s in all"
            _note(log, line)
            say(line)
            for failure in _failures(found):
                say(f"  {failure}")
    return sound


def _run_step(
    step: Step, path: Path, head: dict[str, Any], settings: Settings, *, end: float, log: BinaryIO
) -> dict[str, Any]:
    start = time.time()
    parts = {part: {"status": "not run"} for part in step.parts_on(settings.device)}
    results.write(path, head | {"step": step.name, "status": "running", "parts": parts})
    for part in parts:
        _run_part(step, path, part, settings, end, log)
    found = results.read(path)
    states = [part["status"] for part in found["parts"].values()]
    found["status"] = "failed" if "failed" in states else "skipped" if set(states) == {"skipped"} else "done"
    found["seconds"] = round(time.time() - start, 2)
    results.write(path, found)
    return found


def _run_part(step: Step, path: Path, part: str, settings: Settings, end: float, log: BinaryIO) -> None:
    """Runs one part; again, without what broke the device, where that can be told."""
    for attempt in range(_TRIES):
        if settings.deadline - time.time() < _LEAST:
            if attempt == 0:
                _amend(path, part, status="skipped", skipped=["no time left"])
            return
        _note(log, f"--- {step.name}: {part}")
        problem = _run_process(step.module, path, part, settings, end, log)
        if problem is None:
            return
        record = results.read(path)["parts"][part]
        _amend(path, part, status="failed", failures=[*record.get("failures", []), problem])
        if record.get("trying") is None:
            return
        settings = replace(settings, left_out=(*settings.left_out, record["trying"]))


def _run_process(module: str, path: Path, part: str, settings: Settings, end: float, log: BinaryIO) -> str | None:
    """What the process died of; None where it recorded its end itself."""
    arguments = [module, str(path), part, json.dumps(asdict(settings))]
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.cuda.part", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        cwd=ROOT,
        env=same_modules() | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"},
        start_new_session=True,  # compilers and tests that it starts end with it
    )
    try:
        code = process.wait(max(1.0, min(settings.deadline + _OVERTIME, end) - time.time()))
    except subprocess.TimeoutExpired:
        return "it ran past its time and was ended" + _while_trying(path, part)
    finally:
        _end_group(process)
    if code == BROKEN_DEVICE:
        return "the device answers no more" + _while_trying(path, part)
    if results.read(path)["parts"][part]["status"] in ("done", "failed"):
        return None
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return f"its process died ({how}); {results.LOG} has what it printed" + _while_trying(path, part)


def _while_trying(path: Path, part: str) -> str:
    trying = results.read(path)["parts"][part].get("trying")
    return f", while trying: {trying}" if trying else ""


def _end_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _amend(path: Path, part: str, **changes: Any) -> None:
    step = results.read(path)
    step["parts"][part] |= changes
    results.write(path, step)


def _note(log: BinaryIO, line: str) -> None:
    log.write(f"{line}\n".encode())
    log.flush()


def _failures(found: dict[str, Any]) -> list[str]:
    """The last line of each failure."""
    texts = [(name, text) for name, part in found["parts"].items() for text in part.get("failures", [])]
    return [f"{name}: {text.strip().splitlines()[-1][:300]}" for name, text in texts]
