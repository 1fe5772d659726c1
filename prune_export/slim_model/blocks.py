"""The body of an Encoder as PyTorch modules. `describe` of each returns its description with its current weights."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from exporters import encoder as description
from exporters.axes import map_leaves
from exporters.distances import Distances, Projection, distance_terms
from exporters.encoder import ACTIVATIONS
from prune_export.families.names import Dimensions


def make_linear(linear: description.Linear) -> nn.Linear:
    """Returns a module with copies of the linear map's weight and bias."""
    out_features, in_features = linear.weight.shape
    module = nn.Linear(in_features, out_features, bias=linear.bias is not None, device="meta")
    module.weight = make_parameter(linear.weight)
    if linear.bias is not None:
        module.bias = make_parameter(linear.bias)
    return module


def make_parameter(tensor: Tensor) -> nn.Parameter:
    """Returns a parameter that holds a copy: training must not write into a memory-mapped checkpoint."""
    return nn.Parameter(tensor.detach().clone(memory_format=torch.contiguous_format))


class SlimNorm(nn.Module):
    """LayerNorm, RMSNorm, or `x * weight + bias` where there is no epsilon."""

    def __init__(self, norm: description.Norm) -> None:
        super().__init__()
        self.weight, self.epsilon, self.centered = make_parameter(norm.weight), norm.epsilon, norm.centered
        self.bias = None if norm.bias is None else make_parameter(norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.epsilon is None:
            scaled = x * self.weight
        elif self.centered:
            return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.epsilon)
        else:
            scaled = functional.rms_norm(x, self.weight.shape, self.weight, self.epsilon)
        return scaled if self.bias is None else scaled + self.bias

    def describe(self) -> description.Norm:
        bias = None if self.bias is None else self.bias.detach()
        return description.Norm(self.weight.detach(), bias, self.epsilon, self.centered)


class SlimEmbeddings(nn.Module):
    """Word, position and token-type rows, norm and projection."""

    def __init__(self, embeddings: description.Embeddings, dropout: float) -> None:
        super().__init__()
        self.word = make_parameter(embeddings.word)
        self.position, self.token_type = (
            None if table is None else make_parameter(table) for table in (embeddings.position, embeddings.token_type)
        )
        self.norm = None if embeddings.norm is None else SlimNorm(embeddings.norm)
        self.projection = None if embeddings.projection is None else make_linear(embeddings.projection)
        self.dropout = nn.Dropout(dropout)
        self.positions, self.pad_token_id = embeddings.positions, embeddings.pad_token_id
        self.longest, self.masked = embeddings.longest, embeddings.masked

    def rows(self, input_ids: Tensor, token_type_ids: Tensor | None) -> Tensor:
        """Returns the sum of the tables' rows, `[batch, sequence, embedding]`.

        Rows are looked up by `embedding`: a GPU sums its gradient in parallel, but that of an index one row at a time.
        """
        x = functional.embedding(input_ids, self.word)
        if self.position is not None:
            if self.positions == "from_padding":
                is_token = input_ids.ne(self.pad_token_id).long()
                ids = is_token.cumsum(dim=1) * is_token + self.pad_token_id
                x = x + functional.embedding(ids, self.position)
            else:
                x = x + self.position[: input_ids.shape[1]]
        if self.token_type is not None and len(self.token_type) == 1:
            x = x + self.token_type
        elif self.token_type is not None:
            types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
            x = x + functional.embedding(types, self.token_type)
        return x

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None) -> Tensor:
        rows = self.rows(input_ids, token_type_ids)
        states: Tensor = self.dropout(rows if self.norm is None else self.norm(rows))
        if self.projection is not None:
            states = self.projection(states)
        return states

    def describe(self) -> description.Embeddings:
        return description.Embeddings(
            word=self.word.detach(),
            position=None if self.position is None else self.position.detach(),
            token_type=None if self.token_type is None else self.token_type.detach(),
            norm=None if self.norm is None else self.norm.describe(),
            projection=None if self.projection is None else describe_linear(self.projection),
            positions=self.positions,
            pad_token_id=self.pad_token_id,
            longest=self.longest,
            masked=self.masked,
        )


