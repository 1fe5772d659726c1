"""Structured pruning of transformer encoders, delivered as slim ONNX that answers like the original.

    import prune_export

    result = prune_export.export("madlag/…", "out/model.onnx")   # an ExportResult
    report = prune_export.verify("madlag/…", "out")              # a ParityReport
    found = prune_export.inspect("madlag/…")                     # an Inspection
    network = prune_export.slim("madlag/…")                      # a SlimModel, to train on
    network.save_pretrained("slim/")
    network = prune_export.load_slim("slim/")
    session = prune_export.load_session("out")                   # a Session: session.run(inputs)
    measured = prune_export.bench("madlag/…", ["out"])           # a BenchReport
    found = prune_export.evaluate(["madlag/…", "out"], "dev.json")   # an Evaluation: official metrics
    results = prune_export.prune("dense", "train.json", "masked", flops=0.5)   # PruneResults: masked checkpoints
    result = prune_export.train("recipe.toml")                   # a TrainResult: prunes while training
    planned = prune_export.dry_run("recipe.toml")                # a DryRun: what that would do
    answers = prune_export.Pipeline("out")(questions)            # batches with little padding

Names are loaded when they are first used: importing this package is instant.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING

from prune_export.version import __version__

if TYPE_CHECKING:
    from exporters.errors import (
        BenchmarkError,
        CheckpointError,
        DataError,
        MissingDependencyError,
        OutputError,
        ParityError,
        PlanError,
        ProviderError,
        PruneExportError,
        QualityError,
        SurgeryError,
        TrainingError,
        UnsupportedError,
        UsageError,
        WeightsError,
        WriteError,
    )
    from prune_export.benchmark.results import BenchReport
    from prune_export.checkpoint.inspection import Inspection
    from prune_export.evaluation.result import Evaluation
    from prune_export.exporting.checkpoint_export import ExportResult
    from prune_export.facts.plan import LayerPlan, Plan, read_plan
    from prune_export.parity.verdict import ParityReport
    from prune_export.pruning.latency import LatencyTable
    from prune_export.pruning.one_shot import PruneResult
    from prune_export.slim_model.model import SlimModel
    from prune_export.training.dry_run import DryRun, dry_run
    from prune_export.training.recipe import Recipe
    from prune_export.training.recipe_file import read_recipe
    from prune_export.training.run import TrainResult, train
    from prune_export.verbs.bench import bench
    from prune_export.verbs.evaluate import evaluate
    from prune_export.verbs.export import export
    from prune_export.verbs.inspect import inspect
    from prune_export.verbs.load_session import load_session
    from prune_export.verbs.load_slim import load_slim
    from prune_export.verbs.pipeline import Pipeline
    from prune_export.verbs.profile import profile
    from prune_export.verbs.prune import prune
    from prune_export.verbs.search import SearchResult, search
    from prune_export.verbs.slim import slim
    from prune_export.verbs.verify import verify

__all__ = [
    "BenchReport",
    "BenchmarkError",
    "CheckpointError",
    "DataError",
    "DryRun",
    "Evaluation",
    "ExportResult",
    "Inspection",
    "LatencyTable",
    "LayerPlan",
    "MissingDependencyError",
    "OutputError",
    "ParityError",
    "ParityReport",
    "Pipeline",
    "Plan",
    "PlanError",
    "ProviderError",
    "PruneExportError",
    "PruneResult",
    "QualityError",
    "Recipe",
    "SearchResult",
    "SlimModel",
    "SurgeryError",
    "TrainResult",
    "TrainingError",
    "UnsupportedError",
    "UsageError",
    "WeightsError",
    "WriteError",
    "__version__",
    "bench",
    "dry_run",
    "evaluate",
    "export",
    "inspect",
    "load_session",
    "load_slim",
    "profile",
    "prune",
    "read_plan",
    "read_recipe",
    "search",
    "slim",
    "train",
    "verify",
]

_VERBS = (
    "bench",
    "evaluate",
    "export",
    "inspect",
    "load_session",
    "load_slim",
    "profile",
    "prune",
    "search",
    "slim",
    "verify",
)

_HOMES = {
    **{name: "exporters.errors" for name in __all__ if name.endswith("Error")},
    **{name: f".verbs.{name}" for name in _VERBS},
    "BenchReport": ".benchmark.results",
    "DryRun": ".training.dry_run",
    "Evaluation": ".evaluation.result",
    "ExportResult": ".exporting.checkpoint_export",
    "Inspection": ".checkpoint.inspection",
    "LatencyTable": ".pruning.latency",
    "LayerPlan": ".facts.plan",
    "ParityReport": ".parity.verdict",
    "Pipeline": ".verbs.pipeline",
    "Plan": ".facts.plan",
    "PruneResult": ".pruning.one_shot",
    "Recipe": ".training.recipe",
    "SearchResult": ".verbs.search",
    "SlimModel": ".slim_model.model",
    "TrainResult": ".training.run",
    "dry_run": ".training.dry_run",
    "read_plan": ".facts.plan",
    "read_recipe": ".training.recipe_file",
    "train": ".training.run",
}

# A library's log is shown where the program that uses it asks for that.
logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(_HOMES[name], __name__), name)
    except ImportError as error:
        if (error.name or "").split(".")[0] != "exporters":
            raise
        from prune_export.distributions import foreign_exporters

        raise ImportError(foreign_exporters()) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
