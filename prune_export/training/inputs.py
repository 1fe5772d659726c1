"""What a recipe reads: checked before anything is trained, and before an earlier run goes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from exporters.errors import CheckpointError, OutputError, UsageError
from prune_export.checkpoint.load import Checkpoint, load_checkpoint, read_configuration
from prune_export.checkpoint.source import Source, resolve
from prune_export.checkpoint.tokenizer import load_tokenizer
from prune_export.data.examples import sample
from prune_export.data.read import read_examples
from prune_export.data.splits import without_split
from prune_export.evaluation.evaluate_network import evaluation_features
from prune_export.options.evaluate import EvaluationSettings
from prune_export.pruning.objective import LABELLED
from prune_export.training.distillation.student_config import StudentConfig
from prune_export.training.distillation.teacher import read_teacher
from prune_export.training.features import training_data
from prune_export.training.head import needs_head
from prune_export.training.recipe import Recipe


def trainable_checkpoint(source: Source, recipe: Recipe) -> Checkpoint:
    """Reads the checkpoint in `source`, and what is needed after hours only: it should fail now, if at all.

    Raises:
        CheckpointError, DataError, UsageError: one cannot be read, or is for another task.
    """
    checkpoint = load_checkpoint(source, task=recipe.task)
    if checkpoint.form not in ("plain", "masked"):
        raise CheckpointError(
            f"'{source.name}' is in {checkpoint.form} format; training needs a checkpoint with weights of full size"
        )
    if checkpoint.task not in LABELLED:
        raise UsageError(
            f"'{source.name}' is for {checkpoint.task}; training needs a task with labels: say in the recipe "
            f"task = {' or '.join(repr(task) for task in LABELLED)}"
        )
    if recipe.data.eval is not None:
        _check_evaluation(recipe, checkpoint)
    for name in _teachers(recipe):
        read_teacher(name, checkpoint)
    return checkpoint


def _check_evaluation(recipe: Recipe, checkpoint: Checkpoint) -> None:
    part = recipe.data
    assert part.eval is not None
    data = read_examples(part.eval, task=checkpoint.task, dataset=part.dataset)
    if part.eval_samples is not None:
        data = sample(data, part.eval_samples, seed=recipe.seed)
    settings = EvaluationSettings(max_seq_length=part.max_seq_length, doc_stride=part.doc_stride, labels=part.labels)
    folder = checkpoint.source.folder
    evaluation_features(data, folder, load_tokenizer(folder), settings)


def check_inputs(recipe: Recipe, folder: Path) -> None:
    """Checks that all that `recipe` reads can be read, and that nothing of it lies in `folder`, which is to be begun anew.

    Raises:
        OutputError: a file or folder that is read lies in it.
        CheckpointError, DataError, UsageError: one cannot be read, or is for another task.
    """
    for name in (recipe.model, *_teachers(recipe), *recipe.data.train, recipe.data.eval):
        place = None if name is None else Path(without_split(name))
        if place is not None and place.exists() and place.resolve().is_relative_to(folder.resolve()):
            raise OutputError(
                f"{name} is read by the recipe and lies in {folder}, which would be begun anew; choose another output"
            )
    source, task = resolve(recipe.model), recipe.task
    if needs_head(source, task):
        read_configuration(source)
    else:
        task = trainable_checkpoint(source, recipe).task
    training_data(recipe.data, task)


def _teachers(recipe: Recipe) -> Iterator[str]:
    """The names of the networks that are learnt from."""
    is_student = isinstance(recipe.method, StudentConfig)
    if recipe.teacher is not None and (recipe.distillation is not None or is_student):
        yield recipe.teacher
    if isinstance(recipe.method, StudentConfig) and recipe.method.prediction_teacher is not None:
        yield recipe.method.prediction_teacher
