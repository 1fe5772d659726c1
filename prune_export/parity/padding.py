"""Whether a graph has to give a model's outputs at padding, too."""

from __future__ import annotations

from exporters.encoder import Encoder
from exporters.onnx.context import Target
from exporters.session import SessionSettings


def compares_padding(encoder: Encoder, target: Target | None, settings: SessionSettings) -> bool:
    """Says whether outputs at padding are compared as well.

    A packed graph computes none. Where the states of padding are masked, padding attends to all tokens, padding included:
    its outputs are others once a session has padded a batch to a multiple of tokens. A window may leave a padded query
    nothing to attend to.
    """
    if target is not None and target.layout == "packed":
        return False
    if encoder.has_windows:
        return False
    return not encoder.embeddings.masked or settings.length_multiple == 1
