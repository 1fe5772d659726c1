"""A pretrained network without a head for the task gets a new one, drawn at random, to be trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from exporters.errors import CheckpointError
from prune_export.checkpoint.beside import check_beside, copy_beside, tokenizer_files
from prune_export.checkpoint.config_keys import own_attention
from prune_export.checkpoint.load import read_configuration, transformers_config
from prune_export.checkpoint.reference_model import quiet_transformers
from prune_export.checkpoint.source import Source
from prune_export.checkpoint.tokenizer import read_config
from prune_export.checkpoint.weights import read_weights
from prune_export.data.examples import TextData
from prune_export.data.model_classes import new_classes
from prune_export.facts.file_names import CONFIG
from prune_export.families import FAMILIES
from prune_export.files.tensors import safetensors_errors
from prune_export.files.transaction import transaction
from prune_export.outputs.destination import folder_destination
from prune_export.outputs.folder_types import DENSE
from prune_export.tasks import LABELLED, SPECS
from prune_export.training.features import training_data
from prune_export.training.recipe import Recipe


def needs_head(source: Source, task: str | None) -> bool:
    """Whether the checkpoint was saved for another task than `task` (None: whatever it was saved for)."""
    config = read_config(source.folder)
    if task not in LABELLED or config.get("model_type") not in FAMILIES:
        return False
    saved = config.get("architectures")
    return not any(str(name).endswith(SPECS[task].suffix) for name in (saved if isinstance(saved, list) else ()))


def write_with_head(source: Source, recipe: Recipe, folder: Path) -> None:
    """Writes the body of `source` with a head for the recipe's task into a new `folder`, and the tokenizer.

    The head is what transformers draws with the recipe's seed; a classifier has the classes of the training data.

    Raises:
        CheckpointError: the body cannot be read, or transformers cannot load it.
        DataError: the data cannot be read.
    """
    import transformers

    assert recipe.task in LABELLED
    _, family, _ = read_configuration(source)
    check_beside(source.folder, (CONFIG,))  # the new folder says what it says
    weights = read_weights(source.folder, family)  # transformers reads them again, and checks nothing
    if weights.renamed is not None:  # it would draw them all at random
        raise CheckpointError(
            f"'{source.name}': transformers does not know the names of its tensors as they stand there "
            f"({weights.renamed}). Load them into a model of transformers, and save that"
        )
    options: dict[str, Any] = {}
    if recipe.task == "text-classification":
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
    place = folder_destination(folder, DENSE, overwrite=False)
    with transaction(place.placement) as aside, quiet_transformers():  # it advises to train the new head
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
