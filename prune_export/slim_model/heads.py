"""Task heads as PyTorch modules. `forward` maps the last hidden states `[batch, sequence, hidden]` to logits.

It also takes the word embeddings and the attention mask `[batch, sequence]` (None: all tokens are attended).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from exporters import encoder as description
from exporters.encoder import ACTIVATIONS
from prune_export.slim_model.blocks import SlimNorm, describe_linear, make_linear, make_parameter


class SlimFeatureHead(nn.Module):
    """The hidden states as they are, or mapped to their original width."""

    def __init__(self, head: description.FeatureHead) -> None:
        super().__init__()
        self.output = None if head.output is None else make_linear(head.output)

    def forward(self, x: Tensor, _word: Tensor, _attention_mask: Tensor | None) -> Tensor:
        return x if self.output is None else self.output(x)

    def describe(self, _word: Tensor) -> description.FeatureHead:
        return description.FeatureHead(None if self.output is None else describe_linear(self.output))


class SlimTransform(nn.Module):
    """`norm(activation(dense(x)))`."""

    def __init__(self, transform: description.Transform) -> None:
        super().__init__()
        self.dense, self.activation = make_linear(transform.dense), transform.activation
        self.norm = None if transform.norm is None else SlimNorm(transform.norm)

    def forward(self, x: Tensor) -> Tensor:
        states = ACTIVATIONS[self.activation](self.dense(x))
        return states if self.norm is None else self.norm(states)

    def describe(self) -> description.Transform:
        norm = None if self.norm is None else self.norm.describe()
        return description.Transform(describe_linear(self.dense), self.activation, norm)


def _transform(transform: description.Transform | None) -> SlimTransform | None:
    return None if transform is None else SlimTransform(transform)


class SlimSpanHead(nn.Module):
    """Start and end logits, `[batch, sequence, 2]`."""

    def __init__(self, head: description.SpanHead, dropout: float) -> None:
        super().__init__()
        self.transform, self.output = _transform(head.transform), make_linear(head.output)
        self.dropout = nn.Dropout(0.0 if self.transform is None else dropout)  # as transformers' heads do

    def forward(self, x: Tensor, _word: Tensor, _attention_mask: Tensor | None) -> Tensor:
        logits: Tensor = self.output(self.dropout(x if self.transform is None else self.transform(x)))
        return logits

    def describe(self, _word: Tensor) -> description.SpanHead:
        transform = None if self.transform is None else self.transform.describe()
        return description.SpanHead(describe_linear(self.output), transform)


class SlimTokenHead(nn.Module):
    """Logits per token, `[batch, sequence, labels]`."""

    def __init__(self, head: description.TokenHead, dropout: float) -> None:
        super().__init__()
        self.transform, self.output = _transform(head.transform), make_linear(head.output)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, _word: Tensor, _attention_mask: Tensor | None) -> Tensor:
        logits: Tensor = self.output(self.dropout(x if self.transform is None else self.transform(x)))
        return logits

    def describe(self, _word: Tensor) -> description.TokenHead:
        transform = None if self.transform is None else self.transform.describe()
        return description.TokenHead(describe_linear(self.output), transform)


def _mean(x: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Returns the mean over all attended tokens of `x` `[batch, sequence, features]`."""
    if attention_mask is None:
        return x.mean(dim=1)
    attended = attention_mask[:, :, None].to(x.dtype)
    return (x * attended).sum(dim=1) / attended.sum(dim=1)


class SlimSequenceHead(nn.Module):
    """Logits of the first token, or of a mean over all attended tokens, `[batch, labels]`."""

    def __init__(self, head: description.SequenceHead, dropout: float) -> None:
        super().__init__()
        self.dense, self.activation, self.output = make_linear(head.dense), head.activation, make_linear(head.output)
        self.norm = None if head.norm is None else SlimNorm(head.norm)
        self.pooling, self.dropout = head.pooling, nn.Dropout(dropout)

    def forward(self, x: Tensor, _word: Tensor, attention_mask: Tensor | None) -> Tensor:
        if self.pooling == "first":
            x = x[:, 0]
        elif self.pooling == "mean":
            x = _mean(x, attention_mask)
        states = ACTIVATIONS[self.activation](self.dense(x))
        states = states if self.norm is None else self.norm(states)
        if self.pooling == "late":
            states = _mean(states, attention_mask)
        logits: Tensor = self.output(self.dropout(states))
        return logits

    def describe(self, _word: Tensor) -> description.SequenceHead:
        return description.SequenceHead(
            describe_linear(self.dense),
            self.activation,
            describe_linear(self.output),
            None if self.norm is None else self.norm.describe(),
            self.pooling,
        )


class SlimMaskedLanguageHead(nn.Module):
    """Logits over the vocabulary, `[batch, sequence, vocabulary]`; a tied decoder has no weights of its own."""

    def __init__(self, head: description.MaskedLanguageHead, embeddings: description.Embeddings) -> None:
        super().__init__()
        self.transform = _transform(head.transform)
        self.decoder = None if head.decoder.weight is embeddings.word else make_parameter(head.decoder.weight)
        self.bias = None if head.decoder.bias is None else make_parameter(head.decoder.bias)

    def forward(self, x: Tensor, word: Tensor, _attention_mask: Tensor | None) -> Tensor:
        states = x if self.transform is None else self.transform(x)
        return functional.linear(states, word if self.decoder is None else self.decoder, self.bias)

    def describe(self, word: Tensor) -> description.MaskedLanguageHead:
        decoder = word if self.decoder is None else self.decoder.detach()
        return description.MaskedLanguageHead(
            description.Linear(decoder, None if self.bias is None else self.bias.detach()),
            None if self.transform is None else self.transform.describe(),
        )


SlimHead = SlimFeatureHead | SlimSpanHead | SlimTokenHead | SlimSequenceHead | SlimMaskedLanguageHead


def make_head(head: description.TaskHead, embeddings: description.Embeddings, dropout: float) -> SlimHead:
    """Returns the module of a task head."""
    match head:
        case description.FeatureHead():
            return SlimFeatureHead(head)
        case description.SpanHead():
            return SlimSpanHead(head, dropout)
        case description.TokenHead():
            return SlimTokenHead(head, dropout)
        case description.SequenceHead():
            return SlimSequenceHead(head, dropout)
        case description.MaskedLanguageHead():
            return SlimMaskedLanguageHead(head, embeddings)