def describe_linear(module: nn.Linear) -> description.Linear:
    """Returns the description of a linear map, which shares the module's memory."""
    return description.Linear(module.weight.detach(), _detached(module.bias))


def _detached(parameter: Tensor | None) -> Tensor | None:
    return None if parameter is None else parameter.detach()


class SlimRelativeBias(nn.Module):
    """The bias of scores by distance, which all layers have in common."""

    def __init__(self, scores: description.RelativeBias) -> None:
        super().__init__()
        self.table = make_parameter(scores.table)
        self._scores = scores

    def forward(self, length: int) -> Tensor:
        """Returns the bias of all heads of the original model, `[original_heads, length, length]`."""
        return replace(self._scores, table=self.table).bias(tuple(range(self.table.shape[1])), length)

    def describe(self) -> description.RelativeBias:
        return replace(self._scores, table=self.table.detach())


class SlimProjection(nn.Module):
    """A layer's own projection of the embeddings of distances."""

    def __init__(self, projection: Projection) -> None:
        super().__init__()
        self.heads = projection.weight.shape[0]
        self.weight = make_parameter(projection.weight.flatten(0, 1))  # [heads * query_key_size, hidden]
        self.bias = None if projection.bias is None else make_parameter(projection.bias.flatten())

    def projection(self) -> Projection:
        """Returns the projection with the module's own parameters."""
        bias = None if self.bias is None else self.bias.unflatten(0, (self.heads, -1))
        return Projection(self.weight.unflatten(0, (self.heads, -1)), bias)

    def describe(self) -> Projection:
        return map_leaves(self.projection(), lambda value, _: value.detach())


class SlimAttention(nn.Module):
    """Self-attention with its own number of heads and its own query/key and value sizes."""

    def __init__(self, attention: description.Attention, dropout: float, distance_dropout: float) -> None:
        super().__init__()
        self.heads, self.scores, self.dropout_prob = attention.heads, attention.scores, dropout
        query_weight = attention.query_weight.flatten(0, 1)  # [heads * query_key_size, hidden]
        query_bias = None if attention.query_bias is None else attention.query_bias.flatten()
        self.query = make_linear(description.Linear(query_weight, query_bias))
        self.key = make_parameter(attention.key_weight.flatten(0, 1))  # [heads * query_key_size, hidden]
        self.value = make_parameter(attention.value_weight.flatten(0, 1))  # [heads * value_size, hidden]
        self.key_bias = None if attention.key_bias is None else make_parameter(attention.key_bias.flatten())
        self.value_bias = None if attention.value_bias is None else make_parameter(attention.value_bias.flatten())
        self.output = make_linear(attention.output)
        self.distance_dropout = nn.Dropout(distance_dropout)
        own = attention.scores if isinstance(attention.scores, Distances) else None
        self.to_key = None if own is None or own.key is None else SlimProjection(own.key)
        self.to_query = None if own is None or own.query is None else SlimProjection(own.query)

    def forward(self, x: Tensor, attends: Tensor | None, common: Tensor | None = None) -> Tensor:
        """Returns what is added to the residual stream.

        `common` is what the scores of all layers have in common: the bias of all heads of the original model, or the
        embeddings of distances.
        """
        if common is not None and not isinstance(self.scores, Distances):
            own = common[list(self.heads)]
            attends = own[None] if attends is None else own + attends
        query, key, value = (
            projected.unflatten(-1, (len(self.heads), -1)).transpose(1, 2)  # [batch, heads, sequence, size]
            for projected in (
                self.query(x),
                functional.linear(x, self.key, self.key_bias),
                functional.linear(x, self.value, self.value_bias),
            )
        )
        if isinstance(self.scores, description.Rotary):
            query, key = self.scores.rotate(query), self.scores.rotate(key)
            attends = visible(self.scores, attends, x.shape[1], x.dtype)
        if isinstance(self.scores, Distances):
            terms = None if common is None else self._terms(self.scores, query, key, self.distance_dropout(common))
            query, attends = _attended_pairs(query, terms, attends)
        contexts = functional.scaled_dot_product_attention(
            query, key, value, attends, dropout_p=self.dropout_prob if self.training else 0.0, scale=self.scores.scale
        )
        output: Tensor = self.output(contexts.transpose(1, 2).flatten(2))
        return output

    def _terms(self, scores: Distances, query: Tensor, key: Tensor, embeddings: Tensor) -> Tensor:
        """Returns the terms by distance, scaled: `[batch, heads, sequence, sequence]`."""

        def split(weight: Tensor, bias: Tensor | None) -> Projection:
            count = len(self.heads)
            return Projection(
                weight.unflatten(0, (count, -1)), None if bias is None else bias.unflatten(0, (count, -1))
            )

        to_key = to_query = None
        if scores.content_to_position:
            to_key = split(self.key, self.key_bias) if self.to_key is None else self.to_key.projection()
        if scores.position_to_content:
            own = self.query
            to_query = split(own.weight, own.bias) if self.to_query is None else self.to_query.projection()
        return scores.scale * distance_terms(scores, embeddings, query, key, to_key, to_query)

    def _described_scores(self, common: description.AttentionScores | None) -> description.AttentionScores:
        if common is None:
            return self.scores
        if not isinstance(self.scores, Distances) or not isinstance(common, Distances):
            return common
        return replace(
            self.scores,
            embeddings=common.embeddings,
            norm=common.norm,
            key=None if self.to_key is None else self.to_key.describe(),
            query=None if self.to_query is None else self.to_query.describe(),
        )

    def describe(self, scores: description.AttentionScores | None = None) -> description.Attention:
        """Returns the description; `scores` are those that all layers have in common (None: this block's own)."""
        count, hidden, written = len(self.heads), self.query.in_features, self.output.out_features
        return description.Attention(
            heads=self.heads,
            query_weight=self.query.weight.detach().view(count, -1, hidden),
            query_bias=None if self.query.bias is None else self.query.bias.detach().view(count, -1),
            key_weight=self.key.detach().view(count, -1, hidden),
            key_bias=None if self.key_bias is None else self.key_bias.detach().view(count, -1),
            value_weight=self.value.detach().view(count, -1, hidden),
            value_bias=None if self.value_bias is None else self.value_bias.detach().view(count, -1),
            output_weight=self.output.weight.detach().view(written, count, -1),
            output_bias=_detached(self.output.bias),
            scores=self._described_scores(scores),
        )


