"""An Encoder as a PyTorch module.

One implementation for every family, independent of transformers' own modules, so that it runs on any version of them.
It takes the arguments and gives the outputs of the Hugging Face class of its task, loss included, and trains in their
Trainer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from exporters import encoder as description
from exporters.encoder import ACTIVATIONS, Encoder
from prune_export.families.names import Dimensions
from prune_export.slim_model.loss import task_output
from prune_export.slim_model.storage import write_slim


def _linear(part: description.Linear) -> nn.Linear:
    out_features, in_features = part.weight.shape
    module = nn.Linear(in_features, out_features, device="meta")
    module.weight, module.bias = _parameter(part.weight), _parameter(part.bias)
    return module


def _parameter(tensor: Tensor) -> nn.Parameter:
    """A parameter of its own: training must not write into a memory-mapped checkpoint."""
    return nn.Parameter(tensor.detach().clone(memory_format=torch.contiguous_format))


class SlimNorm(nn.Module):
    """LayerNorm, or `x * weight + bias` where there is no epsilon."""

    def __init__(self, part: description.Norm) -> None:
        super().__init__()
        self.weight, self.bias, self.epsilon = _parameter(part.weight), _parameter(part.bias), part.epsilon

    def forward(self, x: Tensor) -> Tensor:
        if self.epsilon is None:
            return x * self.weight + self.bias
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.epsilon)

    def describe(self) -> description.Norm:
        return description.Norm(self.weight.detach(), self.bias.detach(), self.epsilon)


class SlimEmbeddings(nn.Module):
    """Word, position and token-type rows, norm and projection."""

    def __init__(self, part: description.Embeddings, dropout: float) -> None:
        super().__init__()
        self.word, self.position = _parameter(part.word), _parameter(part.position)
        self.token_type = None if part.token_type is None else _parameter(part.token_type)
        self.norm = SlimNorm(part.norm)
        self.projection = None if part.projection is None else _linear(part.projection)
        self.dropout = nn.Dropout(dropout)
        self.positions, self.pad_token_id = part.positions, part.pad_token_id

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None) -> Tensor:
        if self.positions == "from_padding":
            is_token = input_ids.ne(self.pad_token_id).long()
            rows = self.position[is_token.cumsum(dim=1) * is_token + self.pad_token_id]
        else:
            rows = self.position[: input_ids.shape[1]]
        x = self.word[input_ids] + rows  # [batch, sequence, embedding]
        if self.token_type is not None:
            types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
            x = x + self.token_type[types]
        x = self.dropout(self.norm(x))
        return x if self.projection is None else self.projection(x)

    def describe(self) -> description.Embeddings:
        return description.Embeddings(
            word=self.word.detach(),
            position=self.position.detach(),
            token_type=None if self.token_type is None else self.token_type.detach(),
            norm=self.norm.describe(),
            projection=None if self.projection is None else _describe_linear(self.projection),
            positions=self.positions,
            pad_token_id=self.pad_token_id,
        )


def _describe_linear(module: nn.Linear) -> description.Linear:
    return description.Linear(module.weight.detach(), module.bias.detach())


class SlimAttention(nn.Module):
    """Self-attention with its own number of heads and its own query/key and value sizes."""

    def __init__(self, part: description.Attention, dropout: float) -> None:
        super().__init__()
        self.heads, self.scale, self.dropout = part.heads, part.scale, dropout
        self.query = _linear(description.Linear(part.query_weight.flatten(0, 1), part.query_bias.flatten()))
        self.key = _parameter(part.key_weight.flatten(0, 1))  # [heads * query_key_size, hidden]
        self.value = _parameter(part.value_weight.flatten(0, 1))  # [heads * value_size, hidden]
        self.key_bias = None if part.key_bias is None else _parameter(part.key_bias.flatten())
        self.value_bias = None if part.value_bias is None else _parameter(part.value_bias.flatten())
        self.output = _linear(description.Linear(part.output_weight.flatten(1), part.output_bias))

    def forward(self, x: Tensor, attends: Tensor | None) -> Tensor:
        query, key, value = (
            projected.unflatten(-1, (len(self.heads), -1)).transpose(1, 2)  # [batch, heads, sequence, size]
            for projected in (
                self.query(x),
                functional.linear(x, self.key, self.key_bias),
                functional.linear(x, self.value, self.value_bias),
            )
        )
        contexts = functional.scaled_dot_product_attention(
            query, key, value, attends, dropout_p=self.dropout if self.training else 0.0, scale=self.scale
        )
        output: Tensor = self.output(contexts.transpose(1, 2).flatten(2))
        return output

    def describe(self) -> description.Attention:
        count, hidden = len(self.heads), self.query.in_features
        return description.Attention(
            heads=self.heads,
            query_weight=self.query.weight.detach().view(count, -1, hidden),
            query_bias=self.query.bias.detach().view(count, -1),
            key_weight=self.key.detach().view(count, -1, hidden),
            key_bias=None if self.key_bias is None else self.key_bias.detach().view(count, -1),
            value_weight=self.value.detach().view(count, -1, hidden),
            value_bias=None if self.value_bias is None else self.value_bias.detach().view(count, -1),
            output_weight=self.output.weight.detach().view(hidden, count, -1),
            output_bias=self.output.bias.detach(),
            scale=self.scale,
        )


class SlimFeedForward(nn.Module):
    """Two linear maps with an activation between them."""

    def __init__(self, part: description.FeedForward) -> None:
        super().__init__()
        self.up, self.activation, self.down = _linear(part.up), part.activation, _linear(part.down)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.down(ACTIVATIONS[self.activation](self.up(x)))
        return output

    def describe(self) -> description.FeedForward:
        return description.FeedForward(_describe_linear(self.up), self.activation, _describe_linear(self.down))


class SlimConstant(nn.Module):
    """A block that lost everything: one vector."""

    def __init__(self, part: description.ConstantBlock) -> None:
        super().__init__()
        self.bias = _parameter(part.bias)

    def describe(self) -> description.ConstantBlock:
        return description.ConstantBlock(self.bias.detach())


class SlimLayer(nn.Module):
    """Attention and feed-forward block, each followed by its norm."""

    def __init__(self, part: description.Layer, dimensions: Dimensions) -> None:
        super().__init__()
        self.attention: SlimAttention | SlimConstant = (
            SlimConstant(part.attention)
            if isinstance(part.attention, description.ConstantBlock)
            else SlimAttention(part.attention, dimensions.attention_dropout)
        )
        self.attention_norm = SlimNorm(part.attention_norm)
        self.feed_forward: SlimFeedForward | SlimConstant = (
            SlimConstant(part.feed_forward)
            if isinstance(part.feed_forward, description.ConstantBlock)
            else SlimFeedForward(part.feed_forward)
        )
        self.feed_forward_norm = SlimNorm(part.feed_forward_norm)
        self.dropout = nn.Dropout(dimensions.hidden_dropout)

    def forward(self, x: Tensor, attends: Tensor | None) -> Tensor:
        attention, feed_forward = self.attention, self.feed_forward
        update = attention.bias if isinstance(attention, SlimConstant) else attention(x, attends)
        x = self.attention_norm(x + self.dropout(update))
        update = feed_forward.bias if isinstance(feed_forward, SlimConstant) else feed_forward(x)
        output: Tensor = self.feed_forward_norm(x + self.dropout(update))
        return output

    def describe(self) -> description.Layer:
        return description.Layer(
            attention=self.attention.describe(),
            attention_norm=self.attention_norm.describe(),
            feed_forward=self.feed_forward.describe(),
            feed_forward_norm=self.feed_forward_norm.describe(),
        )


class SlimHead(nn.Module):
    """The task head; a tied decoder has no weights of its own."""

    def __init__(self, part: description.TaskHead, embeddings: description.Embeddings, dropout: float) -> None:
        super().__init__()
        self.dense = self.norm = self.output = self.decoder = self.decoder_bias = None
        self.activation = "gelu"
        self.dropout = nn.Dropout(dropout)
        match part:
            case description.SpanHead(output) | description.TokenHead(output):
                self.output = _linear(output)
            case description.SequenceHead(dense, activation, output):
                self.dense, self.activation, self.output = _linear(dense), activation, _linear(output)
            case description.MaskedLanguageHead(dense, activation, norm, decoder):
                self.dense, self.activation, self.norm = _linear(dense), activation, SlimNorm(norm)
                self.decoder = None if decoder.weight is embeddings.word else _parameter(decoder.weight)
                self.decoder_bias = _parameter(decoder.bias)

    def forward(self, x: Tensor, task: description.Task, word: Tensor) -> Tensor:
        match task:
            case "feature-extraction":
                return x
            case "question-answering" | "token-classification":
                assert self.output is not None
                return self.output(self.dropout(x) if task == "token-classification" else x)
            case "text-classification":
                assert self.dense is not None and self.output is not None
                pooled = ACTIVATIONS[self.activation](self.dense(x[:, 0]))
                return self.output(self.dropout(pooled))
            case "fill-mask":
                assert self.dense is not None and self.norm is not None
                states = self.norm(ACTIVATIONS[self.activation](self.dense(x)))
                return functional.linear(states, word if self.decoder is None else self.decoder, self.decoder_bias)

    def describe(self, task: description.Task, word: Tensor) -> description.TaskHead:
        match task:
            case "feature-extraction":
                return description.FeatureHead()
            case "question-answering":
                return description.SpanHead(_describe_linear(_there(self.output)))
            case "token-classification":
                return description.TokenHead(_describe_linear(_there(self.output)))
            case "text-classification":
                return description.SequenceHead(
                    _describe_linear(_there(self.dense)), self.activation, _describe_linear(_there(self.output))
                )
            case "fill-mask":
                assert self.norm is not None and self.decoder_bias is not None
                decoder = word if self.decoder is None else self.decoder.detach()
                return description.MaskedLanguageHead(
                    _describe_linear(_there(self.dense)),
                    self.activation,
                    self.norm.describe(),
                    description.Linear(decoder, self.decoder_bias.detach()),
                )


def _there(module: nn.Linear | None) -> nn.Linear:
    assert module is not None
    return module


class SlimModel(nn.Module):
    """A slim network for one task.

    `forward` takes `input_ids`, `attention_mask`, `token_type_ids` (int64 `[batch, sequence]`; the mask defaults to
    ones, the types to zeros) and the labels of the task, and returns the transformers output of the task's class.
    `config` is the original transformers configuration.
    """

    def __init__(self, encoder: Encoder, config: Any, dimensions: Dimensions) -> None:
        super().__init__()
        self.task, self.config, self.dimensions = encoder.task, config, dimensions
        self.embeddings = SlimEmbeddings(encoder.embeddings, dimensions.hidden_dropout)
        distinct = {id(layer): layer for layer in encoder.layers}
        places = {key: index for index, key in enumerate(distinct)}
        self.order = tuple(places[id(layer)] for layer in encoder.layers)  # layer of each step; shared ones repeat
        self.layers = nn.ModuleList(SlimLayer(layer, dimensions) for layer in distinct.values())
        self.head = SlimHead(encoder.head, encoder.embeddings, dimensions.classifier_dropout)
        self.eval()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        **labels: Tensor,
    ) -> Any:
        x = self.embeddings(input_ids, token_type_ids)
        attends = None if attention_mask is None else _additive(attention_mask, x.dtype)
        for index in self.order:
            x = self.layers[index](x, attends)
        logits = self.head(x, self.task, self.embeddings.word)
        return task_output(self.task, logits, labels, self.config)

    def describe(self) -> Encoder:
        """The network as it is now, as an Encoder that shares this module's memory."""
        embeddings = self.embeddings.describe()
        layers = [layer.describe() for layer in self.layers if isinstance(layer, SlimLayer)]
        head = self.head.describe(self.task, embeddings.word)
        return Encoder(self.task, embeddings, tuple(layers[index] for index in self.order), head)

    def save_pretrained(self, folder: str | Path, **_: Any) -> None:
        """Writes the slim checkpoint into `folder`: `slim.safetensors`, `config.json`, `pruning.json`.

        `prune_export.load_slim` reads it back; `prune-export --model folder` exports it.
        """
        write_slim(self.describe(), self.config, Path(folder))


def _additive(attention_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """`[batch, 1, 1, sequence]`: 0 where attended, the most negative number elsewhere, as Hugging Face does."""
    absent = 1.0 - attention_mask.to(dtype)
    return (absent * torch.finfo(dtype).min)[:, None, None, :]
