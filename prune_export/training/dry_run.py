"""`prune-export train --dry-run`: checks a recipe and estimates its steps, time and disk space, and writes nothing."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch

from exporters.providers import find_provider
from prune_export.checkpoint.load import load_checkpoint
from prune_export.files.reading import expanded
from prune_export.options.keywords import from_keywords
from prune_export.options.train import TrainOptions
from prune_export.training.arguments import total_steps, training_arguments
from prune_export.training.features import Collator, Features
from prune_export.training.network import make_network
from prune_export.training.recipe import Recipe
from prune_export.training.run import load_recipe, make_context, recipe_errors
from prune_export.training.run_folder import DiskSpace, check_run, check_space, space_needed
from prune_export.training.sampler import TrainingSampler
from prune_export.training.stage import Context, Stage

_BATCHES = 3  # the first, which is slower, does not count


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """A training of `steps` steps; `seconds` is the estimated time of them here, without scoring, pruning and writing."""

    name: str
    steps: int
    seconds: float


@dataclass(frozen=True, slots=True)
class DryRun:
    """The plan of a run: its stages, the `features` of an epoch, and the disk `space` that the stages need."""

    folder: Path
    task: str
    features: int
    stages: tuple[PlannedStage, ...]
    space: DiskSpace

    @property
    def seconds(self) -> float:
        """Returns the estimated time of all stages, in seconds."""
        return sum(stage.seconds for stage in self.stages)

    def to_json(self) -> dict[str, Any]:
        """Returns the dry run as `--json` prints it."""
        return {
            "folder": str(self.folder),
            "task": self.task,
            "features": self.features,
            "stages": [{"name": stage.name, "steps": stage.steps, "seconds": stage.seconds} for stage in self.stages],
            "seconds": self.seconds,
            "disk_bytes": {"most": self.space.most, "at_end": self.space.at_end},
        }


@from_keywords(TrainOptions, Recipe=Recipe)
def dry_run(options: TrainOptions) -> DryRun:
    """Checks a recipe, its model, data and teachers, and tries a few steps.

    It takes the options of `train`, and writes nothing.
    A stage that starts from a smaller network is timed with the recipe's model, and its time scaled by its FLOPs.

    Raises:
        PruneExportError: as `train` before its first step.
    """
    recipe_path, recipe, stages = load_recipe(options.recipe, options.changes)
    folder = expanded(recipe.output)
    with recipe_errors(folder), TemporaryDirectory(prefix="prune-export-") as aside:
        results = [stage.name for stage in stages if stage.publish]
        check_run(folder, recipe, recipe_path, results, resume=options.resume, overwrite=options.overwrite)
        head = Path(aside) / "head"
        context, features = make_context(recipe, head, options.progress, use_cache=False)
        for stage in stages:
            if stage.check is not None:
                stage.check(context)
        space = space_needed(
            recipe, stages, context.original, has_new_head=head.is_dir(), keep_checkpoints=options.keep_checkpoints
        )
        check_space(folder, space)
        start = context.original.source.folder
        if stages[0].prepare is not None and stages[0].check is None:  # a student, which is quickly made
            start = Path(aside) / "start"
            stages[0].prepare(context.original.source.folder, start, context)
        options.progress.stage("Trying some steps", len(stages))
        planned: list[PlannedStage] = []
        tried: dict[Any, tuple[float, float]] = {}  # stages that differ in size alone are tried once
        for stage in stages:
            steps = total_steps(recipe, stage, len(features))
            training_arguments(recipe, stage, Path(aside) / "checkpoints", steps, seed=recipe.seed)
            key = (stage.method, stage.objective, stage.slim)
            if key not in tried:
                tried[key] = _seconds(stage, start, context, features)
            own, teaching = tried[key]
            seconds = steps * recipe.optimiser.accumulation * (stage.flops_fraction * own + teaching)
            planned.append(PlannedStage(stage.name, steps, round(seconds, 3)))
            options.progress.advance()
    return DryRun(folder, context.original.task, len(features), tuple(planned), space)


def _seconds(stage: Stage, start: Path, context: Context, features: Features) -> tuple[float, float]:
    """Returns the seconds of a batch in the network of `stage`, from the checkpoint in `start`, and in its teacher."""
    recipe, device = context.recipe, context.device
    settings = recipe.optimiser
    checkpoint = load_checkpoint(start, task=context.original.task)
    network = make_network(stage, context, checkpoint)
    objective = None if stage.objective is None else stage.objective(context, checkpoint)
    model = network.model.to(device).train()
    if objective is not None:
        objective.attach(model)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.0)
    sampler = TrainingSampler(
        len(features),
        step=settings.batch_size * settings.accumulation,
        seed=recipe.seed,
        lengths=features.lengths() if recipe.data.group_by_length else None,
    )
    drawn = [index for index, _ in zip(sampler, range(_BATCHES * settings.batch_size), strict=False)]
    collator = Collator(context.tokenizer, checkpoint.encoder.inputs)
    dtype = torch.bfloat16 if settings.bf16 else torch.float16
    own, teaching = [], []  # seconds of the network, and of the teacher
    for step in range(_BATCHES):
        chosen = [features[index] for index in drawn[step * settings.batch_size :][: settings.batch_size]]
        if not chosen:  # little data
            break
        batch = {name: value.to(device) for name, value in collator(chosen).items()}
        began = _now(device)
        if network.method is not None:
            network.method.set_step(step, _BATCHES)
        with torch.autocast(device, dtype, enabled=settings.bf16 or settings.fp16):
            outputs = model(**batch)
            loss = outputs["loss"] if isinstance(outputs, dict) else outputs.loss
            before_teacher = _now(device)
            if objective is not None:
                loss, _ = objective.loss(loss, outputs, batch)
            after_teacher = _now(device)
        if network.method is not None:
            loss = loss + network.method.penalty()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        teaching.append(after_teacher - before_teacher)
        own.append(_now(device) - began - teaching[-1])
    if objective is not None:
        objective.detach()
    return median(own[1:] or own), median(teaching[1:] or teaching)


def _now(device: str) -> float:
    find_provider(device).synchronize()
    return time.perf_counter()
