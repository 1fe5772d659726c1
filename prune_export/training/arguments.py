"""Makes `transformers.TrainingArguments` of a recipe, and finds the processes that share a run."""

from __future__ import annotations

import math
import os
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import torch
from transformers import TrainingArguments
from transformers.training_args import trainer_log_levels

from exporters.errors import PruneExportError, UsageError
from prune_export.files.reading import ReadingError, clipped, one_line, read_json
from prune_export.training.keys import MOST, nearest
from prune_export.training.recipe import Recipe
from prune_export.training.stage import Stage

# Arguments with a key of their own in a recipe, and those ("") that prune-export decides.
_ELSEWHERE = {
    "output_dir": "output",
    "seed": "seed",
    "max_steps": "schedule.steps",
    "num_train_epochs": "schedule.epochs",
    "learning_rate": "optimiser.learning_rate",
    "weight_decay": "optimiser.weight_decay",
    "per_device_train_batch_size": "optimiser.batch_size",
    "gradient_accumulation_steps": "optimiser.accumulation",
    "warmup_steps": "optimiser.warmup",
    "warmup_ratio": "optimiser.warmup",
    "lr_scheduler_type": "optimiser.decay",
    "max_grad_norm": "optimiser.max_gradient_norm",
    "bf16": "optimiser.bf16",
    "fp16": "optimiser.fp16",
    "gradient_checkpointing": "optimiser.gradient_checkpointing",
    "group_by_length": "data.group_by_length",
    "train_sampling_strategy": "data.group_by_length",
    "remove_unused_columns": "",
    "label_smoothing_factor": "",
    "do_eval": "",
    "eval_strategy": "",
    "eval_on_start": "",
    "resume_from_checkpoint": "",
    "save_strategy": "",
    "save_only_model": "",
    "load_best_model_at_end": "",
    "parallelism_config": "",
}

# transformers 4 leaves the number type of one training in the environment, where the next one would take it for `accelerate
# launch`'s choice. This is what was there before any training.
_PRECISION = "ACCELERATE_MIXED_PRECISION"
_LAUNCHED_PRECISION = os.environ.get(_PRECISION)

_PUBLISHES = "a run is published by nobody but you; push its folder when it is done"
_REPORTS = "a run is reported to nobody; log.jsonl and tensorboard/ in its folder hold all figures"
_WRITES = "a run writes into its own folder only"

# Arguments that would send data away, run code, or write elsewhere than into the run's folder. The fields are those of
# transformers 4.57 and 5.23; a name with * at its end covers all names that begin with it.
_REFUSED = {
    "hub_*": _PUBLISHES,  # hub_token is written into recipe.toml and pruning.json, too
    "push_to_hub*": _PUBLISHES,
    "report_to": _REPORTS,  # wandb, comet, mlflow, trackio, …: those that are installed send the configuration and losses
    "run_name": _REPORTS,
    "project": _REPORTS,
    "trackio*": _REPORTS,
    "logging_dir": _WRITES,
    "overwrite_output_dir": _WRITES,
    "ray_scope": _WRITES,
    "restore_callback_states_from_checkpoint": "a checkpoint says nothing about what is called while training",
    "torchdynamo": "a compiler is chosen with torch_compile",  # any registered backend: some write and run C++
    "torch_compile_backend": "torch.compile's default compiler is used",
    "liger_kernel_config": "kernels of other packages are not used",
    "use_liger_kernel": "kernels of other packages are not used",  # it replaces transformers' functions
    "mp_parameters": "SageMaker's model parallelism is not supported",
}
# DeepSpeed's monitors write anywhere, or send figures away.
_MONITORS = ("tensorboard", "wandb", "comet", "csv_monitor", "flops_profiler", "elasticity", "autotuning")

# The first process may work alone for a long time: it prunes, reads data, writes.
_PATIENCE = timedelta(hours=12)

_WORDS: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "a table",
}
# Tables, or the names of JSON files with one.
_TABLES = ("deepspeed", "fsdp_config", "accelerator_config")

