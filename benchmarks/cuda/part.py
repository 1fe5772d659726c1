"""The process of one part: `python -m benchmarks.cuda.part MODULE FILE PART SETTINGS`, started by run.py."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path

from benchmarks.cuda import results
from benchmarks.cuda.recording import Recorder, Settings
from prune_export.benchmark.worker import die_with_parent

BROKEN_DEVICE = 70  # the device answers nothing in this process any more


def main() -> int:
    die_with_parent()
    module, path, part, text = sys.argv[1:]
    data = json.loads(text)
    settings = Settings(**data | {"left_out": tuple(data["left_out"])})
    earlier = results.read(Path(path))["parts"][part]  # of a process that died
    kept = {name: earlier[name] for name in ("figures", "failures", "skipped") if name in earlier}
    recorder = Recorder(settings, Path(path), part, **kept)
    start, status, code = time.time(), "done", 0
    try:
        import_module(module).run(recorder)
    except BaseException as error:
        recorder.failures.append(traceback.format_exc())
        code = BROKEN_DEVICE if type(error).__name__ == "BrokenDeviceError" else 1
    if recorder.failures:
        status, code = "failed", code or 1
    if code != BROKEN_DEVICE:
        recorder.trying = None
    recorder.save(status=status, seconds=round(time.time() - start, 2))
    return code


if __name__ == "__main__":
    ended = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ended)  # without libraries' own ends, which a broken device may hold up for ever
