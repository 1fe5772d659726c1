"""Reads a checkpoint's tensors into an Encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from exporters.axes import Sizes, assemble, axes_of
from exporters.encoder import (
    ACTIVATIONS,
    Attention,
    Embeddings,
    Encoder,
    FeedForward,
    Gated,
    Gating,
    Layer,
    MaskedLanguageHead,
    Norm,
    SpanHead,
    TaskHead,
    Ungated,
)
from exporters.errors import UnsupportedError
from exporters.tasks import Task
from prune_export.families.names import NORMS, Dimensions, Family
from prune_export.families.table import Stored, Table, read, section
from prune_export.files.reading import clipped
from prune_export.tasks import SPECS

P = TypeVar("P")


class TensorSource(Protocol):
    """Named tensors of a checkpoint."""

    def tensor(self, name: str, shape: tuple[int, ...], *, reason: str = "") -> Tensor:
        """Returns the float32 tensor `name`; raises WeightsError where it is missing, not finite, or of another shape."""

    def __contains__(self, name: str) -> bool: ...


def describe(
    family: Family,
    config: Any,
    source: TensorSource,
    task: Task,
    *,
    kept_heads: Mapping[int, tuple[int, ...]] | None = None,
) -> Encoder:
    """Reads the network for `task` from `source`.

    `config` is the transformers configuration. `kept_heads` holds, for layers whose attention weights were already
    resized (hub format's `pruned_heads`), the indices of the original heads that they still have.

    Raises:
        UnsupportedError: the description cannot express the configuration.
        WeightsError: a tensor is missing or has the wrong shape (the message names it).
    """
    dimensions = family.dimensions(config)
    check_supported(config, dimensions)
    return _EncoderReader(family, config, dimensions, source, kept_heads or {}).encoder(task)


def check_supported(config: Any, dimensions: Dimensions) -> None:
    """Checks that the description can express the configuration.

    Raises:
        UnsupportedError: it would be exported wrongly.
    """
    kind = getattr(config, "position_embedding_type", None) or "absolute"
    if kind != "absolute" and dimensions.has_position_rows:  # other classes pass over it
        raise UnsupportedError(
            f"config.json: position_embedding_type is '{clipped(str(kind))}'; expected 'absolute' (scores with "
            "relative positions are not supported)"
        )
    if getattr(config, "is_decoder", False) or getattr(config, "add_cross_attention", False):
        raise UnsupportedError("config.json describes a decoder (is_decoder, add_cross_attention); expected an encoder")
    for activation in (dimensions.activation, dimensions.head_activation or dimensions.activation):
        if not isinstance(activation, str) or activation not in ACTIVATIONS:
            raise UnsupportedError(
                f"config.json: the activation '{clipped(str(activation))}' is not supported; expected one of "
                f"{', '.join(sorted(ACTIVATIONS))}"
            )
    norm = norm_type(config)
    if norm not in ("layer_norm", "no_norm"):
        raise UnsupportedError(
            f"config.json: layer_norm_type is '{clipped(str(norm))}'; expected 'layer_norm' or 'no_norm'"
        )
    if dimensions.hidden % dimensions.heads:
        raise UnsupportedError(
            f"config.json: hidden size {dimensions.hidden} is not a multiple of {dimensions.heads} attention heads"
        )


def epsilon_of(config: Any, dimensions: Dimensions) -> float | None:
    """Returns the epsilon of the norms; None where they are `x * weight + bias` (`norm_type`)."""
    return None if norm_type(config) == "no_norm" else dimensions.epsilon


def head_values(family: Family, dimensions: Dimensions, task: Task) -> dict[str, str]:
    """Returns what is no tensor in the task's head, by the names of its fields."""
    activation = family.activations.get(task) or dimensions.head_activation or dimensions.activation
    return {"activation": activation, "pooling": dimensions.pooling}


def norm_type(config: Any) -> str:
    """Returns "layer_norm", or "no_norm" where nn_pruning replaced every LayerNorm by `x * weight + bias`."""
    return getattr(config, "layer_norm_type", None) or "layer_norm"


class _EncoderReader:
    """Reads the parts of a description from a checkpoint, by the tables of its family."""

    def __init__(
        self,
        family: Family,
        config: Any,
        dimensions: Dimensions,
        source: TensorSource,
        kept_heads: Mapping[int, tuple[int, ...]],
    ) -> None:
        self.family = family
        self.config = config
        self.dimensions = dimensions
        self.source = source
        self.kept_heads = kept_heads
        self.epsilon = epsilon_of(config, dimensions)
        self.norms = {"epsilon": self.epsilon, "centered": family.centered_norms}  # of the residual stream

    def tensors(
        self, kind: type[Any], table: Table, sizes: Sizes, *, prefix: str = "", reason: str = ""
    ) -> dict[str, Tensor]:
        """Returns the tensors of a part by path; `prefix` comes before the names in `table`."""

        def tensor(name: str, shape: tuple[int, ...]) -> Tensor:
            return self.source.tensor(f"{prefix}{name}", shape, reason=reason)

        axes, present = axes_of(kind), self.family.present(table, self.config, prefix)
        return read({path: row for path, row in present.items() if path in axes}, axes, sizes, tensor)

    def encoder(self, task: Task) -> Encoder:
        embeddings = self.embeddings()
        tensors = self.tensors(
            self.family.scores_kind, self.family.scores, self.dimensions.sizes, prefix=self.family.body("")
        )
        layers: dict[str, Layer] = {}
        paths = self.family.layer_paths(self.config)
        for index, path in enumerate(paths):
            if path not in layers:
                layers[path] = self.layer(path, index, tensors)
        final_norm = None
        if self.family.final_norm:
            sizes = {"features": self.dimensions.hidden}
            tensors = self.tensors(Norm, self.family.final_norm, sizes, prefix=self.family.body(""))
            final_norm = assemble(Norm, tensors, **self.norms)
        head = self.head(task, embeddings)
        return Encoder(task, embeddings, tuple(layers[path] for path in paths), head, final_norm)

    def embeddings(self) -> Embeddings:
        sizes, table = self.dimensions, dict(self.family.embeddings)
        if not sizes.types:
            table.pop("token_type", None)
        if not sizes.has_position_rows:
            table.pop("position", None)
        if sizes.embedding == sizes.hidden and not self.family.projects_always:
            table = {path: row for path, row in table.items() if not path.startswith("projection.")}
        part = assemble(
            Embeddings,
            self.tensors(Embeddings, table, sizes.sizes, prefix=self.family.body("")),
            **self.norms,
            **self.family.position_values(self.config),
        )
        if part.token_type is not None and part.position is not None and sizes.types == 1:
            # There is one type only (RoBERTa), and no input for it: its row is added to every position.
            part = replace(part, position=part.position + part.token_type, token_type=None)
        return part

    def layer(self, path: str, index: int, common: Mapping[str, Tensor]) -> Layer:
        """Reads layer `index`; `common` are the tensors that the scores of all layers have in common."""
        dimensions, table = self.dimensions, self.family.layers
        sizes = {**dimensions.sizes, "features": dimensions.hidden}
        heads, reason = tuple(range(dimensions.heads)), ""
        if index in self.kept_heads:
            heads = self.kept_heads[index]
            reason = f"config.json's pruned_heads leave {len(heads)} of {dimensions.heads} heads of layer {index}"
        sizes["head"] = len(heads)

        def part(kind: type[P], name: str, reason: str = "", **values: Any) -> P:
            rows = {field: row for field, row in section(table, name).items() if not field.startswith("scores.")}
            tensors = self.tensors(kind, rows, sizes, prefix=f"{path}.", reason=reason)
            return assemble(kind, tensors, **self.norms, **values)

        def norm(name: str) -> Norm | None:
            rows = self.family.present(section(table, name), self.config, f"{path}.")
            return part(Norm, name) if rows else None

        gating: Gating = Ungated(dimensions.activation)
        if self.family.is_gated:
            gating = part(Gated, "feed_forward.gating", activation=dimensions.activation)
        norms: dict[str, Any] = {name: norm(name) for name in NORMS}
        own = self.tensors(self.family.scores_kind, self.family.own_scores, sizes, prefix=f"{path}.", reason=reason)
        scores = self.family.attention_scores(self.config, index, {**common, **own})
        return Layer(
            feed_forward=part(FeedForward, "feed_forward", gating=gating),
            attention=part(Attention, "attention", reason, heads=heads, scores=scores),
            **norms,
        )

    def head(self, task: Task, embeddings: Embeddings) -> TaskHead:
        """Reads the task's head; a tied decoder is the word embeddings' own tensor."""
        kind, table = SPECS[task].head, dict(self.family.heads[task])
        sizes = {**self.dimensions.sizes, **({"label": 2} if kind is SpanHead else {})}
        is_tied = kind is MaskedLanguageHead and getattr(self.config, "tie_word_embeddings", True)
        if kind is MaskedLanguageHead:
            weight, bias = table["decoder.weight"], table["decoder.bias"]
            own_bias = Stored(f"{weight.module}.bias")
            if is_tied:
                del table["decoder.weight"]
                self.check_tied(weight.name, embeddings.word)
                if own_bias.name in self.source and bias.name in self.source:
                    shape = (self.dimensions.vocabulary,)
                    self.check_tied(own_bias.name, self.source.tensor(bias.name, shape))
            if own_bias.name in self.source and (not is_tied or bias.name not in self.source):
                table["decoder.bias"] = own_bias  # transformers 5 unties the bias as well
        tensors = self.tensors(kind, table, sizes, reason=self.for_task(task))
        if is_tied:
            tensors["decoder.weight"] = embeddings.word
        return assemble(kind, tensors, **head_values(self.family, self.dimensions, task), epsilon=self.epsilon)

    def check_tied(self, name: str, other: Tensor) -> None:
        """Checks that the tensor `name`, where there is one, is the one that it is tied to.

        Raises:
            UnsupportedError: it is not: transformers 4 would read the other one, and version 5 this one.
        """
        if name in self.source and not torch.equal(self.source.tensor(name, tuple(other.shape)), other):
            raise UnsupportedError(
                f"config.json says tie_word_embeddings, and '{name}' is not what it would be tied to: transformers 4 and 5 "
                "read two networks; set tie_word_embeddings to false, or leave that tensor out"
            )

    def for_task(self, task: Task) -> str:
        """Says why a task head's tensor is expected, and which class the checkpoint was saved from."""
        listed = getattr(self.config, "architectures", None)
        saved = clipped(", ".join(map(str, listed))) if listed and isinstance(listed, list) else "no architecture"
        return f"the task '{task}' needs it; config.json says {saved}"
