"""Opens exported models as sessions, with the settings that their records hold."""

from __future__ import annotations

from pathlib import Path

from exporters.onnx.targets import TARGETS
from exporters.providers import CPU, ProviderName
from exporters.session import Session
from prune_export.facts.record import find_exported


def open_session(
    onnx: str | Path, *, provider: ProviderName | None = None, threads: int | None = None, cuda_graphs: bool = False
) -> Session:
    """Opens the exported model `onnx`; arguments and errors as for `prune_export.load_session`."""
    exported = find_exported(onnx)
    target = TARGETS.get(exported.target)
    chosen = provider or (target.provider.name if target else CPU.name)
    return Session(
        exported.model, provider=chosen, threads=threads, settings=exported.settings, cuda_graphs=cuda_graphs
    )
