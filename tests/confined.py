"""Runs a hostile case where it can do no harm: in a child process with little memory and little time."""

from __future__ import annotations

import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit code (negative: a signal), what it printed, its time, the memory it took more."""

    code: int
    out: str
    error: str
    seconds: float
    mebibytes: float


def confined(work: Callable[[], int], *, seconds: float = 20, mebibytes: int = 1024) -> Ended:
    """Runs `work` in a forked child that may take so much more memory than this process has; kills it after `seconds`."""
    with tempfile.TemporaryDirectory() as folder:
        out, error = Path(folder, "out"), Path(folder, "error")
        start = time.monotonic()
        child = os.fork()
        if child == 0:
            _become(work, out, error, _pages(0) + mebibytes * MEBIBYTE)
        ended = 0
        while not ended:
            ended, status, used = os.wait4(child, os.WNOHANG)
            if time.monotonic() - start > seconds:
                os.kill(child, signal.SIGKILL)
            time.sleep(0.01)
        return Ended(
            os.waitstatus_to_exitcode(status),
            out.read_text(encoding="utf-8", errors="replace"),
            error.read_text(encoding="utf-8", errors="replace"),
            time.monotonic() - start,
            used.ru_maxrss / 1024 - float((Path(folder) / "before").read_text(encoding="utf-8")),
        )


def _become(work: Callable[[], int], out: Path, error: Path, limit: int) -> None:
    code = 97
    try:
        out.with_name("before").write_text(str(_pages(1) / MEBIBYTE), encoding="utf-8")
        sys.stdout, sys.stderr = out.open("w", encoding="utf-8"), error.open("w", encoding="utf-8")
        for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
            os.dup2(stream.fileno(), number)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _pages(column: int) -> int:
    """What /proc says: 0, the address space; 1, the resident set; in bytes."""
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[column]) * resource.getpagesize()
