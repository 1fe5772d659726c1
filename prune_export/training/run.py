"""`prune_export.train` runs a recipe's stages one after another, each from the result of the one before."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from exporters.errors import MissingDependencyError, PruneExportError, UsageError
from exporters.providers import CPU, torch_provider
from prune_export.checkpoint.beside import link_beside
from prune_export.checkpoint.load import Checkpoint, load_checkpoint
from prune_export.checkpoint.source import Source, resolve
from prune_export.checkpoint.summarize import summarize
from prune_export.checkpoint.tokenizer import load_tokenizer
from prune_export.evaluation.evaluate_models import evaluate_models
from prune_export.evaluation.result import Evaluation
from prune_export.facts.file_names import PLAN_FILE, SAFETENSORS, SLIM
from prune_export.facts.summary import Summary
from prune_export.files.errors import write_error
from prune_export.files.reading import expanded, one_line
from prune_export.files.transaction import transaction
from prune_export.files.writing import write_file
from prune_export.options.evaluate import EvaluateOptions
from prune_export.options.keywords import from_keywords
from prune_export.options.train import TrainOptions
from prune_export.outputs.destination import folder_destination
from prune_export.outputs.folder_types import MASKED
from prune_export.outputs.run import CHECKPOINTS, EVALUATION, FINAL, STAGES, remove_checkpoint, remove_model
from prune_export.progress import Progress
from prune_export.surgeon import operate
from prune_export.surgeon.zeros import plan_from_zeros
from prune_export.training.arguments import check_trainer_section, process_state
from prune_export.training.features import Features, training_features
from prune_export.training.methods import stages_of
from prune_export.training.recipe import Recipe
from prune_export.training.recipe_file import check_recipe, read_recipe
from prune_export.training.run_folder import check_space, held_run, space_needed
from prune_export.training.stage import Context, Stage
from prune_export.training.stage_run import StagePaths, read_record, run_stage
from prune_export.training.starting_checkpoint import needs_head, trainable_checkpoint, write_with_head

HEAD = "00-head"


@dataclass(frozen=True, slots=True, eq=False)
class TrainResult:
    """A finished run in `folder`.

    `final` is its last masked checkpoint; `published` are those of the budgets, the last one included. `summary` is that of
    `final`, `summaries` are those of `published`; "before" in them is the recipe's model. `evaluation` holds the official
    metrics of each on the recipe's `data.eval` (None: it names none). `record` is the content of pruning.json beside the
    plan. `warnings` say where the pruning may differ from what the user expects.
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
    """Trains by `recipe`, or by the TOML file of that path with `changes`, and writes the run into the recipe's output.

    The folder holds `recipe.toml` as used, `checkpoints/` (the Trainer's, by stage), `log.jsonl`, `tensorboard/`, and at
    the end `final/`, a masked checkpoint for `export`. `resume` continues from the last complete checkpoint, without
    repeating finished stages. `overwrite` replaces an earlier run. The checkpoints of a finished stage and the checkpoint
    that it started from are removed, unless `keep_checkpoints`. Several processes (torchrun, accelerate launch) share one
    run, of which the first one writes.

    Raises:
        UsageError: the recipe is wrong, or is not that of the run to be resumed.
        OutputError: there is a run already, it cannot be written, or there is no room for it.
        TrainingError: a loss or gradient is not a number; the last good checkpoint is kept.
        DataError, CheckpointError, MissingDependencyError: the model or data cannot be read, or a library is missing.
    """
    recipe_path, recipe, stages = load_recipe(options.recipe, options.changes)
    folder, processes = expanded(recipe.output), process_state()
    results = [stage.name for stage in stages if stage.publish]
    with recipe_errors(folder), ExitStack() as stack:
        if processes.is_main_process:
            stack.enter_context(
                held_run(folder, recipe, recipe_path, results, resume=options.resume, overwrite=options.overwrite)
            )
        processes.wait_for_everyone()
        context, features = make_context(recipe, folder / STAGES / HEAD, options.progress)
        space = space_needed(
            recipe,
            stages,
            context.original,
            has_new_head=(folder / STAGES / HEAD).is_dir(),
            keep_checkpoints=options.keep_checkpoints,
        )
        if processes.is_main_process:
            check_space(folder, space)
            options.progress.note(f"disk: {space}")
        for stage in stages:
            if stage.check is not None:
                stage.check(context)
        _run_stages(stage_paths(stages, folder), context, features, keep_checkpoints=options.keep_checkpoints)
        return _result(recipe, stages, folder, context.original, options.progress)


def load_recipe(recipe: Recipe | str | Path, changes: Sequence[str]) -> tuple[Path | None, Recipe, tuple[Stage, ...]]:
    """Returns the file of a recipe (None: `recipe` is no path), the checked recipe, and its stages.

    Raises:
        UsageError: the recipe is wrong.
        MissingDependencyError: a library is missing.
    """
    recipe_path = None
    if not isinstance(recipe, Recipe):
        if not isinstance(recipe, str | Path):
            raise UsageError(f"recipe: expected a Recipe or a TOML file's path; found {type(recipe).__name__}")
        recipe_path = Path(recipe)
        recipe = read_recipe(recipe_path, changes)
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
    return recipe_path, recipe, stages


