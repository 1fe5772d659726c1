"""`prune_export.load_session` opens an exported model."""

from __future__ import annotations

from exporters.session import Session
from prune_export.network.session import open_session
from prune_export.options.keywords import from_keywords
from prune_export.options.session import SessionOptions


@from_keywords(SessionOptions)
def load_session(options: SessionOptions) -> Session:
    """Opens an exported model, ready to run with the settings that its record holds.

    `run(inputs)` of the result takes int64 arrays by name and returns float32 arrays by name. `bind(inputs)` keeps a batch
    in the provider's memory; with `cuda_graphs` its run is captured and replayed.

    Raises:
        OutputError: there is no model, or it cannot be loaded.
        ProviderError: the provider does not start here.
    """
    return open_session(
        options.onnx, provider=options.provider, threads=options.threads, cuda_graphs=options.cuda_graphs
    )
