"""One stage of a run: trained, or gone on with, and finished as a masked checkpoint."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from exporters.errors import CheckpointError, TrainingError, UsageError
from prune_export.checkpoint.load import Checkpoint, load_checkpoint
from prune_export.checkpoint.masked import write_masked
from prune_export.checkpoint.weights import read_safetensors
from prune_export.facts.file_names import PLAN_FILE, SAFETENSORS
from prune_export.facts.record import versions
from prune_export.files.reading import LARGE_FILE, ReadingError, read_json
from prune_export.outputs.run import BOARD, CHECKPOINTS, LOG, STAGES
from prune_export.training.arguments import refusals, total_steps, training_arguments
from prune_export.training.cuts import cut_warning, cut_without_training
from prune_export.training.dropout import set_dropout
from prune_export.training.features import Collator, Features
from prune_export.training.network import finish_network, make_network
from prune_export.training.stage import Context, Stage
from prune_export.training.trainer_state import check_state

_PATIENCE = timedelta(hours=12)
# What a prepared checkpoint's record says of how it was pruned.
_OF_PREPARATION = ("score", "fraction", "data", "held_out_errors")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a stage, the `number`-th from 1, lies in the run's `folder`: its name there, and the folder of its result."""

    folder: Path
    number: int
    name: str
    result: Path

    @property
    def prepared(self) -> Path:
        return self.folder / STAGES / f"{self.name}-start"

    @property
    def checkpoints(self) -> Path:
        return self.folder / CHECKPOINTS / self.name


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return int(os.environ.get("RANK", "0")) == 0


def wait() -> None:
    """Until all processes are here."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState

        # The first process may be at work alone for long: it prunes, reads data, writes.
        PartialState(cpu=not torch.cuda.is_available(), timeout=_PATIENCE).wait_for_everyone()


def read_record(folder: Path) -> dict[str, Any]:
    """What pruning.json in `folder` says.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        return read_json(folder / PLAN_FILE, dict[str, Any], limit=LARGE_FILE)
    except ReadingError as error:
        raise CheckpointError(f"{folder / PLAN_FILE}: {error}") from error


