"""The options of `verify`."""

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from exporters.providers import PROVIDERS, ProviderName
from prune_export.options.checkpoint import HubAccess, PlannedCheckpoint
from prune_export.options.listening import Listening
from prune_export.options.option import Option
from prune_export.options.parity import QualityOptions, ThoroughParity


@dataclass(frozen=True)
class ExportedModel:
    TITLE: ClassVar[str] = "exported model"
    onnx: Annotated[str | Path, Option("the exported folder or .onnx file", "O", is_path=True)]
    _: KW_ONLY
    provider: Annotated[
        ProviderName | None, Option("execution provider", choices=tuple(PROVIDERS), default="the model's target")
    ] = None


@dataclass(frozen=True)
class VerifyOptions(Listening, HubAccess, QualityOptions, ThoroughParity, ExportedModel, PlannedCheckpoint):
    """All that `verify` takes."""
