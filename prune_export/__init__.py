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
    from prune_export.benchmark.run import bench
    from prune_export.evaluation.evaluating import evaluate
    from prune_export.evaluation.result import Evaluation
    from prune_export.exporting import ExportResult, export
    from prune_export.inspection import Inspection, inspect
    from prune_export.network import load_session
    from prune_export.parity.verdict import ParityReport
    from prune_export.pipeline import Pipeline
    from prune_export.plan import LayerPlan, Plan, read_plan
    from prune_export.pruning.latency import LatencyTable
    from prune_export.pruning.one_shot import PruneResult, prune
    from prune_export.pruning.profiling import profile
    from prune_export.slim_model.api import load_slim, slim
    from prune_export.slim_model.model import SlimModel
    from prune_export.training.dry_run import DryRun, dry_run
    from prune_export.training.recipe import Recipe
    from prune_export.training.recipe_file import read_recipe
    from prune_export.training.run import TrainResult, train
    from prune_export.verification import verify

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
    "slim",
    "train",
    "verify",
]

_HOMES = {
    "BenchReport": ".benchmark.results",
    "BenchmarkError": "exporters.errors",
    "CheckpointError": "exporters.errors",
    "DataError": "exporters.errors",
    "DryRun": ".training.dry_run",
    "Evaluation": ".evaluation.result",
    "ExportResult": ".exporting",
    "Inspection": ".inspection",
    "LatencyTable": ".pruning.latency",
    "LayerPlan": ".plan",
    "MissingDependencyError": "exporters.errors",
    "OutputError": "exporters.errors",
    "ParityError": "exporters.errors",
    "ParityReport": ".parity.verdict",
    "Pipeline": ".pipeline",
    "Plan": ".plan",
    "PlanError": "exporters.errors",
    "ProviderError": "exporters.errors",
    "PruneExportError": "exporters.errors",
    "PruneResult": ".pruning.one_shot",
    "QualityError": "exporters.errors",
    "Recipe": ".training.recipe",
    "SlimModel": ".slim_model.model",
    "SurgeryError": "exporters.errors",
    "TrainResult": ".training.run",
    "TrainingError": "exporters.errors",
    "UnsupportedError": "exporters.errors",
    "UsageError": "exporters.errors",
    "WeightsError": "exporters.errors",
    "WriteError": "exporters.errors",
    "bench": ".benchmark.run",
    "dry_run": ".training.dry_run",
    "evaluate": ".evaluation.evaluating",
    "export": ".exporting",
    "inspect": ".inspection",
    "load_session": ".network",
    "load_slim": ".slim_model.api",
    "profile": ".pruning.profiling",
    "prune": ".pruning.one_shot",
    "read_plan": ".plan",
    "read_recipe": ".training.recipe_file",
    "slim": ".slim_model.api",
    "train": ".training.run",
    "verify": ".verification",
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
