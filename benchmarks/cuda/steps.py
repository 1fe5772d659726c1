"""The steps in their order, their parts, and by when each has to be done."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.cuda.structures import STRUCTURES


@dataclass(frozen=True, slots=True)
class Step:
    """`module` has `run(recorder)`; `parts` run one after the other, each in a process of its own, so that a crash ends
    one part only. `done_by` is the fraction of all the time: what a step does not use is the next one's. On the CPU only
    `parts_on_cpu` are walked through, where that is not None."""

    name: str
    module: str
    parts: tuple[str, ...]
    done_by: float
    parts_on_cpu: tuple[str, ...] | None = None

    def parts_on(self, device: str) -> tuple[str, ...]:
        return self.parts if device == "cuda" or self.parts_on_cpu is None else self.parts_on_cpu


_FIRST, _SECOND, *_OTHERS = STRUCTURES
_COMPILED = [f"{name}, torch.compile" for name in STRUCTURES]
_SPEED = (_FIRST, _SECOND, _COMPILED[0], *_OTHERS, *_COMPILED[1:])  # what tells most, first

STEPS = (
    Step("machine", "benchmarks.cuda.machine", ("machine",), 0.05),
    Step("tests", "benchmarks.cuda.marked_tests", ("pytest",), 0.27),
    Step("parity", "benchmarks.cuda.parity", ("parity",), 0.42),
    Step("speed", "benchmarks.cuda.speed", _SPEED, 0.9, (_FIRST, _COMPILED[0])),
    Step("kernels", "benchmarks.cuda.kernels", ("kernels",), 0.99),
)