def make_context(recipe: Recipe, head: Path, progress: Progress, *, use_cache: bool = True) -> tuple[Context, Features]:
    """Returns the context of the stages, and the training features.

    A model that gets a new head is written to the folder `head`. With `use_cache` features are cached.
    """
    progress.pause()
    source = resolve(recipe.model)
    progress.stage("Reading the checkpoint")
    if needs_head(source, recipe.task):
        source = _with_head(source, recipe, head)
    checkpoint = trainable_checkpoint(source, recipe)
    features = training_features(recipe.data, checkpoint, seed=recipe.seed, progress=progress, use_cache=use_cache)
    tokenizer = load_tokenizer(checkpoint.source.folder)
    device = CPU.device if recipe.trainer.get("use_cpu") else torch_provider().device
    return Context(recipe, checkpoint, features.features, tokenizer, device, progress), features


def _with_head(source: Source, recipe: Recipe, head: Path) -> Source:
    processes = process_state()
    if processes.is_main_process and not head.is_dir():
        write_with_head(source, recipe, head)
    processes.wait_for_everyone()
    return replace(source, folder=head)


def stage_paths(stages: Sequence[Stage], folder: Path) -> list[tuple[Stage, StagePaths]]:
    """Returns each stage with its paths in the run's folder."""
    paths = []
    for number, stage in enumerate(stages, 1):
        name = f"{number:02}-{stage.name}"
        result = stage.name if stage.publish else FINAL if number == len(stages) else f"{STAGES}/{name}"
        paths.append((stage, StagePaths(folder, number, name, folder / result)))
    return paths


def _run_stages(
    stages: Sequence[tuple[Stage, StagePaths]], context: Context, features: Features, *, keep_checkpoints: bool
) -> None:
    """Runs the stages after the last finished one, and links the last result to `final`."""
    original, processes = context.original.source.folder, process_state()
    finished = max((paths.number for _, paths in stages if _is_finished(paths)), default=0)
    start, warnings = original, ()
    for stage, paths in stages:
        if paths.number > finished:
            run_stage(stage, paths, start, context, features, warnings)
        if not keep_checkpoints and paths.number >= finished and processes.is_main_process:
            _clear(paths, start, original)
        if _is_finished(paths):
            warnings = tuple(read_record(paths.result).get("warnings", ()))
        start = paths.result
    final = stages[-1][1].folder / FINAL
    if processes.is_main_process and not (final / PLAN_FILE).is_file():
        with transaction(folder_destination(final, MASKED, overwrite=False).placement) as aside:
            link_beside(start, aside, MASKED.removable(start))
    processes.wait_for_everyone()


def _is_finished(paths: StagePaths) -> bool:
    return (paths.result / PLAN_FILE).is_file() and any((paths.result / name).is_file() for name in (SAFETENSORS, SLIM))


def _clear(paths: StagePaths, start: Path, original: Path) -> None:
    """Removes the checkpoints of a finished stage, and the checkpoint that it started from."""
    for path in paths.checkpoints.glob("checkpoint-*"):
        remove_checkpoint(path)
    remove_model(paths.prepared)
    if start.parent == paths.folder / STAGES and start != original:
        remove_model(start)
    for folder in (paths.checkpoints, paths.folder / CHECKPOINTS, paths.folder / STAGES):
        with suppress(OSError):  # it is not empty, or not there
            folder.rmdir()


# The keys of a recipe for options that appear in messages of code that trainings share with other verbs.
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
    """Replaces options in errors by keys of the recipe, and turns errors of the operating system into one line."""
    try:
        yield
    except OSError as error:
        raise write_error(error, folder) from error
    except PruneExportError as error:
        text = _OPTION.sub(lambda option: _KEYS[option[0]], str(error))
        if text == str(error):
            raise
        raise type(error)(text) from error


def _result(
    recipe: Recipe, stages: Sequence[Stage], folder: Path, original: Checkpoint, progress: Progress
) -> TrainResult:
    final = folder / FINAL
    published = tuple(paths.result for stage, paths in stage_paths(stages, folder) if stage.publish)
    record = read_record(final)
    summary = _summary(final, original)
    summaries = tuple(_summary(path, original) for path in published)
    evaluation = None
    if recipe.data.eval is not None and process_state().is_main_process:
        options = EvaluateOptions(
            published if stages[-1].publish else [*published, final],
            recipe.data.eval,
            dataset=recipe.data.dataset,
            limit=recipe.data.eval_samples,
            seed=recipe.seed,
            max_seq_length=recipe.data.max_seq_length,
            doc_stride=recipe.data.doc_stride,
            labels=recipe.data.labels,
            provider=torch_provider().name,
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