def visible(scores: description.Rotary, attends: Tensor | None, length: int, dtype: torch.dtype) -> Tensor | None:
    """Returns the additive mask `[batch or 1, 1, query, key]` with the scores' window in it.

    `attends` is additive, `[batch, 1, 1, key]`. A query always sees itself, so that no row is empty.
    """
    if scores.window is None:
        return attends
    device = scores.frequencies.device if attends is None else attends.device
    attended = torch.ones(1, 1, 1, length, dtype=torch.bool, device=device) if attends is None else attends.eq(0)
    return torch.zeros((), dtype=dtype, device=device).masked_fill(~scores.visible(attended), torch.finfo(dtype).min)


def _attended_pairs(query: Tensor, terms: Tensor | None, attends: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Returns the queries, and what is added to scores: `terms` for pairs of tokens, the most negative number at padding.

    Queries of padding are zeros: they attend to all tokens alike, and nothing is learned from them.
    """
    if attends is None:
        return query, terms
    is_token = attends.eq(0)  # [batch, 1, 1, sequence]
    of_queries = is_token.transpose(2, 3)
    scores = query.new_zeros(()) if terms is None else terms
    return query * of_queries, torch.where(is_token & of_queries, scores, torch.finfo(query.dtype).min)


class SlimFeedForward(nn.Module):
    """Two linear maps with an activation between them, or three with a gate."""

    def __init__(self, feed_forward: description.FeedForward) -> None:
        super().__init__()
        self.up, self.down = make_linear(feed_forward.up), make_linear(feed_forward.down)
        self.gating = feed_forward.gating
        self.gate = make_linear(self.gating.gate) if isinstance(self.gating, description.Gated) else None

    def forward(self, x: Tensor) -> Tensor:
        activation = ACTIVATIONS[self.gating.activation]
        inner = activation(self.up(x)) if self.gate is None else activation(self.gate(x)) * self.up(x)
        output: Tensor = self.down(inner)
        return output

    def describe(self) -> description.FeedForward:
        gating = self.gating
        if self.gate is not None:
            gating = description.Gated(gating.activation, describe_linear(self.gate))
        return description.FeedForward(describe_linear(self.up), gating, describe_linear(self.down))


class SlimConstant(nn.Module):
    """A block without heads or columns: one vector, which is trained unless it is zero, as where blocks have no bias."""

    def __init__(self, constant: description.ConstantBlock) -> None:
        super().__init__()
        self.bias: Tensor
        if constant.bias.any():
            self.bias = make_parameter(constant.bias)
        else:
            self.register_buffer("bias", constant.bias.clone(), persistent=False)

    def describe(self) -> description.ConstantBlock:
        return description.ConstantBlock(self.bias.detach())


class SlimLayer(nn.Module):
    """Attention and feed-forward block, each added to the residual stream, with norms before or after."""

    def __init__(self, layer: description.Layer, dimensions: Dimensions) -> None:
        super().__init__()
        self.attention: SlimAttention | SlimConstant = (
            SlimConstant(layer.attention)
            if isinstance(layer.attention, description.ConstantBlock)
            else SlimAttention(layer.attention, dimensions.attention_dropout, dimensions.hidden_dropout)
        )
        self.attention_norm, self.attention_input_norm = map(_norm, (layer.attention_norm, layer.attention_input_norm))
        self.feed_forward: SlimFeedForward | SlimConstant = (
            SlimConstant(layer.feed_forward)
            if isinstance(layer.feed_forward, description.ConstantBlock)
            else SlimFeedForward(layer.feed_forward)
        )
        self.feed_forward_norm, self.feed_forward_input_norm = map(
            _norm, (layer.feed_forward_norm, layer.feed_forward_input_norm)
        )
        self.attention_skip, self.feed_forward_skip = (
            None if skip is None else make_parameter(skip) for skip in (layer.attention_skip, layer.feed_forward_skip)
        )
        self.dropout = nn.Dropout(dimensions.hidden_dropout)

    def forward(self, x: Tensor, attends: Tensor | None, common: Tensor | None = None) -> Tensor:
        attention, feed_forward = self.attention, self.feed_forward
        if isinstance(attention, SlimConstant):
            update = attention.bias
        else:
            update = attention(_normalized(x, self.attention_input_norm), attends, common)
        x = _normalized(_skipped(x, self.attention_skip) + self.dropout(update), self.attention_norm)
        if isinstance(feed_forward, SlimConstant):
            update = feed_forward.bias
        else:
            update = feed_forward(_normalized(x, self.feed_forward_input_norm))
        return _normalized(_skipped(x, self.feed_forward_skip) + self.dropout(update), self.feed_forward_norm)

    def describe(self, scores: description.AttentionScores | None = None) -> description.Layer:
        """Returns the description; `scores` are those that all layers have in common (None: the block's own)."""
        attention = self.attention
        return description.Layer(
            attention=attention.describe() if isinstance(attention, SlimConstant) else attention.describe(scores),
            attention_norm=_described(self.attention_norm),
            feed_forward=self.feed_forward.describe(),
            feed_forward_norm=_described(self.feed_forward_norm),
            attention_skip=_detached(self.attention_skip),
            feed_forward_skip=_detached(self.feed_forward_skip),
            attention_input_norm=_described(self.attention_input_norm),
            feed_forward_input_norm=_described(self.feed_forward_input_norm),
        )


def _norm(norm: description.Norm | None) -> SlimNorm | None:
    return None if norm is None else SlimNorm(norm)


def _described(norm: SlimNorm | None) -> description.Norm | None:
    return None if norm is None else norm.describe()


def _normalized(x: Tensor, norm: SlimNorm | None) -> Tensor:
    if norm is None:
        return x
    states: Tensor = norm(x)
    return states


def _skipped(x: Tensor, skip: Tensor | None) -> Tensor:
    """Returns the residual stream as it goes past a block."""
    return x if skip is None else functional.linear(x, skip)