_MOST = 10**9
# Numbers of [trainer] that may not be anything from 0 to _MOST.
_RANGES = {"dataloader_num_workers": (0, 1024), "local_rank": (-1, _MOST), "past_index": (-1, _MOST)}
# Words that transformers does not check before they fail.
_CHOICES = {
    "log_level": tuple(trainer_log_levels),
    "log_level_replica": tuple(trainer_log_levels),
    "torch_compile_mode": ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"),
}


def _refusal(key: str) -> str | None:
    """Returns the reason for which [trainer] may not have `key`; None: it may."""
    for name, reason in _REFUSED.items():
        if key == name or (name.endswith("*") and key.startswith(name[:-1])):
            return reason
    return None


def _check_table(key: str, value: Any) -> None:
    """Checks that `value` is a table, or a JSON file with one, and that DeepSpeed's has no monitors."""
    if isinstance(value, str) and (key == "deepspeed" or not value.lstrip().startswith("{")):
        try:
            value = read_json(Path(value), dict[str, Any])
        except ReadingError as error:
            raise UsageError(f"trainer.{key}: {clipped(value)}: cannot be read: {error}") from error
    if not isinstance(value, Mapping | str):
        raise UsageError(f"trainer.{key}: expected a table or a JSON file with one; found {type(value).__name__}")
    if key == "deepspeed" and (monitors := sorted(set(_MONITORS) & set(value))):
        raise UsageError(f"trainer.deepspeed: {monitors[0]}: {_REPORTS}")


def check_trainer_section(section: Mapping[str, Any]) -> None:
    """Checks that [trainer] holds TrainingArguments only, and none that the recipe has elsewhere.

    Raises:
        UsageError: the message names the key, without its value, and what to write instead.
    """
    known = {field.name for field in fields(TrainingArguments)}
    for key, value in section.items():
        if reason := _refusal(key):
            raise UsageError(f"trainer.{key}: {reason}; leave it out")
        if key in _TABLES:
            _check_table(key, value)
        if key not in known:
            raise UsageError(
                f"trainer.{clipped(key)}: transformers.TrainingArguments has no such field; the nearest is "
                f"'{nearest(key, known)}'"
            )
        if key in _ELSEWHERE:
            instead = f"set {_ELSEWHERE[key]} instead" if _ELSEWHERE[key] else "it is decided by prune-export"
            raise UsageError(f"trainer.{key}: {instead}")
        _check_value(key, value)


def _check_value(key: str, value: Any) -> None:
    """Checks that a value has the type of TrainingArguments' field, and that a number is in a sensible range."""
    kinds = _toml_types(get_type_hints(TrainingArguments)[key])
    if kinds and value is not None and type(value) not in kinds:
        expected = " or ".join(word for kind, word in _WORDS.items() if kind in kinds)
        raise UsageError(f"trainer.{key}: expected {expected}; found {_WORDS.get(type(value), 'something else')}")
    if key in _CHOICES and value not in _CHOICES[key]:
        raise UsageError(f"trainer.{key}: expected one of {', '.join(_CHOICES[key])}")
    if isinstance(value, int | float) and not isinstance(value, bool):
        least, most = _RANGES.get(key, (0, _MOST))
        if not least <= value <= most:
            raise UsageError(f"trainer.{key}: expected a number from {least:g} to {most:g}")


def _toml_types(hint: Any) -> frozenset[type]:
    """Returns the types of TOML values that fit an annotation; empty where any type fits."""
    if get_origin(hint) in (Union, types.UnionType):
        options = [_toml_types(option) for option in get_args(hint) if option is not types.NoneType]
        return frozenset().union(*options) if all(options) else frozenset()
    kind = get_origin(hint) or hint
    if kind is float:
        return frozenset({int, float})
    if isinstance(kind, type) and issubclass(kind, Enum):
        return frozenset({str})
    return frozenset({kind}) if kind in _WORDS else frozenset()


