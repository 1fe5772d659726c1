"""The basis of each norm's states: the directions that vary most, or to which the outputs are most sensitive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from exporters.axes import to_device
from exporters.encoder import Encoder, Norm
from exporters.errors import UsageError
from prune_export.progress import SILENT, Progress
from prune_export.pruning.reconstruction.forward import attention_update, feed_forward_update
from prune_export.slicing.support import check_sliceable
from prune_export.slim_model.blocks import SlimEmbeddings
from prune_export.slim_model.heads import make_head
from prune_export.tasks import SPECS

Batch = Mapping[str, Tensor]

SENSITIVITY = 0.8  # from 0.5 to 0.95 all are about as good, and much better than 0 (docs/slicing.md)


@dataclass(frozen=True, slots=True, eq=False)
class Basis:
    """An orthonormal basis of one norm's states; all tensors are float64.

    The first k of the columns of `vectors` `[width, width]` are the basis of width k. The last column is (1, …, 1) /
    sqrt(width) where the norm subtracts the mean. `moments` `[width, width]` is E[n n'] of the norm's states n before its
    weight and bias. `eigenvalues` `[width]` are those by which the columns are ordered, largest first.
    """

    vectors: Tensor
    moments: Tensor
    eigenvalues: Tensor

    @property
    def width(self) -> int:
        return self.vectors.shape[0]

    @property
    def shares(self) -> Tensor:
        """Returns the share of the eigenvalues' sum up to each column, `[width]`."""
        return self.eigenvalues.cumsum(0) / self.eigenvalues.sum().clamp(min=1e-300)

    def variance(self, width: int) -> float:
        """Returns the share of the states' squares that the basis of width `width` holds."""
        chosen = self.vectors[:, :width]
        return float(((self.moments @ chosen) * chosen).sum() / self.moments.trace().clamp(min=1e-300))

    def restoring(self, width: int) -> Tensor:
        """Returns R `[width of the norm, width]` with the least E|R V'n - n|²: V itself where V are eigenvectors."""
        chosen = self.vectors[:, :width]
        reached = self.moments @ chosen
        outside = reached - chosen @ (chosen.T @ reached)
        restoring: Tensor = chosen + outside @ torch.linalg.pinv(chosen.T @ reached, hermitian=True)
        return restoring


def spectra(
    dense: Encoder,
    batches: Sequence[Batch],
    *,
    sensitivity: float = SENSITIVITY,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = SILENT,
) -> tuple[Basis, ...]:
    """Returns a basis per norm of the residual stream: that of the embeddings, then two per layer.

    With a `sensitivity` above 0, up to 1, directions count by the gradient of the loss: the basis is that in which the best
    reconstruction has the least E[(n̂ - n)' H (n̂ - n)], with H = (1 - sensitivity) (mean of G's diagonal) I + sensitivity G
    and the second moment G = E[g g'] of the gradients by each token's state (after Thrash et al. 2026, "Output-aware
    residual stream pruning"). Eigenvalues of different norms can then be compared: half of their sum approximates what the
    loss of a token rises by if the directions are removed. `batches` then hold the labels of a task that has them.

    Raises:
        UnsupportedError: the network cannot be sliced.
        UsageError: the batches lack the labels that the loss needs.
    """
    check_sliceable(dense)
    needed = SPECS[dense.task].label_names if sensitivity > 0 and SPECS[dense.task].has_readers else ()
    if missing := [name for name in needed if any(name not in batch for batch in batches)]:
        raise UsageError(
            f"expected {', '.join(missing)} in all batches: bases that are sensitive to the outputs need labels"
        )
    network = _Dense(dense, device)
    generator = torch.Generator().manual_seed(seed)
    sizes = [norm.weight.shape[0] for norm in dense.norms]
    moments = [torch.zeros(size, size, dtype=torch.float64, device=device) for size in sizes]
    gradients = [torch.zeros_like(moment) for moment in moments]
    for batch in batches:
        on_device = {name: value.to(device) for name, value in batch.items()}
        attended = on_device["attention_mask"].bool()
        with torch.set_grad_enabled(sensitivity > 0):
            places, x = network.states(on_device, attended)
            if sensitivity > 0:
                loss = network.loss(x, on_device, generator)
                found = torch.autograd.grad(loss, [place.stream for place in places])
                for total, place, gradient in zip(gradients, places, found, strict=True):
                    total += _outer((gradient * place.scale)[attended])
        for total, place in zip(moments, places, strict=True):
            total += _outer(place.state.detach()[attended])
        progress.advance()
    tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
    return tuple(
        _basis(norm, (moment / tokens).cpu(), _weights((gradient / tokens).cpu(), sensitivity))
        for norm, moment, gradient in zip(dense.norms, moments, gradients, strict=True)
    )


class _Place(NamedTuple):
    """A place of the residual stream: the state n of its norm, and what the stream holds, whose rms is `scale`.

    In a post-norm network the stream holds n itself, and the scale is 1. In a pre-norm one it holds the sum that n is of,
    and a gradient by the sum, times its rms, is one by n.
    """

    state: Tensor
    stream: Tensor
    scale: Tensor


class _Dense:
    """The forward pass of a network, norm by norm."""

    def __init__(self, encoder: Encoder, device: str) -> None:
        self.encoder = encoder
        self.layers = [to_device(layer, device) for layer in encoder.layers]
        self.first_norm, *self.norms = (to_device(norm, device) for norm in encoder.norms)
        self.embeddings = SlimEmbeddings(encoder.embeddings, dropout=0.0).to(device).requires_grad_(False)
        self.head = make_head(encoder.head, encoder.embeddings, 0.0).to(device).requires_grad_(False).eval()

    def states(self, batch: Batch, attended: Tensor) -> tuple[list[_Place], Tensor]:
        """Returns the places of the stream, with tensors `[batch, sequence, width]`, and the last hidden states."""
        embeddings, with_gradients = self.embeddings, torch.is_grad_enabled()
        rows = embeddings.rows(batch["input_ids"], batch.get("token_type_ids"))
        if embeddings.norm is None:
            stream = rows.requires_grad_(with_gradients)
            state = unscaled(self.first_norm, stream)
            places = [_Place(state, stream, root_mean_square(self.first_norm, rows.detach()))]
            x = scaled(self.first_norm, state)
        else:
            state = unscaled(self.first_norm, rows).requires_grad_(with_gradients)
            places = [_Place(state, state, torch.ones_like(state[..., :1]))]
            x = scaled(self.first_norm, state)
            stream = x = x if embeddings.projection is None else embeddings.projection(x)
        for index, norm in enumerate(self.norms):
            layer = self.layers[index // 2]
            attends = index % 2 == 0
            update = (
                attention_update(layer.attention, x, attended)
                if attends
                else feed_forward_update(layer.feed_forward, x)
            )
            total = stream + update
            state = unscaled(norm, total)
            x = scaled(norm, state)
            if self.encoder.is_post_norm:
                stream = x
                places.append(_Place(state, state, torch.ones_like(state[..., :1])))
            else:
                stream = total
                places.append(_Place(state, total, root_mean_square(norm, total.detach())))
        return places, x

    def loss(self, x: Tensor, batch: Batch, generator: torch.Generator) -> Tensor:
        spec = SPECS[self.encoder.task]
        outputs = spec.outputs_of(self.head(x, self.embeddings.word, batch["attention_mask"]))
        return spec.sample_losses(outputs, batch, generator).sum()


def unscaled(norm: Norm, x: Tensor) -> Tensor:
    """Returns the norm of `x` before its weight and bias."""
    return (x - x.mean(dim=-1, keepdim=True) if norm.centered else x) / root_mean_square(norm, x)


def root_mean_square(norm: Norm, x: Tensor) -> Tensor:
    """Returns what the norm divides by, `[..., 1]`."""
    assert norm.epsilon is not None
    centered = x - x.mean(dim=-1, keepdim=True) if norm.centered else x
    return (centered.square().mean(dim=-1, keepdim=True) + norm.epsilon).sqrt()


def scaled(norm: Norm, state: Tensor) -> Tensor:
    """Returns the norm's output of its state before weight and bias."""
    product = state * norm.weight
    return product if norm.bias is None else product + norm.bias


def _outer(rows: Tensor) -> Tensor:
    return (rows.T @ rows).double()


def _weights(gradients: Tensor, sensitivity: float) -> Tensor | None:
    """Returns H `[width, width]`; None for the identity."""
    if sensitivity == 0:
        return None
    identity = torch.eye(len(gradients), dtype=torch.float64)
    return (1 - sensitivity) * gradients.diagonal().mean() * identity + sensitivity * gradients


def _basis(norm: Norm, moments: Tensor, weights: Tensor | None) -> Basis:
    """Returns the basis: eigenvectors of the moments, or the span of H^½ U of the eigenvectors U of H^½ C H^½.

    The reconstruction of rank k with the least error weighted by H reads U'H^½ n (reduced-rank regression), so that its
    input is the span of the first k columns of H^½ U.
    """
    width = len(moments)
    if norm.centered:  # states have no mean, whatever the batches: (1, …, 1) is the last column
        ones = torch.full((width, 1), width**-0.5, dtype=torch.float64)
        within = torch.linalg.qr(torch.cat([ones, torch.eye(width, width - 1, dtype=torch.float64)], dim=1)).Q[:, 1:]
    else:
        ones, within = torch.zeros(width, 0, dtype=torch.float64), torch.eye(width, dtype=torch.float64)
    inner = within.T @ moments @ within
    if weights is None:
        values, vectors = torch.linalg.eigh(inner)
        vectors = vectors.flip(1)
    else:
        of_weights, directions = torch.linalg.eigh(within.T @ weights @ within)
        root = (directions * of_weights.clamp(min=0).sqrt()) @ directions.T
        values, vectors = torch.linalg.eigh(root @ inner @ root)
        vectors = torch.linalg.qr(root @ vectors.flip(1)).Q
    values = torch.cat([values.flip(0).clamp(min=0), torch.zeros(ones.shape[1], dtype=torch.float64)])
    return Basis(torch.cat([within @ vectors, ones], dim=1), within @ inner @ within.T, values)
