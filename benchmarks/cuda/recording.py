"""What a part of a step records while it runs, and how long it may run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.cuda import results


@dataclass(frozen=True, slots=True)
class Settings:
    """What every part is told.

    `device` is "cuda" or "cpu". `data` holds real checkpoints, if any. `work` is a folder for files that nobody keeps.
    `deadline` is a time.time(): the part should be done by then. `left_out` names what broke the device before.
    """

    device: str
    data: str | None
    work: str
    deadline: float
    left_out: tuple[str, ...] = ()


@dataclass(slots=True)
class Recorder:
    """Writes the figures of one part into its step's file whenever something is added.

    `figures` is what was found; `failures` what went wrong, in words; `skipped` what was left out, and why; `trying` what
    is being tried for the first time: if the process dies, that killed it.
    """

    settings: Settings
    path: Path
    part: str
    figures: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    trying: str | None = None

    @property
    def left(self) -> float:
        """Seconds until the part should be done."""
        return self.settings.deadline - time.time()

    @property
    def on_gpu(self) -> bool:
        return self.settings.device == "cuda"

    def save(self, **more: Any) -> None:
        step = results.read(self.path)
        step["parts"][self.part] |= {
            "figures": self.figures,
            "failures": self.failures,
            "skipped": self.skipped,
            "trying": self.trying,
            **more,
        }
        results.write(self.path, step)

    def skip(self, what: str, why: str) -> None:
        self.skipped.append(f"{what}: {why}")
        self.save()

    def has_time_for(self, what: str, seconds: float) -> bool:
        """Whether `seconds` are left; `what` is recorded as skipped where not."""
        if self.left >= seconds:
            return True
        self.skip(what, f"not enough time: {max(0.0, self.left):.0f} s left, about {seconds:.0f} needed")
        return False

    @contextmanager
    def first_try(self, what: str) -> Iterator[None]:
        """Around the first use of something that may kill the process."""
        self.trying = what
        self.save()
        yield
        self.trying = None
