"""Slices a network to given widths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch

from exporters.encoder import Encoder
from exporters.errors import UsageError
from prune_export.progress import SILENT, Progress
from prune_export.slicing.bases import Basis, Batch, spectra
from prune_export.slicing.formulas import (
    read_attention,
    read_feed_forward,
    read_head,
    sliced_embeddings,
    sliced_norm,
)
from prune_export.slicing.refit import Closed, Refit
from prune_export.slicing.support import check_sliceable
from prune_export.slicing.widths import check_widths

Refitting = Literal["none", "writing", "full"]


def slice_network(
    dense: Encoder,
    pruned: Encoder,
    batches: Sequence[Batch],
    widths: Sequence[int],
    *,
    bases: Sequence[Basis] | None = None,
    refit: Refitting = "full",
    device: str = "cpu",
    progress: Progress = SILENT,
) -> Encoder:
    """Returns `pruned` with a residual stream of `widths`: after the embeddings' norm, then after each layer's two blocks.

    `pruned` is `dense` or has fewer of its heads and columns, with the same norms. Its readers must have the weights of
    `dense`, because they are given the dense network's states; what it adds to the stream may have been refitted. `batches`
    hold int64 `input_ids` and `attention_mask`, and `token_type_ids` where the network takes them. `bases` are the result of
    `spectra` for `dense`, which other calls may share. With `refit` "full", and two batches or more, everything that
    reads or writes the sliced stream is fitted to the dense network (`refit.py`); with "writing" what writes it alone. What
    is best depends on the widths: the less is removed, the nearer are the formulas ("none") to the dense network.

    Raises:
        UnsupportedError: the network cannot be sliced.
        UsageError: there are other numbers of widths or layers, or a width is out of range.
    """
    check_sliceable(dense)
    check_sliceable(pruned)
    if len(dense.layers) != len(pruned.layers):
        raise UsageError(f"expected networks of as many layers; found {len(dense.layers)} and {len(pruned.layers)}")
    check_widths(dense, widths)
    if bases is None:
        bases = spectra(dense, batches, device=device, progress=progress)
    points = list(zip(pruned.norms, bases, widths, strict=True))  # of the residual stream
    with torch.no_grad():
        fits = refit != "none" and len(batches) > 1
        fitting = Refit(dense, batches, device, reads=refit == "full") if fits else Closed(dense)
        embeddings, read = sliced_embeddings(pruned.embeddings, *points[0])
        read = fitting.start(embeddings, read, points[0])
        layers = []
        for layer, before, middle, output in zip(pruned.layers, points[::2], points[1::2], points[2::2], strict=False):
            attention, attention_skip = fitting.block(read_attention(layer.attention, read.inner), read.past, middle)
            read = fitting.readings(middle)
            feed_forward, feed_forward_skip = fitting.block(
                read_feed_forward(layer.feed_forward, read.inner), read.past, output
            )
            read = fitting.readings(output)
            places = {
                "attention_norm": middle,
                "feed_forward_norm": output,
                "attention_input_norm": before,
                "feed_forward_input_norm": middle,
            }
            sliced = replace(
                layer,
                attention=attention,
                feed_forward=feed_forward,
                attention_skip=attention_skip,
                feed_forward_skip=feed_forward_skip,
                **{name: sliced_norm(*place) for name, place in places.items() if getattr(layer, name) is not None},
            )
            layers.append(sliced)
            progress.advance()
        head = read_head(pruned.head, read.inner)
        final_norm = None if pruned.final_norm is None else sliced_norm(*points[-1])
    return replace(pruned, embeddings=embeddings, layers=tuple(layers), head=head, final_norm=final_norm)
