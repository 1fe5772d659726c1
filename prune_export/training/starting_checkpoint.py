"""Reads the checkpoint that a run starts from, checks all inputs of the recipe, and adds a new head where one is missing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from exporters.errors import CheckpointError, OutputError, UsageError
from prune_export.checkpoint.beside import check_beside, copy_beside, tokenizer_files
from prune_export.checkpoint.config_keys import own_attention
from prune_export.checkpoint.load import Checkpoint, load_checkpoint, read_configuration, transformers_config
from prune_export.checkpoint.reference_model import quiet_transformers
from prune_export.checkpoint.source import Source, resolve
from prune_export.checkpoint.tokenizer import load_tokenizer, read_config
from prune_export.checkpoint.weights import read_weights
from prune_export.data.examples import TextData, sample
from prune_export.data.model_classes import new_classes
from prune_export.data.read import read_examples
from prune_export.data.splits import without_split
from prune_export.evaluation.evaluate_network import evaluation_features
from prune_export.facts.file_names import CONFIG
from prune_export.families import FAMILIES
from prune_export.files.tensors import safetensors_errors
from prune_export.files.transaction import transaction
from prune_export.options.evaluate import EvaluationSettings
from prune_export.outputs.destination import folder_destination
from prune_export.outputs.folder_types import DENSE
from prune_export.tasks import LABELLED, SPECS
from prune_export.training.features import training_data
from prune_export.training.methods import METHODS, method_of
from prune_export.training.recipe import Recipe
from prune_export.training.teacher import read_teacher


def trainable_checkpoint(source: Source, recipe: Recipe) -> Checkpoint:
    """Reads the checkpoint in `source`.

    It also checks the inputs that are needed only after hours of training: the data for evaluation, and the teachers.

    Raises:
        CheckpointError, DataError, UsageError: one cannot be read, or is for another task.
    """
    checkpoint = load_checkpoint(source, task=recipe.task)
    method = method_of(recipe)
    if checkpoint.form == "slim" and not method.trains_slim:
        others = " or ".join(repr(other.kind) for other in METHODS.values() if other.trains_slim)
        raise CheckpointError(
            f"'{source.name}' is in slim format, which method '{method.kind}' cannot prune further: expected weights of "
            f"full size, or kind = {others}, which trains it as it is"
        )
    if checkpoint.form not in ("plain", "masked", "slim"):
        raise CheckpointError(
            f"'{source.name}' is in {checkpoint.form} format; training needs a checkpoint with weights of full size"
        )
    if checkpoint.encoder.is_sliced and recipe.distillation is not None and recipe.distillation.hidden_weight > 0:
        raise UsageError(
            f"distillation.hidden_weight = {recipe.distillation.hidden_weight:g}: '{source.name}' has a sliced residual "
            "stream, whose hidden states have several widths; expected 0"
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
    section = recipe.data
    assert section.eval is not None
    data = read_examples(section.eval, task=checkpoint.task, dataset=section.dataset)
    if section.eval_samples is not None:
        data = sample(data, section.eval_samples, seed=recipe.seed)
    settings = EvaluationSettings(
        max_seq_length=section.max_seq_length, doc_stride=section.doc_stride, labels=section.labels
    )
    folder = checkpoint.source.folder
    evaluation_features(data, folder, load_tokenizer(folder), settings)


def check_inputs(recipe: Recipe, folder: Path) -> None:
    """Checks that all inputs of `recipe` can be read, and that none lies in `folder`, whose run begins anew.

    Raises:
        OutputError: an input lies in it.
        CheckpointError, DataError, UsageError: one cannot be read, or is for another task.
    """
    for name in (recipe.model, *_teachers(recipe), *recipe.data.train, recipe.data.eval):
        path = None if name is None else Path(without_split(name))
        if path is not None and path.exists() and path.resolve().is_relative_to(folder.resolve()):
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
    """Yields the names of the recipe's teachers."""
    method = method_of(recipe)
    if recipe.teacher is not None and (recipe.distillation is not None or method.distils):
        yield recipe.teacher
    for key in method.teacher_keys:
        if (name := getattr(recipe.method, key)) is not None:
            yield name


# --- a new head -------------------------------------------------------------------------------------------------------


def needs_head(source: Source, task: str | None) -> bool:
    """Says whether the checkpoint was saved for another task than `task` (None: the task that it was saved for)."""
    config = read_config(source.folder)
    if task not in LABELLED or config.get("model_type") not in FAMILIES:
        return False
    saved = config.get("architectures")
    return not any(str(name).endswith(SPECS[task].suffix) for name in (saved if isinstance(saved, list) else ()))


def write_with_head(source: Source, recipe: Recipe, folder: Path) -> None:
    """Writes the body of `source`, a new head for the recipe's task, and the tokenizer into a new `folder`.

    transformers draws the head's weights with the recipe's seed; a classifier has the classes of the training data.

    Raises:
        CheckpointError: the body cannot be read, or transformers cannot load it.
        DataError: the data cannot be read.
    """
    import transformers

    assert recipe.task in LABELLED
    _, family, _ = read_configuration(source)
    check_beside(source.folder, (CONFIG,))  # the new folder gets its content
    weights = read_weights(source.folder, family)  # transformers reads them again, and checks nothing
    if weights.renamed is not None:  # it would draw them all at random
        raise CheckpointError(
            f"'{source.name}': transformers does not know the names of its tensors as they stand there "
            f"({weights.renamed}). Load them into a model of transformers, and save that"
        )
    options: dict[str, Any] = {}
    if SPECS[recipe.task].has_classes:
        data = training_data(recipe.data, recipe.task)
        assert isinstance(data, TextData)
        classes = new_classes(data)
        if isinstance(classes, int):
            options["num_labels"] = classes
        else:
            options["num_labels"] = len(classes)
            options["id2label"] = dict(enumerate(classes))
            options["label2id"] = {label: index for index, label in enumerate(classes)}
    transformers.set_seed(recipe.seed)
    model_class = getattr(transformers, family.class_name(recipe.task))
    config = own_attention(transformers_config(source, **options), model_class)
    destination = folder_destination(folder, DENSE, overwrite=False)
    with transaction(destination.placement) as aside, quiet_transformers():  # it advises to train the new head
        try:
            model = model_class.from_pretrained(
                source.folder, config=config, trust_remote_code=False, local_files_only=True, dtype=torch.float32
            )
        except Exception as error:  # transformers raises many kinds for what it cannot take
            message = " ".join(str(error).split())[:300]
            raise CheckpointError(
                f"'{source.name}': transformers cannot load it for {recipe.task}: {message}"
            ) from error
        with safetensors_errors(aside):
            model.save_pretrained(aside)
        copy_beside(source.folder, aside, tokenizer_files(source.folder))
        origin = json.dumps({"name": source.name, "revision": source.revision})
        (aside / "source.json").write_text(origin, encoding="utf-8")
