"""The options of `verify`."""

from dataclasses import field
from pathlib import Path
from typing import Annotated

from exporters.providers import PROVIDERS, ProviderName
from prune_export.options.checkpoint import HubAccess, ModelOption, PlanOption, TaskOption
from prune_export.options.listening import Listening
from prune_export.options.option import Option, Options
from prune_export.options.parity import THOROUGH, ParityOptions, QualityOptions, ToleranceOption


class ExportedModel(Options, title="exported model"):
    onnx: Annotated[str | Path, Option("the exported folder or .onnx file", "O", is_path=True)] = field(kw_only=False)


class ProviderOption(Options, title="exported model"):
    provider: Annotated[
        ProviderName | None, Option("execution provider", choices=tuple(PROVIDERS), default="the model's target")
    ] = None


class VerifyOptions(
    Listening,
    HubAccess,
    QualityOptions,
    ToleranceOption,
    ParityOptions,
    ProviderOption,
    PlanOption,
    TaskOption,
    ExportedModel,
    ModelOption,
    title="parity",
):
    """All that `verify` takes."""

    thorough: Annotated[bool, Option(THOROUGH, default="--thorough", is_two_way=True)] = True
