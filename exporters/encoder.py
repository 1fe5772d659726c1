"""The plain description of a transformer encoder in which everything meets.

Post-norm encoders (BERT and its relatives): every block adds to the residual stream, and a norm follows. The
description holds tensors and numbers only: no Hugging Face class, no ONNX name. A family translates a checkpoint into it,
the surgeon maps one description to a smaller one, the writer turns it into ONNX.

All tensors are float32 on the CPU; they may be views into a memory-mapped file and are never written to. Layers that the
original shares (ALBERT) are the *same object* in `Encoder.layers`; whoever maps layers keeps that (see `map_layers`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from exporters.tasks import Task

# The activations that the writer, the slim PyTorch model and the surgeon know, under Hugging Face's names.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": torch.nn.functional.gelu,
    "gelu_new": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "relu": torch.nn.functional.relu,
    "silu": torch.nn.functional.silu,
    "swish": torch.nn.functional.silu,
    "tanh": torch.tanh,
}


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """`x @ weight.T + bias`."""

    weight: Tensor  # [out_features, in_features]
    bias: Tensor  # [out_features]


@dataclass(frozen=True, slots=True, eq=False)
class Norm:
    """LayerNorm over the last dimension, or `x * weight + bias` where `epsilon` is None (nn_pruning's "no_norm")."""

    weight: Tensor  # [features]
    bias: Tensor  # [features]
    epsilon: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """Sum of word, position and token-type rows, a norm, and a projection where rows are narrower than the encoder.

    `positions` is "absolute" (row = place in the sequence) or "from_padding" (RoBERTa: row = `pad_token_id` + count of
    non-padding tokens so far; padding tokens take row `pad_token_id`). `token_type` is None where the model takes no
    token types.
    """

    word: Tensor  # [vocabulary, embedding]
    position: Tensor  # [positions, embedding]
    token_type: Tensor | None  # [types, embedding]
    norm: Norm
    projection: Linear | None  # embedding -> hidden
    positions: Literal["absolute", "from_padding"]
    pad_token_id: int

    @property
    def max_length(self) -> int:
        """The longest sequence, in tokens, for which there are position rows."""
        rows = self.position.shape[0]
        return rows - self.pad_token_id - 1 if self.positions == "from_padding" else rows


@dataclass(frozen=True, slots=True, eq=False)
class Attention:
    """Self-attention whose heads are the first dimension of each tensor.

    `softmax(scale * (query @ key.T)) @ value` per head, then the sum over heads of `output_weight` applied, plus
    `output_bias`. `query_key_size` and `value_size` may differ. `heads` holds each head's index in the original model.
    """

    heads: tuple[int, ...]
    query_weight: Tensor  # [heads, query_key_size, hidden]
    query_bias: Tensor  # [heads, query_key_size]
    key_weight: Tensor  # [heads, query_key_size, hidden]
    key_bias: Tensor | None  # [heads, query_key_size]; None: no bias
    value_weight: Tensor  # [heads, value_size, hidden]
    value_bias: Tensor | None  # [heads, value_size]; None: no bias
    output_weight: Tensor  # [hidden, heads, value_size]
    output_bias: Tensor  # [hidden]
    scale: float

    @property
    def query_key_size(self) -> int:
        return self.query_weight.shape[1]

    @property
    def value_size(self) -> int:
        return self.value_weight.shape[1]


@dataclass(frozen=True, slots=True, eq=False)
class FeedForward:
    """`down(activation(up(x)))`; a column is a row of `up.weight` together with a column of `down.weight`."""

    up: Linear  # hidden -> columns
    activation: str
    down: Linear  # columns -> hidden

    @property
    def columns(self) -> int:
        return self.up.weight.shape[0]


@dataclass(frozen=True, slots=True, eq=False)
class ConstantBlock:
    """What is left of a block that lost everything: it adds the same vector to every position."""

    bias: Tensor  # [hidden]


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """`x = attention_norm(x + attention(x))`, then `x = feed_forward_norm(x + feed_forward(x))`."""

    attention: Attention | ConstantBlock
    attention_norm: Norm
    feed_forward: FeedForward | ConstantBlock
    feed_forward_norm: Norm


class Head:
    """What each task head says of itself.

    `outputs` are the names of the network's outputs, all float32, as in transformers. `reads_first_token_only`: the other
    positions need not be there after the last attention. `quantizable` are the linear maps that int8 multiplies in
    integers: most heads are small and decide, and have none.
    """

    __slots__ = ()

    outputs: ClassVar[tuple[str, ...]] = ("logits",)
    reads_first_token_only: ClassVar[bool] = False
    quantizable: ClassVar[tuple[str, ...]] = ()


@dataclass(frozen=True, slots=True, eq=False)
class SpanHead(Head):
    """Question answering: `output` has two rows, start and end."""

    outputs: ClassVar[tuple[str, ...]] = ("start_logits", "end_logits")

    output: Linear


@dataclass(frozen=True, slots=True, eq=False)
class TokenHead(Head):
    """Token classification."""

    output: Linear


@dataclass(frozen=True, slots=True, eq=False)
class SequenceHead(Head):
    """Text classification of the first token: `output(activation(dense(x[:, 0])))`."""

    reads_first_token_only: ClassVar[bool] = True

    dense: Linear
    activation: str
    output: Linear


@dataclass(frozen=True, slots=True, eq=False)
class MaskedLanguageHead(Head):
    """Fill-mask: `decoder(norm(activation(dense(x))))`; a tied decoder holds the word embeddings' own tensor."""

    quantizable: ClassVar[tuple[str, ...]] = ("dense", "decoder")

    dense: Linear
    activation: str
    norm: Norm
    decoder: Linear


@dataclass(frozen=True, slots=True, eq=False)
class FeatureHead(Head):
    """Feature extraction: the last hidden state as it is."""

    outputs: ClassVar[tuple[str, ...]] = ("last_hidden_state",)


TaskHead = SpanHead | TokenHead | SequenceHead | MaskedLanguageHead | FeatureHead


@dataclass(frozen=True, slots=True, eq=False)
class Encoder:
    """A whole network for one task."""

    task: Task
    embeddings: Embeddings
    layers: tuple[Layer, ...]
    head: TaskHead

    @property
    def hidden_size(self) -> int:
        return self.layers[0].attention_norm.weight.shape[0]

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs, each int64 `[batch_size, sequence_length]`, in transformers' order."""
        types = ("token_type_ids",) if self.embeddings.token_type is not None else ()
        return ("input_ids", "attention_mask", *types)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs, all float32, as in transformers."""
        return self.head.outputs


def map_layers(encoder: Encoder, function: Callable[[int, Layer], Layer]) -> Encoder:
    """Applies `function(index, layer)` to every distinct layer; layers that were shared stay shared.

    `index` is the first place where the layer stands.
    """
    done: dict[int, Layer] = {}
    for index, layer in enumerate(encoder.layers):
        if id(layer) not in done:
            done[id(layer)] = function(index, layer)
    return replace(encoder, layers=tuple(done[id(layer)] for layer in encoder.layers))


def tensors(part: Any) -> Iterator[Tensor]:
    """Every distinct tensor of a description, once, in the order of its fields."""
    seen: set[int] = set()

    def walk(node: Any) -> Iterator[Tensor]:
        if isinstance(node, Tensor):
            if id(node) not in seen:
                seen.add(id(node))
                yield node
        elif isinstance(node, tuple):
            for item in node:
                yield from walk(item)
        elif is_dataclass(node):
            for field in fields(node):
                yield from walk(getattr(node, field.name))

    return walk(part)
