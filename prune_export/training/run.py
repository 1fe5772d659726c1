"""`prune_export.train`: a recipe's stages one after another, each from the checkpoint that the one before left."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from exporters.errors import CheckpointError, MissingDependencyError, TrainingError, UsageError
from prune_export.checkpoint.beside import copy_beside
from prune_export.checkpoint.load import Checkpoint, load_checkpoint
from prune_export.checkpoint.masked import write_masked
from prune_export.checkpoint.source import PLAN_FILE, SAFETENSORS, resolve
from prune_export.checkpoint.weights import read_safetensors
from prune_export.data.tokenizer import load_tokenizer
from prune_export.evaluation.evaluating import evaluate
from prune_export.evaluation.result import Evaluation
from prune_export.files.errors import explained
from prune_export.files.paths import expanded
from prune_export.files.reading import ReadingError, read_json
from prune_export.files.transaction import transaction
from prune_export.files.writing import write_file
from prune_export.inspection import source_to_json
from prune_export.outputs.destination import folder_destination
from prune_export.outputs.kinds import MASKED
from prune_export.outputs.run import (
    BOARD,
    CHECKPOINTS,
    EVALUATION,
    FINAL,
    LOG,
    STAGES,
)
from prune_export.plan import plan_from_zeros
from prune_export.progress import SILENT, Progress
from prune_export.record import versions
from prune_export.report.summary import Summary, summarize
from prune_export.surgeon import operate
from prune_export.training.arguments import check_trainer_section, refusals, total_steps, training_arguments
from prune_export.training.checks import check_recipe
from prune_export.training.dropout import set_dropout
from prune_export.training.features import Collator, Features, training_features
from prune_export.training.folder import held_run
from prune_export.training.head import needs_head, write_with_head
from prune_export.training.inputs import trainable_checkpoint
from prune_export.training.kinds import stages_of
from prune_export.training.network import finished_tensors, make_network
from prune_export.training.recipe import Recipe
from prune_export.training.recipe_file import read_recipe
from prune_export.training.stage import Context, Stage
from prune_export.training.trainer_state import check_state

_PATIENCE = timedelta(hours=12)


@dataclass(frozen=True, slots=True, eq=False)
class TrainResult:
    """`final` is the masked checkpoint in the run's `folder`; `published` are those of budgets on the way to it.

    `evaluation` holds the official metrics of `final` on the recipe's `data.eval` (None: it names none), `record` what
    pruning.json holds beside the plan.
    """

    folder: Path
    final: Path
    published: tuple[Path, ...]
    summary: Summary
    evaluation: Evaluation | None
    record: dict[str, Any]


def train(
    recipe: Recipe | str | Path,
    *,
    changes: tuple[str, ...] = (),
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> TrainResult:
    """Trains by `recipe` (or the TOML file there, with `changes` as for `--set`) and writes the run into `recipe.output`.

    The folder holds `recipe.toml` as used, `checkpoints/` (the Trainer's, by stage), `log.jsonl`, `tensorboard/`, and at
    the end `final/`, a masked checkpoint that `export` takes. `resume` goes on from the last complete checkpoint; a stage
    that is finished is not run again. `overwrite` replaces an earlier run. Several processes (torchrun, accelerate launch)
    share one run; the first of them writes.

    Raises:
        UsageError: the recipe makes no sense, or is not the one of the run to be resumed.
        OutputError: there is a run already, or it cannot be written.
        TrainingError: a loss or gradient is not a number; the last good checkpoint stays.
        DataError, CheckpointError, MissingDependencyError: what is wrong, and where.
    """
    read = None if isinstance(recipe, Recipe) else Path(recipe)
    if not isinstance(recipe, Recipe):
        recipe = read_recipe(recipe, changes)
    recipe = check_recipe(recipe)
    stages = stages_of(recipe)
    _check_libraries()
    check_trainer_section(recipe.trainer)
    folder = expanded(recipe.output)
    results = [stage.name for stage in stages if stage.publish]
    with _one_line_errors(folder), ExitStack() as stack:
        if _is_first():
            stack.enter_context(held_run(folder, recipe, read, results, resume=resume, overwrite=overwrite))
        _wait()
        context, features = _context(recipe, folder, progress)
        start, published = context.original.source.folder, []
        for number, stage in enumerate(stages, 1):
            last = number == len(stages)
            name = f"{number:02}-{stage.name}"
            result = folder / (stage.name if stage.publish else FINAL if last else f"{STAGES}/{name}")
            if not (result / PLAN_FILE).is_file():
                _run_stage(stage, number, name, start, result, folder, context, features)
            if stage.publish:
                published.append(result)
            start = result
        final = folder / FINAL
        if _is_first() and not (final / PLAN_FILE).is_file():
            _copy(start, final)
        _wait()
        return _result(recipe, folder, final, tuple(published), progress)


def _check_libraries() -> None:
    try:
        import accelerate  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("training needs accelerate: pip install 'prune-export[train]'") from error


def _is_first() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def _wait() -> None:
    """Until all processes are here."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState

        # The first process may be at work alone for long: it prunes, reads data, writes.
        PartialState(cpu=not torch.cuda.is_available(), timeout=_PATIENCE).wait_for_everyone()


def _context(recipe: Recipe, folder: Path, progress: Progress) -> tuple[Context, Features]:
    progress.pause()
    source = resolve(recipe.model)
    progress.stage("Reading the checkpoint")
    if needs_head(source, recipe.task):
        begun = folder / STAGES / "00-head"
        if _is_first() and not begun.is_dir():
            write_with_head(source, recipe, begun)
        _wait()
        source = replace(source, folder=begun)
    checkpoint = trainable_checkpoint(source, recipe)
    features = training_features(recipe.data, checkpoint, seed=recipe.seed, progress=progress)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = load_tokenizer(checkpoint.source.folder)
    return Context(recipe, checkpoint, features.features, tokenizer, device, progress), features


def _run_stage(
    stage: Stage, number: int, name: str, start: Path, result: Path, folder: Path, context: Context, features: Features
) -> None:
    from transformers import set_seed
    from transformers.trainer_callback import PrinterCallback

    from prune_export.training.trainer import PruningTrainer, checkpoint_step, last_checkpoint
    from prune_export.training.watch import Bar, Board, LogFile, Schedule

    recipe = context.recipe
    if stage.prepare is not None:
        prepared = folder / STAGES / f"{name}-start"
        if _is_first() and not prepared.is_dir():
            stage.prepare(start, prepared, context)
        _wait()
        start = prepared
    checkpoint = load_checkpoint(start, task=context.original.task)
    total = total_steps(recipe, stage, len(features))
    saved = folder / CHECKPOINTS / name
    last = last_checkpoint(saved)
    if last is not None:
        check_state(last, checkpoint_step(last), total, recipe.optimiser.batch_size)
    if last is None or checkpoint_step(last) < total:
        seed = recipe.seed + number - 1  # a later stage sees the examples in another order
        set_seed(seed)
        network = make_network(stage, context, checkpoint)
        if recipe.optimiser.dropout is not None:
            set_dropout(network.model, recipe.optimiser.dropout)
        objective = None if stage.objective is None else stage.objective(context, checkpoint)
        schedule = Schedule(network.method)
        callbacks: list[Any] = [schedule]
        if _is_first():
            callbacks += [Bar(context.progress, stage.name), LogFile(folder / LOG, name), Board(folder / BOARD / name)]
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
    _wait()
    if _is_first():
        assert last is not None
        _finish(stage, checkpoint, last, total, result, context, features)
    _wait()


def _finish(
    stage: Stage, checkpoint: Checkpoint, last: Path, total: int, result: Path, context: Context, features: Features
) -> None:
    """The masked checkpoint of a stage, out of the state that its training ended in."""
    context.progress.stage("Writing the checkpoint")
    if not (last / SAFETENSORS).is_file():
        raise CheckpointError(
            f"{last}: has no {SAFETENSORS}; with FSDP set fsdp_state_dict_type to FULL_STATE_DICT, with DeepSpeed ZeRO-3 "
            "stage3_gather_16bit_weights_on_model_save, so that checkpoints hold whole weights"
        )
    network = make_network(stage, context, checkpoint)
    changed, plan = finished_tensors(network, read_safetensors(last / SAFETENSORS), total)
    recipe = asdict(context.recipe)
    left = network.method.statistics() if network.method is not None else {}
    write_masked(
        checkpoint,
        plan,
        result,
        changed=changed,
        method=type(context.recipe.method).__name__.removesuffix("Config").lower(),
        stage=stage.name,
        steps=total,
        left=left,
        recipe=recipe,
        data={"name": Path(features.name).name, "features": len(features), "sha256": features.digest},
        source=source_to_json(context.original),
        versions=versions(),
    )


def _copy(start: Path, final: Path) -> None:
    with transaction(folder_destination(final, MASKED, overwrite=False).target) as aside:
        copy_beside(start, aside, MASKED.removable(start))


@contextmanager
def _one_line_errors(folder: Path) -> Iterator[None]:
    """What the operating system says where something cannot be written."""
    try:
        yield
    except OSError as error:
        raise explained(error, folder) from error


def _result(recipe: Recipe, folder: Path, final: Path, published: tuple[Path, ...], progress: Progress) -> TrainResult:
    checkpoint = load_checkpoint(final)
    try:
        record = read_json(final / PLAN_FILE, dict[str, Any])
    except ReadingError as error:
        raise CheckpointError(f"{final / PLAN_FILE}: {error}") from error
    plan = plan_from_zeros(checkpoint.encoder)
    summary = summarize(checkpoint, operate(checkpoint.encoder, plan), plan)
    evaluation = None
    if recipe.data.eval is not None and _is_first():
        evaluation = evaluate(
            final,
            recipe.data.eval,
            dataset=recipe.data.dataset,
            limit=recipe.data.eval_samples,
            max_seq_length=recipe.data.max_seq_length,
            doc_stride=recipe.data.doc_stride,
            labels=recipe.data.labels,
            provider="cuda" if torch.cuda.is_available() else None,
            progress=progress,
        )
        text = json.dumps(evaluation.to_json(), indent=1) + "\n"
        write_file(folder / EVALUATION, text.encode(), overwrite=True)
    return TrainResult(folder, final, published, summary, evaluation, record)
