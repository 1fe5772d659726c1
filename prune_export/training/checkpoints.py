"""Finds the Trainer's checkpoints of a stage, and checks their state."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Annotated

import msgspec
import transformers
from transformers import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from exporters.errors import CheckpointError, UsageError
from prune_export.files.reading import LARGE_FILE, ReadingError, clipped, one_line, read_text
from prune_export.outputs.run import COMPLETE

TRAINER_STATE = "trainer_state.json"
_CHECKPOINT = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-\d{{1,12}}")


def last_checkpoint(folder: Path) -> Path | None:
    """Returns the newest complete checkpoint in `folder`; None where there is none."""
    complete = [path for path in checkpoints(folder) if (path / COMPLETE).is_file()]
    return max(complete, key=checkpoint_step, default=None)


def checkpoints(folder: Path) -> list[Path]:
    """Returns the checkpoints in `folder`, complete or not."""
    paths = folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    return [path for path in paths if _CHECKPOINT.fullmatch(path.name) and path.is_dir() and not path.is_symlink()]


def checkpoint_step(path: Path) -> int:
    """Returns the number of optimiser steps before the checkpoint `path`."""
    return int(path.name.rsplit("-", 1)[1])


# --- the state --------------------------------------------------------------------------------------------------------

_MOST = 10**12
_Count = Annotated[int, msgspec.Meta(ge=0, le=_MOST)]
_Positive = Annotated[int, msgspec.Meta(ge=1, le=_MOST)]


class _Control(msgspec.Struct, forbid_unknown_fields=True):
    args: dict[str, bool]
    attributes: dict[str, bool]


class _Callbacks(msgspec.Struct, forbid_unknown_fields=True):
    control: _Control = msgspec.field(name="TrainerControl")


class _State(msgspec.Struct, kw_only=True):
    """transformers' TrainerState of a training without evaluation and hyperparameter search."""

    max_steps: _Count
    global_step: _Positive
    epoch: Annotated[float, msgspec.Meta(ge=0, le=_MOST)]
    logging_steps: Annotated[float, msgspec.Meta(ge=1, le=_MOST)]  # as [trainer] has them: 2.0 is fine
    eval_steps: Annotated[float, msgspec.Meta(ge=0, le=_MOST)] = 0
    save_steps: Annotated[float, msgspec.Meta(ge=0, le=_MOST)] = 0
    train_batch_size: _Positive
    num_train_epochs: _Count
    num_input_tokens_seen: Annotated[int, msgspec.Meta(ge=0, le=2**62)]
    total_flos: Annotated[float, msgspec.Meta(ge=0)]
    log_history: list[dict[str, float | str | bool | None]]
    best_metric: None = None
    best_global_step: None = None
    best_model_checkpoint: None = None
    is_local_process_zero: bool = True
    is_world_process_zero: bool = True
    is_hyper_param_search: bool = False
    trial_name: None = None
    trial_params: None = None
    stateful_callbacks: _Callbacks


def check_state(last: Path, step: int, total: int, batch_size: int) -> None:
    """Checks the state in the checkpoint `last`, saved at `step`, of a stage of `total` steps of `batch_size` examples.

    Raises:
        CheckpointError: the state is none that the Trainer writes, or is not that of this checkpoint.
        UsageError: the stage was begun with another length.
    """
    path = last / TRAINER_STATE
    advice = f"delete {last} to go on from the one before"
    try:
        state = _read(path)
    except ReadingError as error:
        raise CheckpointError(f"{path}: {error}; {advice}") from error
    if state.max_steps != total:
        raise UsageError(
            f"{last}: the training was begun with {state.max_steps} optimiser steps, now there would be {total}: go on with "
            "as many processes as it was begun with"
        )
    if state.global_step != step or step > total:
        raise CheckpointError(
            f"{path}: global_step: expected {step}, of at most {total}; found {state.global_step}; {advice}"
        )
    if state.epoch > step + 1:  # each has one step or more
        raise CheckpointError(f"{path}: epoch: expected at most {step + 1}; found {state.epoch:g}; {advice}")
    if state.train_batch_size > batch_size:
        raise CheckpointError(
            f"{path}: train_batch_size: expected at most {batch_size}; found {state.train_batch_size}; {advice}"
        )


def _read(path: Path) -> _State:
    """Reads the state with Python's own JSON, as transformers does: a gradient's norm may be NaN in fp16."""
    try:
        data = json.loads(read_text(path, limit=LARGE_FILE))
        unknown = set(data) - {field.name for field in fields(TrainerState)} if isinstance(data, dict) else set()
        if unknown:
            raise ReadingError(f"{clipped(min(unknown))} is nothing that transformers {transformers.__version__} knows")
        return msgspec.convert(data, _State)
    except msgspec.ValidationError as error:
        text = one_line(error)
        raise ReadingError(f"{text[:1].lower()}{text[1:]}") from error
    except RecursionError as error:
        raise ReadingError("not readable as JSON: nested too deep") from error
    except ValueError as error:
        raise ReadingError(f"not readable as JSON: {one_line(error)}") from error
