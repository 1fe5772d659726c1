"""The widths of a sliced residual stream: one per norm."""

from __future__ import annotations

from collections.abc import Sequence

from exporters.encoder import Encoder
from exporters.errors import UsageError
from prune_export.slicing.bases import Basis


def check_widths(encoder: Encoder, widths: Sequence[int]) -> None:
    """Checks that there is a width per norm, none wider than the norm.

    Raises:
        UsageError: there is not.
    """
    most = [norm.weight.shape[0] for norm in encoder.norms]
    if len(widths) != len(most) or not all(1 <= width <= limit for width, limit in zip(widths, most, strict=True)):
        raise UsageError(
            f"expected {len(most)} widths, for the embeddings' norm and two norms in each of {len(encoder.layers)} layers, "
            f"from 1 to at most {most}; found {list(widths)}"
        )


def one_width(encoder: Encoder, width: int) -> tuple[int, ...]:
    """Returns `width` for every norm; narrow embeddings keep their own width where that is less."""
    return tuple(min(width, norm.weight.shape[0]) for norm in encoder.norms)


def widths_by_share(bases: Sequence[Basis], share: float, *, multiple: int = 8) -> tuple[int, ...]:
    """Returns per norm the smallest width, in multiples of `multiple`, that holds `share` of its eigenvalues' sum."""
    widths = []
    for basis in bases:
        needed = int((basis.shares < share - 1e-12).sum()) + 1
        widths.append(min(basis.width, max(multiple, needed + -needed % multiple)))
    return tuple(widths)
