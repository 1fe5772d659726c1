"""`prune_export.load_session`: an exported model, ready to run."""

from __future__ import annotations

from pathlib import Path

from exporters.providers import ProviderName
from exporters.session import Session
from prune_export.arguments import checked
from prune_export.network.session import open_session


@checked
def load_session(
    onnx: str | Path, *, provider: ProviderName | None = None, threads: int | None = None, cuda_graphs: bool = False
) -> Session:
    """The exported model `onnx` (a folder or a file), ready to run with the settings that its record holds.

    `provider` is "cpu" or "cuda" (None: that of the target it was exported for); `threads` the threads inside an operation
    (None: ONNX Runtime's choice). `run(inputs)` of the result takes int64 arrays by name and returns float32 arrays by name;
    `bind(inputs)` keeps a batch in the provider's memory, with `cuda_graphs` to be captured and replayed.

    Raises:
        OutputError: there is no model, or it cannot be loaded.
        ProviderError: the provider does not start here.
    """
    return open_session(onnx, provider=provider, threads=threads, cuda_graphs=cuda_graphs)
