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
    reading_of,
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
    """Returns `pruned` with a residual stream of `widths`: after the embeddings' norm, then after each layer's two norms.

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
        fitting = Refit(dense, batches, device, reads=refit == "full") if fits else Closed()
        embeddings, reading = sliced_embeddings(pruned.embeddings, *points[0][1:])
        reading = fitting.start(embeddings, reading)
        layers = []
        for layer, middle, output in zip(pruned.layers, points[1::2], points[2::2], strict=True):
            attention, attention_skip = fitting.block(read_attention(layer.attention, reading), reading, middle)
            reading = fitting.reading(reading_of(*middle))
            feed_forward, feed_forward_skip = fitting.block(
                read_feed_forward(layer.feed_forward, reading), reading, output
            )
            reading = fitting.reading(reading_of(*output))
            sliced = replace(
                layer,
                attention=attention,
                attention_norm=sliced_norm(*middle),
                feed_forward=feed_forward,
                feed_forward_norm=sliced_norm(*output),
                attention_skip=attention_skip,
                feed_forward_skip=feed_forward_skip,
            )
            layers.append(sliced)
            progress.advance()
        head = read_head(pruned.head, reading)
    return replace(pruned, embeddings=embeddings, layers=tuple(layers), head=head)
