"""Callbacks of the Trainer: the method's schedule, progress, the log file, TensorBoard."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.integrations.integration_utils import TensorBoardCallback

from exporters.errors import OutputError
from prune_export.files.reading import LARGE_FILE, ReadingError, read_bytes
from prune_export.files.writing import write_file
from prune_export.progress import Progress, time_words
from prune_export.training.stage import MaskingMethod
from prune_export.training.trainer import PruningTrainer


class ScheduleCallback(TrainerCallback):
    """Passes the step to the method and the epoch to the trainer, checks gradients, and has the last step saved."""

    def __init__(self, method: MaskingMethod | None) -> None:
        self._method = method
        self.trainer: PruningTrainer | None = None

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        if self.trainer is not None:
            self.trainer.set_epoch(int((state.epoch or 0) + 1e-6))

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        if self._method is not None:
            self._method.set_step(state.global_step, state.max_steps)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        if self.trainer is not None:
            self.trainer.check_gradients()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:  # noqa: ARG002
        if state.global_step >= state.max_steps:
            control.should_save = True
        return control


class ProgressBar(TrainerCallback):
    """Shows the progress of a stage, and at each log its losses, heads and sparsity."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress, self._name = progress, name
        self._began, self._first = 0.0, 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        self._progress.stage(f"Training: {self._name}", state.max_steps)
        self._progress.advance(state.global_step)
        self._began, self._first = time.monotonic(), state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        self._progress.advance()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:  # noqa: ARG002
        if logs and "loss" in logs:
            done, to_do = state.global_step - self._first, state.max_steps - state.global_step
            left = (time.monotonic() - self._began) / max(1, done) * to_do
            self._progress.note(progress_line(state.global_step, state.max_steps, left, logs))


def progress_line(step: int, total: int, left: float, logs: dict[str, float]) -> str:
    """Returns one line with the steps done of `total`, the estimated seconds `left`, the losses and the network's size."""
    parts = [f"step {step:,} of {total:,}", f"loss {logs['loss']:.3f}"]
    if step < total:
        parts.insert(1, f"{time_words(left)} left")
    parts += [f"{key[5:]} {logs[key]:.3f}" for key in logs if key.startswith("loss_") and logs[key]]
    for key, name, form in (
        ("sparsity", "sparsity", ".1%"),
        ("flops_left", "FLOPs", ".1%"),
        ("heads_left", "heads", ".0f"),
        ("columns_left", "columns", ".0f"),
    ):
        if key in logs:
            parts.append(f"{name} {logs[key]:{form}}")
    return ", ".join(parts)


class LogFile(TrainerCallback):
    """Writes one JSON object per line, `{"stage": …, "step": …, …}`; a resumed stage removes the steps that it repeats."""

    def __init__(self, path: Path, stage: str) -> None:
        self._path, self._stage = path, stage

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        try:
            content = read_bytes(self._path, limit=LARGE_FILE)
        except ReadingError as error:
            if error.missing:
                return
            raise OutputError(f"{self._path}: {error}; expected the run's log. Move it away") from error
        kept = [line for line in content.split(b"\n") if self._is_kept(line, state.global_step)]
        write_file(self._path, b"".join(line + b"\n" for line in kept), overwrite=True)

    def _is_kept(self, line: bytes, done: int) -> bool:
        """Says whether `line` is a complete entry of another stage, or of one of the `done` steps of this one."""
        try:
            entry = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError):
            return False
        if not isinstance(entry, dict):
            return False
        step = entry.get("step")
        return entry.get("stage") != self._stage or not isinstance(step, int) or step <= done

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:  # noqa: ARG002
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"stage": self._stage, "step": state.global_step, **(logs or {})}) + "\n")


class TensorBoard(TensorBoardCallback):
    """Writes event files into `folder`; a resumed stage hides the events of steps that it repeats."""

    def __init__(self, folder: Path) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._folder = folder

    def on_train_begin(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        done = state.global_step
        self.tb_writer = self._SummaryWriter(str(self._folder), purge_step=done + 1 if done else None)
        super().on_train_begin(args, state, control, **named)  # type: ignore[no-untyped-call]
