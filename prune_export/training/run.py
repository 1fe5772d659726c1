"""`prune_export.train`: a recipe's stages one after another, each from the checkpoint that the one before left."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from exporters.errors import MissingDependencyError, PruneExportError, UsageError
from prune_export.checkpoint.beside import link_beside
from prune_export.checkpoint.load import Checkpoint, load_checkpoint
from prune_export.checkpoint.source import Source, resolve
from prune_export.checkpoint.tokenizer import load_tokenizer
from prune_export.evaluation.evaluate_models import evaluate_models
from prune_export.evaluation.result import Evaluation
from prune_export.facts.file_names import PLAN_FILE, SAFETENSORS
from prune_export.facts.plan import plan_from_zeros
from prune_export.facts.summary import Summary
from prune_export.files.errors import explained
from prune_export.files.paths import expanded
from prune_export.files.reading import one_line
from prune_export.files.transaction import transaction
from prune_export.files.writing import write_file
from prune_export.options.evaluate import EvaluateOptions
from prune_export.options.keywords import from_keywords
from prune_export.options.train import TrainOptions
from prune_export.outputs.destination import folder_destination
from prune_export.outputs.kinds import MASKED
from prune_export.outputs.run import CHECKPOINTS, EVALUATION, FINAL, STAGES, remove_checkpoint, remove_model
from prune_export.progress import Progress
from prune_export.surgeon import operate
from prune_export.surgeon.summarize import summarize
from prune_export.training.arguments import check_trainer_section
from prune_export.training.checks import check_recipe
from prune_export.training.features import Features, training_features
from prune_export.training.folder import held_run
from prune_export.training.head import needs_head, write_with_head
from prune_export.training.inputs import trainable_checkpoint
from prune_export.training.kinds import stages_of
from prune_export.training.recipe import Recipe
from prune_export.training.recipe_file import read_recipe
from prune_export.training.space import check_space, space_needed
from prune_export.training.stage import Context, Stage
from prune_export.training.stage_run import Place, is_first, read_record, run_stage, wait

HEAD = "00-head"


@dataclass(frozen=True, slots=True, eq=False)
class TrainResult:
    """`final` is the masked checkpoint in the run's `folder`; `published` are those of the budgets, the last one included.

    `summary` is that of `final`, `summaries` are those of `published`; "before" is the recipe's model. `evaluation` holds
    the official metrics of each on the recipe's `data.eval` (None: it names none), `record` what pruning.json holds beside
    the plan, and `warnings` what a training pruned otherwise than somebody might expect.
    """

    folder: Path
    final: Path
    published: tuple[Path, ...]
    summary: Summary
    summaries: tuple[Summary, ...]
    evaluation: Evaluation | None
    record: dict[str, Any]
    warnings: tuple[str, ...]


@from_keywords(TrainOptions, Recipe=Recipe)
def train(options: TrainOptions) -> TrainResult:
    """Trains by `recipe` (or the TOML file there, with `changes`) and writes the run into the recipe's output.

    The folder holds `recipe.toml` as used, `checkpoints/` (the Trainer's, by stage), `log.jsonl`, `tensorboard/`, and at
    the end `final/`, a masked checkpoint that `export` takes. `resume` goes on from the last complete checkpoint; a stage
    that is finished is not run again. `overwrite` replaces an earlier run. When a stage is finished, its checkpoints and
    what it started from go, unless `keep_checkpoints`. Several processes (torchrun, accelerate launch) share one run; the
    first of them writes.

    Raises:
        UsageError: the recipe makes no sense, or is not the one of the run to be resumed.
        OutputError: there is a run already, it cannot be written, or there is no room for it.
        TrainingError: a loss or gradient is not a number; the last good checkpoint stays.
        DataError, CheckpointError, MissingDependencyError: what is wrong, and where.
    """
    read, recipe, stages = opened(options.recipe, options.changes)
    folder = expanded(recipe.output)
    results = [stage.name for stage in stages if stage.publish]
    with recipe_errors(folder), ExitStack() as stack:
        if is_first():
            stack.enter_context(
                held_run(folder, recipe, read, results, resume=options.resume, overwrite=options.overwrite)
            )
        wait()
        context, features = make_context(recipe, folder / STAGES / HEAD, options.progress)
        space = space_needed(
            recipe,
            stages,
            context.original,
            has_new_head=(folder / STAGES / HEAD).is_dir(),
            keep_checkpoints=options.keep_checkpoints,
        )
        if is_first():
            check_space(folder, space)
            options.progress.note(f"disk: {space}")
        for stage in stages:
            if stage.check is not None:
                stage.check(context)
        _run_stages(places(stages, folder), context, features, keep_checkpoints=options.keep_checkpoints)
        return _result(recipe, stages, folder, context.original, options.progress)


def opened(recipe: Recipe | str | Path, changes: Sequence[str]) -> tuple[Path | None, Recipe, tuple[Stage, ...]]:
    """The file that a recipe was read from (None: it is one already), the recipe, checked, and its stages.

    Raises:
        UsageError: the recipe makes no sense.
        MissingDependencyError: a library is missing.
    """
    read = None
    if not isinstance(recipe, Recipe):
        if not isinstance(recipe, str | Path):
            raise UsageError(f"recipe: expected a Recipe or a TOML file's path; found {type(recipe).__name__}")
        read = Path(recipe)
        recipe = read_recipe(read, changes)
    recipe = check_recipe(recipe)
    stages = stages_of(recipe)
    try:
        import accelerate  # noqa: F401
        import tomli_w  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f"training needs accelerate and tomli-w ({one_line(error)}): pip install 'prune-export[train]'"
        ) from error
    check_trainer_section(recipe.trainer)
    return read, recipe, stages


def make_context(recipe: Recipe, head: Path, progress: Progress, *, is_kept: bool = True) -> tuple[Context, Features]:
    """What stages use. A model that gets a new head is written to the folder `head`; `is_kept`: features are cached."""
    progress.pause()
    source = resolve(recipe.model)
    progress.stage("Reading the checkpoint")
    if needs_head(source, recipe.task):
        source = _with_head(source, recipe, head)
    checkpoint = trainable_checkpoint(source, recipe)
    features = training_features(recipe.data, checkpoint, seed=recipe.seed, progress=progress, is_kept=is_kept)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = load_tokenizer(checkpoint.source.folder)
    return Context(recipe, checkpoint, features.features, tokenizer, device, progress), features


def _with_head(source: Source, recipe: Recipe, head: Path) -> Source:
    if is_first() and not head.is_dir():
        write_with_head(source, recipe, head)
    wait()
    return replace(source, folder=head)


def places(stages: Sequence[Stage], folder: Path) -> list[tuple[Stage, Place]]:
    """Each stage, and where it lies in the run's folder."""
    found = []
    for number, stage in enumerate(stages, 1):
        name = f"{number:02}-{stage.name}"
        result = stage.name if stage.publish else FINAL if number == len(stages) else f"{STAGES}/{name}"
        found.append((stage, Place(folder, number, name, folder / result)))
    return found


def _run_stages(
    stages: Sequence[tuple[Stage, Place]], context: Context, features: Features, *, keep_checkpoints: bool
) -> None:
    """Runs the stages after the last one that is finished, and puts the last one's result where `final` is."""
    original = context.original.source.folder
    finished = max((place.number for _, place in stages if _is_finished(place)), default=0)
    start, warnings = original, ()
    for stage, place in stages:
        if place.number > finished:
            run_stage(stage, place, start, context, features, warnings)
        if not keep_checkpoints and place.number >= finished and is_first():
            _clear(place, start, original)
        if _is_finished(place):
            warnings = tuple(read_record(place.result).get("warnings", ()))
        start = place.result
    final = stages[-1][1].folder / FINAL
    if is_first() and not (final / PLAN_FILE).is_file():
        with transaction(folder_destination(final, MASKED, overwrite=False).target) as aside:
            link_beside(start, aside, MASKED.removable(start))
    wait()


def _is_finished(place: Place) -> bool:
    return (place.result / PLAN_FILE).is_file() and (place.result / SAFETENSORS).is_file()


def _clear(place: Place, start: Path, original: Path) -> None:
    """Removes what nobody needs once the stage at `place` is finished: its checkpoints, and what it started from."""
    for path in place.checkpoints.glob("checkpoint-*"):
        remove_checkpoint(path)
    remove_model(place.prepared)
    if start.parent == place.folder / STAGES and start != original:
        remove_model(start)
    for folder in (place.checkpoints, place.folder / CHECKPOINTS, place.folder / STAGES):
        with suppress(OSError):  # it is not empty, or not there
            folder.rmdir()


# Options of other verbs in messages of code that they share with trainings, and what a recipe calls them.
_KEYS = {
    "--max-seq-length": "data.max_seq_length",
    "--doc-stride": "data.doc_stride",
    "--dataset": "data.dataset",
    "--labels": "data.labels",
    "--limit": "data.eval_samples",
    "--task": "task",
    "--output": "output",
}
_OPTION = re.compile("|".join(rf"{option}\b(?![-=])" for option in _KEYS))


@contextmanager
def recipe_errors(folder: Path) -> Iterator[None]:
    """Names keys of the recipe instead of options, and says in one line what the operating system cannot write."""
    try:
        yield
    except OSError as error:
        raise explained(error, folder) from error
    except PruneExportError as error:
        text = _OPTION.sub(lambda found: _KEYS[found[0]], str(error))
        if text == str(error):
            raise
        raise type(error)(text) from error


def _result(
    recipe: Recipe, stages: Sequence[Stage], folder: Path, original: Checkpoint, progress: Progress
) -> TrainResult:
    final = folder / FINAL
    published = tuple(place.result for stage, place in places(stages, folder) if stage.publish)
    record = read_record(final)
    summary = _summary(final, original)
    summaries = tuple(_summary(path, original) for path in published)
    evaluation = None
    if recipe.data.eval is not None and is_first():
        options = EvaluateOptions(
            published if stages[-1].publish else [*published, final],
            recipe.data.eval,
            dataset=recipe.data.dataset,
            limit=recipe.data.eval_samples,
            seed=recipe.seed,
            max_seq_length=recipe.data.max_seq_length,
            doc_stride=recipe.data.doc_stride,
            labels=recipe.data.labels,
            provider="cuda" if torch.cuda.is_available() else None,
            progress=progress,
        )
        evaluation = evaluate_models(options)
        text = json.dumps(evaluation.to_json(), indent=1) + "\n"
        write_file(folder / EVALUATION, text.encode(), overwrite=True)
    warnings = tuple(record.get("warnings", ()))
    return TrainResult(folder, final, published, summary, summaries, evaluation, record, warnings)


def _summary(folder: Path, original: Checkpoint) -> Summary:
    checkpoint = load_checkpoint(folder)
    plan = plan_from_zeros(checkpoint.encoder)
    return summarize(checkpoint, operate(checkpoint.encoder, plan), plan, original=original)
