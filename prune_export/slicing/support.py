"""The networks whose residual stream can be sliced."""

from __future__ import annotations

from exporters.distances import Distances
from exporters.encoder import DotProduct, Encoder, Gated, RelativeBias, Rotary, Ungated
from exporters.errors import UnsupportedError
from exporters.kinds import check_kinds


def check_sliceable(encoder: Encoder) -> None:
    """Checks that the residual stream of `encoder` can be sliced.

    Raises:
        UnsupportedError: it cannot, or has been sliced already.
    """
    check_kinds(encoder.layers, "slicing", known=(DotProduct, RelativeBias, Rotary, Distances, Ungated, Gated))
    if encoder.is_sliced:
        raise UnsupportedError(f"expected a network to slice; found one that is sliced to {list(encoder.widths)}")
    if not (encoder.is_post_norm or encoder.is_pre_norm):
        raise UnsupportedError(
            "expected a network to slice with a norm after every sum of its residual stream, or one before every block, "
            "of which the first may be that of the embeddings; found another order of norms"
        )
    if len(encoder.distinct_layers) < len(encoder.layers):
        raise UnsupportedError(
            f"expected layers with weights of their own; found {len(encoder.layers)} layers that share "
            f"{len(encoder.distinct_layers)}: one basis cannot fit the states of several"
        )
    if any(norm.epsilon is None for norm in encoder.norms):
        raise UnsupportedError(
            "expected LayerNorm or RMSNorm in a network to slice; found norms that do not divide (no_norm)"
        )
