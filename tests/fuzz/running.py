"""Runs a reader on many damaged files: each is refused in one line or read, soon and in bounded memory."""

from __future__ import annotations

import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from hypothesis import HealthCheck, Phase, given, seed, settings

from exporters.errors import PruneExportError
from tests.fuzz.readers import Reader

SECONDS = 10
MEBIBYTES = 1024  # more than the process has when it begins
LONGEST_MESSAGE = 1_000
_BATCH = 100


@dataclass
class Figures:
    """What came of a reader's cases. `mebibytes` is the peak above what there was at the start."""

    reader: str
    cases: int = 0
    refused: int = 0
    accepted: int = 0
    slowest_seconds: float = 0.0
    mebibytes: float = 0.0
    failure: str | None = None


class TooSlow(BaseException):
    """No reader catches it."""


def fuzz(reader: Reader, *, first_seed: int, cases: int | None = None, seconds: float | None = None) -> Figures:
    """Tries `reader` for so many cases, or for so many seconds; stops at the first failure."""
    figures = Figures(reader.name)
    end = time.monotonic() + (seconds or 0)
    _forget_peak()
    before = _peak()
    batch = cases or _BATCH
    number = first_seed
    while figures.failure is None and (cases is None or figures.cases < cases):
        _batch(reader, figures, number, batch)
        number += 1
        if cases is None and time.monotonic() > end:
            break
    figures.mebibytes = round(_peak() - before, 1)
    figures.slowest_seconds = round(figures.slowest_seconds, 3)
    return figures


def _batch(reader: Reader, figures: Figures, number: int, cases: int) -> None:
    @seed(number)
    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        derandomize=False,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(content=reader.files)
    def one(content: bytes) -> None:
        reader.path.unlink(missing_ok=True)
        reader.path.write_bytes(content)
        start = time.monotonic()
        figures.cases += 1
        try:
            with _limit():
                reader.read()
            figures.accepted += 1
        except PruneExportError as error:
            message = str(error)
            assert len(message.splitlines()) == 1, f"more than one line: {message[:300]!r}"
            assert message.isprintable(), f"control characters: {message[:300]!r}"
            assert len(message) < LONGEST_MESSAGE, f"a message of {len(message)} characters"
            figures.refused += 1
        figures.slowest_seconds = max(figures.slowest_seconds, time.monotonic() - start)

    try:
        one()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        notes = " ".join(getattr(error, "__notes__", []))
        figures.failure = f"seed {number}: {type(error).__name__}: {error}; {notes}"[:2_000]


@contextmanager
def _limit() -> Iterator[None]:
    """Ten seconds, and so much memory that a reader which grows fails here and not on the machine."""
    mapped = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, _stop)
    resource.setrlimit(resource.RLIMIT_AS, (mapped + (MEBIBYTES << 20), before[1]))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.signal(signal.SIGALRM, handler)


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise TooSlow


def _peak() -> float:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
