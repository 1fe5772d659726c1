"""A checkpoint's tensors as an Encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from exporters.encoder import (
    ACTIVATIONS,
    Attention,
    Embeddings,
    Encoder,
    FeatureHead,
    FeedForward,
    Layer,
    Linear,
    MaskedLanguageHead,
    Norm,
    SequenceHead,
    SpanHead,
    TaskHead,
    TokenHead,
)
from exporters.errors import UnsupportedError
from exporters.tasks import Task
from prune_export.families.names import Dimensions, Family
from prune_export.files.reading import clipped


class TensorSource(Protocol):
    """Named tensors of a checkpoint."""

    def tensor(self, name: str, shape: tuple[int, ...], *, reason: str = "") -> Tensor:
        """The float32 tensor `name`; raises WeightsError where it is missing, not finite, or of another shape."""

    def __contains__(self, name: str) -> bool: ...


def describe(
    family: Family,
    config: Any,
    source: TensorSource,
    task: Task,
    *,
    kept_heads: Mapping[int, tuple[int, ...]] | None = None,
) -> Encoder:
    """Reads the network for `task` out of `source`.

    `config` is the transformers configuration. `kept_heads` says, for layers whose attention weights were already
    resized (hub format's `pruned_heads`), which of the original heads they still hold.

    Raises:
        UnsupportedError: the configuration asks for something that the description cannot say.
        WeightsError: a tensor is missing or has the wrong shape (the message names it).
    """
    dimensions = family.dimensions(config)
    check_supported(config, dimensions)
    return _Reader(family, config, dimensions, source, kept_heads or {}).encoder(task)


def check_supported(config: Any, dimensions: Dimensions) -> None:
    """Refuses what would be exported wrongly."""
    kind = getattr(config, "position_embedding_type", None) or "absolute"
    if kind != "absolute":
        raise UnsupportedError(
            f"config.json: position_embedding_type is '{clipped(str(kind))}'; expected 'absolute' (scores with "
            "relative positions are not supported)"
        )
    if getattr(config, "is_decoder", False) or getattr(config, "add_cross_attention", False):
        raise UnsupportedError("config.json describes a decoder (is_decoder, add_cross_attention); expected an encoder")
    if not isinstance(dimensions.activation, str) or dimensions.activation not in ACTIVATIONS:
        raise UnsupportedError(
            f"config.json: the activation '{clipped(str(dimensions.activation))}' is not supported; expected one of "
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


def norm_type(config: Any) -> str:
    """ "layer_norm", or "no_norm" where nn_pruning replaced every LayerNorm by `x * weight + bias`."""
    return getattr(config, "layer_norm_type", None) or "layer_norm"


class _Reader:
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
        self.epsilon = None if norm_type(config) == "no_norm" else dimensions.epsilon

    def body(self, path: str) -> str:
        """The absolute path of a module of the base model."""
        return f"{self.family.prefix}.{path}"

    def for_task(self, task: Task) -> str:
        """Why a task head's tensor is expected, and what the checkpoint says to be."""
        listed = getattr(self.config, "architectures", None)
        saved = clipped(", ".join(map(str, listed))) if listed and isinstance(listed, list) else "no architecture"
        return f"the task '{task}' needs it; config.json says {saved}"

    def linear(self, path: str, out_features: int, in_features: int, *, reason: str = "") -> Linear:
        return Linear(
            weight=self.source.tensor(f"{path}.weight", (out_features, in_features), reason=reason),
            bias=self.source.tensor(f"{path}.bias", (out_features,), reason=reason),
        )

    def norm(self, path: str, features: int) -> Norm:
        weight, bias = (self.source.tensor(f"{path}.{name}", (features,)) for name in ("weight", "bias"))
        return Norm(weight, bias, self.epsilon)

    def encoder(self, task: Task) -> Encoder:
        embeddings = self.embeddings()
        layers: dict[str, Layer] = {}
        paths = [self.body(self.family.layer(self.config, index)) for index in range(self.dimensions.layers)]
        for index, path in enumerate(paths):
            if path not in layers:
                layers[path] = self.layer(path, index)
        return Encoder(task, embeddings, tuple(layers[path] for path in paths), self.head(task, embeddings))

    def embeddings(self) -> Embeddings:
        names, sizes = self.family.embeddings, self.dimensions
        position = self.source.tensor(f"{self.body(names.position)}.weight", (sizes.positions, sizes.embedding))
        token_type = None
        if names.token_type is not None and sizes.types:
            token_type = self.source.tensor(f"{self.body(names.token_type)}.weight", (sizes.types, sizes.embedding))
            if sizes.types == 1:  # no input chooses it (RoBERTa): it is a part of every position
                position, token_type = position + token_type, None
        projection = None
        if names.projection is not None and (names.projection_always or sizes.embedding != sizes.hidden):
            projection = self.linear(self.body(names.projection), sizes.hidden, sizes.embedding)
        return Embeddings(
            word=self.source.tensor(f"{self.body(names.word)}.weight", (sizes.vocabulary, sizes.embedding)),
            position=position,
            token_type=token_type,
            norm=self.norm(self.body(names.norm), sizes.embedding),
            projection=projection,
            positions="from_padding" if self.family.positions_from_padding else "absolute",
            pad_token_id=sizes.pad_token_id,
        )

    def layer(self, path: str, index: int) -> Layer:
        names, sizes = self.family.layers, self.dimensions
        up = self.linear(f"{path}.{names.up}", sizes.intermediate, sizes.hidden)
        down = self.linear(f"{path}.{names.down}", sizes.hidden, sizes.intermediate)
        return Layer(
            attention=self.attention(path, index),
            attention_norm=self.norm(f"{path}.{names.attention_norm}", sizes.hidden),
            feed_forward=FeedForward(up, sizes.activation, down),
            feed_forward_norm=self.norm(f"{path}.{names.feed_forward_norm}", sizes.hidden),
        )

    def attention(self, path: str, index: int) -> Attention:
        names, hidden, size = self.family.layers, self.dimensions.hidden, self.dimensions.head_size
        heads = self.kept_heads.get(index, tuple(range(self.dimensions.heads)))
        count = len(heads)
        reason = f"config.json's pruned_heads leave {count} of {self.dimensions.heads} heads of layer {index}"
        reason = reason if index in self.kept_heads else ""
        query, key, value = (
            self.linear(f"{path}.{name}", count * size, hidden, reason=reason)
            for name in (names.query, names.key, names.value)
        )
        output = self.linear(f"{path}.{names.attention_output}", hidden, count * size, reason=reason)
        return Attention(
            heads=heads,
            query_weight=query.weight.view(count, size, hidden),
            query_bias=query.bias.view(count, size),
            key_weight=key.weight.view(count, size, hidden),
            key_bias=key.bias.view(count, size),
            value_weight=value.weight.view(count, size, hidden),
            value_bias=value.bias.view(count, size),
            output_weight=output.weight.view(hidden, count, size),
            output_bias=output.bias,
            scale=size**-0.5,
        )

    def head(self, task: Task, embeddings: Embeddings) -> TaskHead:
        family, sizes = self.family, self.dimensions
        match task:
            case "feature-extraction":
                return FeatureHead()
            case "question-answering":
                return SpanHead(self.linear(family.span_output, 2, sizes.hidden, reason=self.for_task(task)))
            case "token-classification":
                return TokenHead(
                    self.linear(family.token_output, sizes.labels, sizes.hidden, reason=self.for_task(task))
                )
            case "text-classification":
                names = family.sequence_head
                dense = self.body(names.dense) if names.dense_in_body else names.dense
                return SequenceHead(
                    dense=self.linear(dense, sizes.hidden, sizes.hidden, reason=self.for_task(task)),
                    activation=names.activation,
                    output=self.linear(names.output, sizes.labels, sizes.hidden, reason=self.for_task(task)),
                )
            case "fill-mask":
                return self.masked_language_head(embeddings)

    def masked_language_head(self, embeddings: Embeddings) -> MaskedLanguageHead:
        names, sizes, reason = self.family.masked_language_head, self.dimensions, self.for_task("fill-mask")
        width = sizes.embedding
        decoder, bias = embeddings.word, names.bias
        if not getattr(self.config, "tie_word_embeddings", True):
            decoder = self.source.tensor(f"{names.decoder}.weight", (sizes.vocabulary, width), reason=reason)
            if f"{names.decoder}.bias" in self.source:  # transformers 5 then unties the bias, too
                bias = f"{names.decoder}.bias"
        return MaskedLanguageHead(
            dense=self.linear(names.dense, width, sizes.hidden, reason=reason),
            activation=names.activation or sizes.activation,
            norm=self.norm(names.norm, width),
            decoder=Linear(decoder, self.source.tensor(bias, (sizes.vocabulary,), reason=reason)),
        )
