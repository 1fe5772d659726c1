"""The parent's end of a row's process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from exporters.errors import BenchmarkError
from prune_export.benchmark.rows import Conditions, Row, Shape

_SHOWN = 400  # characters of what a process printed before it died


@dataclass(frozen=True, slots=True)
class Measured:
    """The median latency, and the fraction of the processors' time that went to other processes (None: not known)."""

    milliseconds: float
    others: float | None


def python_module(module: str) -> list[str]:
    """Returns the command that runs a module with this Python; the working directory is not searched (-P)."""
    return [sys.executable, "-P", "-m", module]


def same_modules() -> dict[str, str]:
    """Returns the environment in which another Python finds the same modules as this one."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}


class RowProcess:
    """Loads `row` in a process of its own, which runs only while it is asked something.

    Between questions it is stopped (SIGSTOP): the thread pools of PyTorch and ONNX Runtime spin for a while after each run,
    and those of several idle processes would disturb the one that is being measured.
    """

    def __init__(self, row: Row, conditions: Conditions) -> None:
        """Starts the process and waits until the network is loaded; `loaded` is its first reply (worker.py).

        Raises:
            BenchmarkError: it could not be loaded.
        """
        self.row = row
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        threads = str(conditions.threads)
        self._process = subprocess.Popen(
            python_module("prune_export.benchmark.worker"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._printed,
            text=True,
            env=same_modules() | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
            start_new_session=True,  # Ctrl-C is ours to handle
        )
        try:
            self.loaded = self._ask({"row": asdict(row), "conditions": asdict(conditions)}, "while loading")
        except BaseException:
            self.close()
            raise

    def measure(self, shape: Shape, seconds: float) -> Measured:
        """Measures the row at `shape` for `seconds`, one round.

        Raises:
            BenchmarkError: the network cannot run it, or the process died.
        """
        reply = self._ask(asdict(shape) | {"seconds": seconds}, f"at {shape}")
        return Measured(reply["milliseconds"], reply["others"])

    def finish(self) -> float:
        """Ends the process; returns its peak memory in MiB."""
        return float(self._ask({"finish": True}, "at the end")["peak_mib"])

    def close(self) -> None:
        """Ends the process, whatever it is doing."""
        self._process.kill()
        self._process.communicate()
        self._printed.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, question: dict[str, Any], when: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._signal("SIGCONT")
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise BenchmarkError(f"row '{self.row.name}', {when}: its process {self._end()}")
        self._signal("SIGSTOP")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise BenchmarkError(f"row '{self.row.name}', {when}: {reply['error']}")
        return reply

    def _signal(self, name: str) -> None:
        if hasattr(signal, name):  # not on Windows
            self._process.send_signal(getattr(signal, name))

    def _end(self) -> str:
        """Says how the process ended, and what it printed last."""
        code = self._process.wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        if code == -signal.SIGKILL:
            how += " (out of memory?)"
        self._printed.seek(0)
        printed = " ".join(self._printed.read().decode(errors="replace").split())[-_SHOWN:]
        return f"{how}; it printed: {printed or 'nothing'}"
