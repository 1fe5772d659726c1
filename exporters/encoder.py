"""The description of a transformer encoder, on which all parts of the program work.

Every block adds to the residual stream. Norms follow the sums (post-norm: BERT and its relatives) or are applied to what a
block reads (pre-norm: ModernBERT). The description holds tensors and numbers only, no Hugging Face class and no ONNX name. A
family reads a checkpoint into it, the surgeon makes a smaller description of it, and the writer turns it into ONNX.

All tensors are float32 on the CPU; they may be views into a memory-mapped file and are never written to. Layers that the
original shares (ALBERT) are the *same object* in `Encoder.layers`; code that maps layers keeps that (see `map_layers`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from exporters.axes import Axes, Renamed, named_tensors
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


Positions = Literal["absolute", "from_padding", "none"]
Pooling = Literal["first", "mean", "late"]


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """`x @ weight.T + bias`."""

    weight: Annotated[Tensor, Axes("outputs", "inputs")]
    bias: Annotated[Tensor | None, Axes("outputs")]  # None: no bias

    @property
    def constant(self) -> Tensor:
        """Returns the bias, zeros where there is none: `[outputs]`."""
        return self.weight.new_zeros(self.weight.shape[0]) if self.bias is None else self.bias


@dataclass(frozen=True, slots=True, eq=False)
class Norm:
    """LayerNorm over the last dimension, or `x * weight + bias` where `epsilon` is None (nn_pruning's "no_norm").

    Where it is not `centered`, the mean is not subtracted: `x / sqrt(mean(x²) + epsilon) * weight + bias`, which is RMSNorm
    (Zhang and Sennrich 2019).
    """

    weight: Annotated[Tensor, Axes("features")]
    bias: Annotated[Tensor | None, Axes("features")]  # None: no bias
    epsilon: float | None
    centered: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """The sum of word, position and token-type rows, a norm, and a projection where rows are narrower than the encoder.

    Without a norm the sum itself is what comes out. `positions` is "absolute" (the row is the token's index in the
    sequence), "from_padding" (RoBERTa: the row is `pad_token_id` + the number of non-padding tokens so far; padding tokens
    take row `pad_token_id`) or "none" (`position` is None, and `longest` is the greatest length that the model is meant
    for, in tokens). `token_type` is None where there are no token types; a single row is that of every token, and no input
    says so. Where they are `masked`, the hidden states of padding are zero.
    """

    word: Annotated[Tensor, Axes("vocabulary", "embedding")]
    position: Annotated[Tensor | None, Axes("position", "embedding")]
    token_type: Annotated[Tensor | None, Axes("token_type", "embedding")]
    norm: Annotated[Norm | None, Renamed(features="embedding")]
    projection: Annotated[Linear | None, Renamed(inputs="embedding", outputs="hidden")]
    positions: Positions
    pad_token_id: int
    longest: int | None = None
    masked: bool = False

    @property
    def max_length(self) -> int:
        """Returns the length, in tokens, of the longest sequence that the model takes."""
        if self.position is None:
            assert self.longest is not None
            return self.longest
        rows = self.position.shape[0]
        return rows - self.pad_token_id - 1 if self.positions == "from_padding" else rows

    @property
    def token_types(self) -> int | None:
        """Returns how many token types the model tells apart; None where it takes none."""
        return None if self.token_type is None or len(self.token_type) == 1 else len(self.token_type)


@dataclass(frozen=True, slots=True)
class AttentionScores:
    """How attention scores are computed; one class per kind. A rule of the surgeon names the kinds for which it is exact."""

    scale: float

    @property
    def key_bias_matters(self) -> bool:
        """Says whether a key bias adds more to scores than one number per query, which softmax ignores."""
        return True


@dataclass(frozen=True, slots=True)
class ContentScores(AttentionScores):
    """`scale * (query @ key.T)`, plus at most terms in which neither query nor key appears."""

    @property
    def key_bias_matters(self) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class DotProduct(ContentScores):
    """`scale * (query @ key.T)`, without a term for positions."""


@dataclass(frozen=True, slots=True, eq=False)
class RelativeBias(ContentScores):
    """`scale * (query @ key.T)` plus a number for each head and each distance of query and key (MPNet, T5).

    The number is `table[row, head]`, where `row` is `row_of_distance[query - key + reach]`: int64, `[2 * reach + 1]`.
    Distances beyond `reach` have the rows of its ends. All layers hold the same `table`. It has a column for each head of
    the original model, is read at the block's `heads`, and is never cut.
    """

    table: Annotated[Tensor, Axes("distance_row", "original_head")]
    row_of_distance: Tensor

    @property
    def reach(self) -> int:
        return len(self.row_of_distance) // 2

    def bias(self, heads: tuple[int, ...], length: int) -> Tensor:
        """Returns what is added to the scores of `heads`: `[heads, query, key]`, each `length` long."""
        places = torch.arange(length)
        distances = (places[:, None] - places).clamp(-self.reach, self.reach) + self.reach
        rows = self.row_of_distance[distances].to(self.table.device)
        return self.table[:, list(heads)].t()[:, rows]


@dataclass(frozen=True, slots=True, eq=False)
class Rotary(AttentionScores):
    """`scale * (rotated(query) @ rotated(key).T)`, of keys at most `window` positions away where there is a window.

    Su et al. 2021, "RoFormer", section 3.2.2, with halves in place of neighbours: a head of size 2 P has P pairs, pair p
    being its dimensions p and p + P, and at position m pair p is rotated by the angle `m * frequencies[p]` (float32, the
    original model's `[original pairs]`). `pairs` holds each head's pairs by their index in the original model; None: all, in
    order.
    """

    frequencies: Tensor
    window: int | None = None
    pairs: Annotated[tuple[tuple[int, ...], ...] | None, Axes("head")] = None

    def angles(self, heads: int, length: int) -> Tensor:
        """Returns the angles `[heads, length, pairs]`, float32; `[1, length, pairs]` where all heads have all pairs."""
        positions = torch.arange(length, dtype=torch.float32, device=self.frequencies.device)
        chosen = (
            self.frequencies[None] if self.pairs is None else self.frequencies[torch.tensor(self.pairs).view(heads, -1)]
        )
        return positions[None, :, None] * chosen[:, None, :]

    def rotate(self, x: Tensor) -> Tensor:
        """Returns queries or keys `[batch, heads, sequence, query_key]` rotated."""
        angles = self.angles(x.shape[1], x.shape[2]).to(x.device)
        cosine, sine = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)

    def visible(self, attended: Tensor) -> Tensor:
        """Returns which keys a query sees of those that are `attended`, bool `[batch, 1, 1, key]`.

        With a window that is bool `[batch, 1, query, key]`. A query then sees itself as well, so that no row is empty.
        """
        if self.window is None:
            return attended
        places = torch.arange(attended.shape[-1], device=attended.device)
        away = (places[:, None] - places).abs()
        return (away <= self.window) & (attended | (away == 0))


@dataclass(frozen=True, slots=True, eq=False)
class Attention:
    """Self-attention: `softmax(scores) @ value` per head, then the output projection, summed over heads.

    The axes "query_key" and "value" may differ in size, and so may "hidden", which is read, and "written". `heads` holds
    each head's index in the original model.
    """

    heads: Annotated[tuple[int, ...], Axes("head")]
    query_weight: Annotated[Tensor, Axes("head", "query_key", "hidden", rows=2)]
    query_bias: Annotated[Tensor | None, Axes("head", "query_key", rows=2)]  # None: no bias
    key_weight: Annotated[Tensor, Axes("head", "query_key", "hidden", rows=2)]
    key_bias: Annotated[Tensor | None, Axes("head", "query_key", rows=2)]  # None: no bias
    value_weight: Annotated[Tensor, Axes("head", "value", "hidden", rows=2)]
    value_bias: Annotated[Tensor | None, Axes("head", "value", rows=2)]  # None: no bias
    output_weight: Annotated[Tensor, Axes("written", "head", "value")]
    output_bias: Annotated[Tensor | None, Axes("written")]  # None: no bias
    scores: AttentionScores

    @property
    def output(self) -> Linear:
        """Returns the output projection, `[written, heads * value_size]`."""
        return Linear(self.output_weight.flatten(1), self.output_bias)

    @property
    def query_key_size(self) -> int:
        return self.query_weight.shape[1]

    @property
    def value_size(self) -> int:
        return self.value_weight.shape[1]


@dataclass(frozen=True, slots=True)
class Gating:
    """The function between the two linear maps of a feed-forward block; one class per kind."""

    activation: str  # a name in ACTIVATIONS


@dataclass(frozen=True, slots=True)
class Ungated(Gating):
    """The activation alone, applied to the output of `up`."""


@dataclass(frozen=True, slots=True, eq=False)
class Gated(Gating):
    """The activation of a second map, by which the output of `up` is multiplied: `activation(gate(x)) * up(x)`.

    Shazeer 2020, "GLU Variants Improve Transformer", equation 6 and those before it.
    """

    gate: Annotated[Linear, Renamed(inputs="hidden", outputs="intermediate")]


@dataclass(frozen=True, slots=True, eq=False)
class FeedForward:
    """`down(activation(up(x)))`, or `down(activation(gate(x)) * up(x))` with a gate.

    A column, or intermediate neuron, is a row of `up.weight` (and of the gate's) together with a column of `down.weight`.
    """

    up: Annotated[Linear, Renamed(inputs="hidden", outputs="intermediate")]
    gating: Gating
    down: Annotated[Linear, Renamed(inputs="intermediate", outputs="written")]

    @property
    def columns(self) -> int:
        return self.up.weight.shape[0]


@dataclass(frozen=True, slots=True, eq=False)
class ConstantBlock:
    """A block without heads or columns: it adds the same vector to every position."""

    bias: Annotated[Tensor, Axes("written")]


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """Attention, then feed-forward, each added to the residual stream: `x = norm(skip @ x + block(input_norm(x)))`.

    A norm that is None is left out: post-norm layers have no input norms, pre-norm layers have no others. The residual
    stream is "hidden" wide before the layer, "middle" after its attention and "output" after the layer. Without a skip
    matrix the residual sum is `x + block(input_norm(x))`, of one width.
    """

    attention: Annotated[Attention | ConstantBlock, Renamed(hidden="hidden", written="middle")]
    attention_norm: Annotated[Norm | None, Renamed(features="middle")]
    feed_forward: Annotated[FeedForward | ConstantBlock, Renamed(hidden="middle", written="output")]
    feed_forward_norm: Annotated[Norm | None, Renamed(features="output")]
    attention_skip: Annotated[Tensor | None, Axes("middle", "hidden")] = None
    feed_forward_skip: Annotated[Tensor | None, Axes("output", "middle")] = None
    attention_input_norm: Annotated[Norm | None, Renamed(features="hidden")] = None
    feed_forward_input_norm: Annotated[Norm | None, Renamed(features="middle")] = None

    @property
    def widths(self) -> tuple[int, int, int]:
        """Returns the width of the residual stream before the layer, after its attention and after the layer."""
        middle, output = _written_by(self.attention), _written_by(self.feed_forward)
        return middle if self.attention_skip is None else self.attention_skip.shape[1], middle, output

    @property
    def sum_norms(self) -> tuple[Norm, Norm]:
        """Returns the norms of a post-norm layer, after its attention and after its feed-forward block."""
        assert self.attention_norm is not None
        assert self.feed_forward_norm is not None
        return self.attention_norm, self.feed_forward_norm


def _written_by(block: Attention | FeedForward | ConstantBlock) -> int:
    """Returns the width of what the block adds to the residual stream."""
    match block:
        case Attention():
            return block.output_weight.shape[0]
        case FeedForward():
            return block.down.weight.shape[0]
        case ConstantBlock():
            return block.bias.shape[0]


@dataclass(frozen=True, slots=True, eq=False)
class Transform:
    """What some task heads do before their last map: `norm(activation(dense(x)))`."""

    dense: Annotated[Linear, Renamed(inputs="hidden", outputs="pooled")]
    activation: str
    norm: Annotated[Norm | None, Renamed(features="pooled")]


class Head:
    """The facts that each task head declares.

    `outputs` are the names of the network's outputs, all float32, as in transformers. Unless the head `answers_per_token`
    there is one answer per sequence.
    """

    __slots__ = ()

    outputs: ClassVar[tuple[str, ...]] = ("logits",)
    answers_per_token: ClassVar[bool] = True

    @property
    def quantizable(self) -> tuple[str, ...]:
        """Returns the linear maps that int8 multiplies in integers.

        Most heads have none, because they are small and errors in them reach the answer directly.
        """
        return ()

    @property
    def reads_first_token_only(self) -> bool:
        """Says whether the other positions are not needed after the last attention."""
        return False


@dataclass(frozen=True, slots=True, eq=False)
class SpanHead(Head):
    """Question answering: `output` has two rows, start and end. A transform may come before it."""

    outputs: ClassVar[tuple[str, ...]] = ("start_logits", "end_logits")

    output: Annotated[Linear, Renamed(inputs="hidden", outputs="label")]
    transform: Annotated[Transform | None, Renamed(hidden="hidden", pooled="pooled")] = None


@dataclass(frozen=True, slots=True, eq=False)
class TokenHead(Head):
    """Token classification. A transform may come before `output`."""

    output: Annotated[Linear, Renamed(inputs="hidden", outputs="label")]
    transform: Annotated[Transform | None, Renamed(hidden="hidden", pooled="pooled")] = None


@dataclass(frozen=True, slots=True, eq=False)
class SequenceHead(Head):
    """Text classification: `output(norm(activation(dense(pooled))))`; most heads have no norm.

    `pooled` is the state of the first token, or with the pooling "mean" the mean of the states of all attended tokens. With
    "late" every token goes through dense map, activation and norm, and `output` reads the mean of what comes out.
    """

    answers_per_token: ClassVar[bool] = False

    dense: Annotated[Linear, Renamed(inputs="hidden", outputs="pooled")]
    activation: str
    output: Annotated[Linear, Renamed(inputs="pooled", outputs="label")]
    norm: Annotated[Norm | None, Renamed(features="pooled")] = None
    pooling: Pooling = "first"

    @property
    def reads_first_token_only(self) -> bool:
        return self.pooling == "first"


@dataclass(frozen=True, slots=True, eq=False)
class MaskedLanguageHead(Head):
    """Fill-mask: a tied `decoder` holds the word embeddings' own tensor. A transform may come before it."""

    decoder: Annotated[Linear, Renamed(inputs="embedding", outputs="vocabulary")]
    transform: Annotated[Transform | None, Renamed(hidden="hidden", pooled="embedding")] = None

    @property
    def quantizable(self) -> tuple[str, ...]:
        return ("decoder",) if self.transform is None else ("dense", "decoder")


@dataclass(frozen=True, slots=True, eq=False)
class FeatureHead(Head):
    """Feature extraction: the last hidden state as it is, or after `output`, which gives it the original width."""

    outputs: ClassVar[tuple[str, ...]] = ("last_hidden_state",)

    output: Annotated[Linear | None, Renamed(inputs="hidden", outputs="feature")] = None


TaskHead = SpanHead | TokenHead | SequenceHead | MaskedLanguageHead | FeatureHead


@dataclass(frozen=True, slots=True, eq=False)
class Encoder:
    """A whole network for one task; `final_norm` is applied to the last hidden states of pre-norm encoders."""

    task: Task
    embeddings: Embeddings
    layers: tuple[Layer, ...]
    head: TaskHead
    final_norm: Annotated[Norm | None, Renamed(features="hidden")] = None

    @property
    def distinct_layers(self) -> tuple[Layer, ...]:
        """Returns the layers, shared ones once, in the order in which they first run."""
        return tuple({id(layer): layer for layer in self.layers}.values())

    @property
    def layer_indices(self) -> tuple[int, ...]:
        """Returns for each of the layers its index in `distinct_layers`."""
        indices = {id(layer): index for index, layer in enumerate(self.distinct_layers)}
        return tuple(indices[id(layer)] for layer in self.layers)

    @property
    def activation(self) -> str:
        """Returns the activation of the feed-forward blocks; empty where there is none."""
        blocks = (layer.feed_forward for layer in self.layers)
        return next((block.gating.activation for block in blocks if isinstance(block, FeedForward)), "")

    @property
    def norms(self) -> tuple[Norm, ...]:
        """Returns a norm per place of the residual stream: that of the embeddings, then two per layer.

        These are the norms that make the states there, and otherwise the first norm that reads them.
        """
        layers = self.layers
        if self.final_norm is None:
            of_layers = (norm for layer in layers for norm in (layer.attention_norm, layer.feed_forward_norm))
            return tuple(norm for norm in (self.embeddings.norm, *of_layers) if norm is not None)
        read_by = [self.final_norm]
        for layer in reversed(layers):
            read_by.append(layer.feed_forward_input_norm or read_by[-1])
            read_by.append(layer.attention_input_norm or read_by[-1])
        return (self.embeddings.norm or read_by[-1], *reversed(read_by[:-1]))

    @property
    def is_post_norm(self) -> bool:
        """Says whether a norm follows every sum of the residual stream, and nothing else is normalized."""
        layers = self.layers
        return (
            self.final_norm is None
            and all(layer.attention_norm is not None and layer.feed_forward_norm is not None for layer in layers)
            and all(layer.attention_input_norm is None and layer.feed_forward_input_norm is None for layer in layers)
        )

    @property
    def is_pre_norm(self) -> bool:
        """Says whether norms stand before blocks alone; the first one may be that of the embeddings."""
        layers = self.layers
        return (
            self.final_norm is not None
            and (layers[0].attention_input_norm is None) == (self.embeddings.norm is not None)
            and all(layer.attention_norm is None and layer.feed_forward_norm is None for layer in layers)
        )

    @property
    def widths(self) -> tuple[int, ...]:
        """Returns the width of the residual stream before the first layer and after each of its blocks."""
        return (self.layers[0].widths[0], *(width for layer in self.layers for width in layer.widths[1:]))

    @property
    def hidden_size(self) -> int:
        """Returns the largest width of the residual stream; that of all hidden states unless the network is sliced."""
        return max(self.widths)

    @property
    def is_sliced(self) -> bool:
        """Says whether a block has a skip matrix: the residual stream may then have several widths."""
        return any(
            skip is not None for layer in self.layers for skip in (layer.attention_skip, layer.feed_forward_skip)
        )

    @property
    def has_windows(self) -> bool:
        """Says whether a query may see no key, at padding; what it gives is then left open, and nothing else reads it."""
        blocks = (layer.attention for layer in self.layers)
        scores = (block.scores for block in blocks if isinstance(block, Attention))
        return any(isinstance(kind, Rotary) and kind.window is not None for kind in scores)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Returns the names of the inputs, each int64 `[batch_size, sequence_length]`, in transformers' order."""
        types = ("token_type_ids",) if self.embeddings.token_types is not None else ()
        return ("input_ids", "attention_mask", *types)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Returns the names of the outputs, all float32, as in transformers."""
        return self.head.outputs


def map_layers(encoder: Encoder, function: Callable[[int, Layer], Layer]) -> Encoder:
    """Returns the encoder with `function(index, layer)` in place of every distinct layer; shared layers stay shared.

    `index` is that of its first application in `encoder.layers`.
    """
    indices = encoder.layer_indices
    changed = [function(indices.index(distinct), layer) for distinct, layer in enumerate(encoder.distinct_layers)]
    return replace(encoder, layers=tuple(changed[distinct] for distinct in indices))


def tensors(part: Any) -> tuple[Tensor, ...]:
    """Returns every distinct tensor of a description, or of a tuple of them, once, in the order of its fields."""
    parts = part if isinstance(part, tuple) else (part,)
    return tuple({id(tensor): tensor for item in parts for tensor in named_tensors(item).values()}.values())
