"""The options of `verify`."""

from dataclasses import field
from pathlib import Path
from typing import Annotated

from exporters.providers import PROVIDERS, ProviderName
from prune_export.options.checkpoint import HubAccess, PlannedCheckpoint
from prune_export.options.listening import Listening
from prune_export.options.option import Option, Options
from prune_export.options.parity import QualityOptions, ThoroughParity


class ExportedModel(Options, title="exported model"):
    onnx: Annotated[str | Path, Option("the exported folder or .onnx file", "O", is_path=True)] = field(kw_only=False)
    provider: Annotated[
        ProviderName | None, Option("execution provider", choices=tuple(PROVIDERS), default="the model's target")
    ] = None


class VerifyOptions(Listening, HubAccess, QualityOptions, ThoroughParity, ExportedModel, PlannedCheckpoint):
    """All that `verify` takes."""
