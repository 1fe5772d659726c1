"""Runs one stage: trains it, or resumes it, and writes its checkpoint, masked or slim."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from exporters.errors import CheckpointError, TrainingError, UsageError
from prune_export.checkpoint.load import Checkpoint, load_checkpoint
from prune_export.checkpoint.masked import write_masked
from prune_export.checkpoint.slim_writing import write_slim
from prune_export.checkpoint.weights import read_safetensors
from prune_export.facts.file_names import PLAN_FILE, SAFETENSORS
from prune_export.facts.record import versions
from prune_export.files.reading import LARGE_FILE, ReadingError, read_json
from prune_export.outputs.run import BOARD, CHECKPOINTS, LOG, STAGES
from prune_export.slim_model.model import SlimModel
from prune_export.training.arguments import process_state, refusals, total_steps, training_arguments
from prune_export.training.checkpoints import check_state, checkpoint_step, last_checkpoint
from prune_export.training.features import Collator, Features
from prune_export.training.methods import method_of
from prune_export.training.network import (
    cut_warning,
    cut_without_training,
    finish_network,
    load_state,
    make_network,
)
from prune_export.training.stage import Context, Stage

# The keys of a prepared checkpoint's record that say how it was pruned.
_OF_PREPARATION = ("score", "answers", "fraction", "data", "held_out_errors")


@dataclass(frozen=True, slots=True)
class StagePaths:
    """The paths of a stage, the `number`-th from 1, in the run's `folder`; `result` is the folder of its result."""

    folder: Path
    number: int
    name: str
    result: Path

    @property
    def prepared(self) -> Path:
        """Returns the folder of the checkpoint that the stage prepares for itself."""
        return self.folder / STAGES / f"{self.name}-start"

    @property
    def checkpoints(self) -> Path:
        """Returns the folder of the Trainer's checkpoints."""
        return self.folder / CHECKPOINTS / self.name


def read_record(folder: Path) -> dict[str, Any]:
    """Reads pruning.json in `folder`.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        return read_json(folder / PLAN_FILE, dict[str, Any], limit=LARGE_FILE)
    except ReadingError as error:
        raise CheckpointError(f"{folder / PLAN_FILE}: {error}") from error


def run_stage(
    stage: Stage, paths: StagePaths, start: Path, context: Context, features: Features, warnings: Sequence[str]
) -> None:
    """Trains a stage from the checkpoint in `start`, or resumes it; `warnings` are those of earlier stages.

    Raises:
        TrainingError: a loss or gradient is not a number; the last good checkpoint is kept.
        UsageError, CheckpointError, OutputError: it cannot be done.
    """
    from transformers import set_seed
    from transformers.integrations.integration_utils import is_tensorboard_available
    from transformers.trainer_callback import PrinterCallback

    from prune_export.training.callbacks import LogFile, ProgressBar, ScheduleCallback, TensorBoard
    from prune_export.training.trainer import PruningTrainer

    recipe, processes = context.recipe, process_state()
    if stage.prepare is not None:
        if processes.is_main_process and not paths.prepared.is_dir():
            stage.prepare(start, paths.prepared, context)
        processes.wait_for_everyone()
        start = paths.prepared
    checkpoint = load_checkpoint(start, task=context.original.task)
    total = total_steps(recipe, stage, len(features))
    saved = paths.checkpoints
    last = last_checkpoint(saved)
    if last is not None:
        check_state(last, checkpoint_step(last), total, recipe.optimiser.batch_size)
    if last is None or checkpoint_step(last) < total:
        seed = recipe.seed + paths.number - 1  # a later stage sees the examples in another order
        set_seed(seed)
        network = make_network(stage, context, checkpoint)
        objective = None if stage.objective is None else stage.objective(context, checkpoint)
        schedule = ScheduleCallback(network.method)
        callbacks: list[Any] = [schedule]
        if processes.is_main_process:
            callbacks += [
                ProgressBar(context.progress, stage.name),
                LogFile(paths.folder / LOG, paths.name),
            ]
            if is_tensorboard_available():  # a part of the extra "train" that nothing else needs
                callbacks.append(TensorBoard(paths.folder / BOARD / paths.name))
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
        if stage.initialize is not None and last is None:
            stage.initialize(context, checkpoint, network.method)
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
    processes.wait_for_everyone()
    if processes.is_main_process:
        assert last is not None
        _finish(stage, paths, checkpoint, last, total, context, features, warnings)
    processes.wait_for_everyone()


def _finish(
    stage: Stage,
    paths: StagePaths,
    checkpoint: Checkpoint,
    last: Path,
    total: int,
    context: Context,
    features: Features,
    warnings: Sequence[str],
) -> None:
    """Writes the checkpoint of a stage, masked or slim, from the Trainer's checkpoint `last`."""
    context.progress.stage("Writing the checkpoint")
    if not (last / SAFETENSORS).is_file():
        raise CheckpointError(
            f"{last}: has no {SAFETENSORS}; with FSDP set fsdp_state_dict_type to FULL_STATE_DICT, with DeepSpeed ZeRO-3 "
            "stage3_gather_16bit_weights_on_model_save, so that checkpoints hold whole weights"
        )
    network, state = make_network(stage, context, checkpoint), read_safetensors(last / SAFETENSORS)
    provenance: dict[str, Any] = {
        "method": method_of(context.recipe).kind,
        "stage": stage.name,
        "steps": total,
        "recipe": asdict(context.recipe),
        "data": {
            "name": Path(features.name).name,
            "features": len(features),
            "sha256": features.digest,
            "notes": list(features.notes),
        },
        "source": context.original.source_to_json(),
        "versions": versions(),
    }
    if isinstance(network.model, SlimModel) and network.pruned is None:
        load_state(network, state)
        write_slim(
            *(network.model.describe(), checkpoint.config, paths.result),
            beside=checkpoint.source.folder,
            warnings=list(warnings),
            **provenance,
        )
        return
    finished = finish_network(network, state, total)
    record: dict[str, Any] = {"left": finished.left}
    if network.method is not None:
        record["left_at_last_step"] = finished.at_last_step
        record["cut_without_training"] = round(cut_without_training(finished.at_last_step, finished.left), 6)
        warning = cut_warning(stage.name, finished.at_last_step, finished.left)
        if warning is not None:
            warnings = (*warnings, warning)
            context.progress.note(f"Warning: {warning}")
            with (paths.folder / LOG).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"stage": paths.name, "step": total, "warning": warning}) + "\n")
    if stage.prepare is not None and (checkpoint.source.folder / PLAN_FILE).is_file():
        prepared = read_record(checkpoint.source.folder)
        record["prepared"] = {name: prepared[name] for name in _OF_PREPARATION if name in prepared}
    write_masked(
        checkpoint,
        finished.plan,
        paths.result,
        changed=finished.changed,
        warnings=list(warnings),
        **provenance,
        **record,
    )