def process_state() -> Any:
    """Returns accelerate's `PartialState`: the processes that share a run (torchrun, accelerate launch), or this one.

    Raises:
        UsageError: the environment names processes that cannot be found.
    """
    from accelerate import PartialState

    try:
        return PartialState(cpu=not torch.cuda.is_available(), timeout=_PATIENCE)
    except Exception as error:  # accelerate and torch raise many kinds
        PartialState._reset_state()
        raise UsageError(
            f"the environment names several processes, which cannot be found: {one_line(error, 300)}; start them with "
            "torchrun or accelerate launch, or unset LOCAL_RANK and WORLD_SIZE"
        ) from error


def total_steps(recipe: Recipe, stage: Stage, features: int) -> int:
    """Returns the number of optimiser steps of a stage with `features` examples, one or more.

    Raises:
        UsageError: they are too many.
    """
    if stage.steps is not None:
        return stage.steps
    if stage.epochs is None and recipe.schedule.steps is not None:
        return recipe.schedule.steps
    epochs = stage.epochs if stage.epochs is not None else recipe.schedule.epochs
    assert epochs is not None
    processes: int = process_state().num_processes
    batch = recipe.optimiser.batch_size * processes * recipe.optimiser.accumulation
    total = max(1, round(epochs * math.ceil(features / batch)))
    if total > MOST:
        raise UsageError(f"stage {stage.name}: {epochs:g} epochs are {total:,} steps; expected {MOST:,} at most")
    return total


def training_arguments(recipe: Recipe, stage: Stage, folder: Path, total: int, *, seed: int) -> TrainingArguments:
    """Returns the Trainer's arguments for a stage of `total` steps; those in [trainer] override the others.

    Raises:
        UsageError: transformers refuses the arguments.
    """
    optimiser = recipe.optimiser
    arguments: dict[str, Any] = {
        "output_dir": str(folder),
        "seed": seed,
        "max_steps": total,
        "learning_rate": optimiser.learning_rate if stage.learning_rate is None else stage.learning_rate,
        "weight_decay": optimiser.weight_decay,
        "per_device_train_batch_size": optimiser.batch_size,
        "gradient_accumulation_steps": optimiser.accumulation,
        "warmup_steps": round(optimiser.warmup * total),
        "lr_scheduler_type": "constant_with_warmup" if optimiser.decay == "constant" else optimiser.decay,
        "max_grad_norm": optimiser.max_gradient_norm,
        "bf16": optimiser.bf16,
        "fp16": optimiser.fp16,
        "gradient_checkpointing": optimiser.gradient_checkpointing,
        # The reentrant form gives no gradients where the embeddings are frozen, as under L0 gates.
        "gradient_checkpointing_kwargs": {"use_reentrant": False} if optimiser.gradient_checkpointing else None,
        "use_cpu": not torch.cuda.is_available(),
        "remove_unused_columns": False,
        "save_strategy": "steps",
        "save_steps": max(1, min(500, math.ceil(total / 5))),
        "save_total_limit": 2,
        "logging_strategy": "steps",
        "logging_steps": max(1, min(50, total // 20)),
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
        "report_to": [],
        "log_level": "error",
        "ddp_find_unused_parameters": False,
        "dataloader_pin_memory": torch.cuda.is_available(),
    }
    if _LAUNCHED_PRECISION is None:
        os.environ.pop(_PRECISION, None)
    else:
        os.environ[_PRECISION] = _LAUNCHED_PRECISION
    with refusals():
        try:
            made = TrainingArguments(**arguments | dict(recipe.trainer))
        except OSError as error:  # a file that [trainer] names
            raise UsageError(f"transformers refuses the training arguments: {one_line(error, 300)}") from error
    if made.n_gpu > 1:  # one process is one GPU: DataParallel would train copies that masks know nothing of
        made._n_gpu = 1
    return made


@contextmanager
def refusals() -> Iterator[None]:
    """Turns errors of transformers, accelerate and torch about their arguments into one line.

    Raises:
        UsageError: they refuse.
    """
    try:
        yield
    except (PruneExportError, OSError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # they take the values apart and raise many kinds
        raise UsageError(f"transformers refuses the training arguments: {one_line(error, 300)}") from error