def run_stage(
    stage: Stage, place: Place, start: Path, context: Context, features: Features, warnings: Sequence[str]
) -> None:
    """Trains a stage from the checkpoint in `start`, or goes on with it; `warnings` are those of the stages before.

    Raises:
        TrainingError: a loss or gradient is not a number; the last good checkpoint stays.
        UsageError, CheckpointError, OutputError: what is wrong, and where.
    """
    from transformers import set_seed
    from transformers.trainer_callback import PrinterCallback

    from prune_export.training.trainer import PruningTrainer, checkpoint_step, last_checkpoint
    from prune_export.training.watch import Bar, Board, LogFile, Schedule

    recipe = context.recipe
    if stage.prepare is not None:
        if is_first() and not place.prepared.is_dir():
            stage.prepare(start, place.prepared, context)
        wait()
        start = place.prepared
    checkpoint = load_checkpoint(start, task=context.original.task)
    total = total_steps(recipe, stage, len(features))
    saved = place.checkpoints
    last = last_checkpoint(saved)
    if last is not None:
        check_state(last, checkpoint_step(last), total, recipe.optimiser.batch_size)
    if last is None or checkpoint_step(last) < total:
        seed = recipe.seed + place.number - 1  # a later stage sees the examples in another order
        set_seed(seed)
        network = make_network(stage, context, checkpoint)
        if recipe.optimiser.dropout is not None:
            set_dropout(network.model, recipe.optimiser.dropout)
        objective = None if stage.objective is None else stage.objective(context, checkpoint)
        schedule = Schedule(network.method)
        callbacks: list[Any] = [schedule]
        if is_first():
            callbacks += [
                Bar(context.progress, stage.name),
                LogFile(place.folder / LOG, place.name),
                Board(place.folder / BOARD / place.name),
            ]
        with refusals():
            trainer = PruningTrainer(
                method=network.method,
                objective=objective,
                lengths=features.lengths() if recipe.data.group_by_length else None,
                model=network.model,
                args=training_arguments(recipe, stage, saved, total, seed=seed),
                train_dataset=features,
                data_collator=Collator(context.tokenizer, checkpoint.encoder.inputs),
                callbacks=callbacks,
            )
        trainer.remove_callback(PrinterCallback)  # type: ignore[no-untyped-call]
        schedule.trainer = trainer
        if network.method is not None and trainer.shards_parameters:
            raise UsageError(
                f"stage {stage.name}: masks need whole parameters in every process; found FSDP or DeepSpeed ZeRO-3, which "
                "shard them. Use DDP, or ZeRO-1 or 2 (other stages take any)"
            )
        if network.method is not None and trainer.has_foreign_optimiser:
            raise UsageError(
                f"stage {stage.name}: masks and scores have learning rates of their own; leave 'optimizer' and 'scheduler' "
                "out of the DeepSpeed configuration"
            )
        if recipe.optimiser.gradient_checkpointing and not getattr(
            network.model, "supports_gradient_checkpointing", True
        ):
            raise UsageError(
                f"optimiser.gradient_checkpointing: transformers has none for '{context.original.source.name}'"
            )
        if objective is not None:
            objective.attach(network.model)
        if stage.begin is not None and last is None:
            stage.begin(context, checkpoint, network.method)
        try:
            trainer.train(resume_from_checkpoint=None if last is None else str(last))
        except TrainingError as error:
            good = last_checkpoint(saved)
            kept = f"the last good checkpoint is {good}" if good is not None else "no checkpoint had been saved"
            raise TrainingError(f"stage {stage.name}, {error}; {kept}. A lower learning rate may help") from error
        finally:
            if objective is not None:
                objective.detach()
        last = last_checkpoint(saved)
    wait()
    if is_first():
        assert last is not None
        _finish(stage, place, checkpoint, last, total, context, features, warnings)
    wait()


def _finish(
    stage: Stage,
    place: Place,
    checkpoint: Checkpoint,
    last: Path,
    total: int,
    context: Context,
    features: Features,
    warnings: Sequence[str],
) -> None:
    """The masked checkpoint of a stage, out of the state that its training ended in."""
    context.progress.stage("Writing the checkpoint")
    if not (last / SAFETENSORS).is_file():
        raise CheckpointError(
            f"{last}: has no {SAFETENSORS}; with FSDP set fsdp_state_dict_type to FULL_STATE_DICT, with DeepSpeed ZeRO-3 "
            "stage3_gather_16bit_weights_on_model_save, so that checkpoints hold whole weights"
        )
    network = make_network(stage, context, checkpoint)
    found = finish_network(network, read_safetensors(last / SAFETENSORS), total)
    record: dict[str, Any] = {"left": found.left}
    if network.method is not None:
        record["left_at_last_step"] = found.at_last_step
        record["cut_without_training"] = round(cut_without_training(found.at_last_step, found.left), 6)
        warning = cut_warning(stage.name, found.at_last_step, found.left)
        if warning is not None:
            warnings = (*warnings, warning)
            context.progress.note(f"Warning: {warning}")
            with (place.folder / LOG).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"stage": place.name, "step": total, "warning": warning}) + "\n")
    if stage.prepare is not None and (checkpoint.source.folder / PLAN_FILE).is_file():
        prepared = read_record(checkpoint.source.folder)
        record["prepared"] = {name: prepared[name] for name in _OF_PREPARATION if name in prepared}
    write_masked(
        checkpoint,
        found.plan,
        place.result,
        changed=found.changed,
        method=type(context.recipe.method).__name__.removesuffix("Config").lower(),
        stage=stage.name,
        steps=total,
        warnings=list(warnings),
        recipe=asdict(context.recipe),
        data={
            "name": Path(features.name).name,
            "features": len(features),
            "sha256": features.digest,
            "notes": list(features.notes),
        },
        source=context.original.source_to_json(),
        versions=versions(),
        **record,
    )
