"""Task heads as PyTorch modules. `forward` maps the last hidden states `[batch, sequence, hidden]` to logits."""

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

    def forward(self, x: Tensor, _word: Tensor) -> Tensor:
        return x if self.output is None else self.output(x)

    def describe(self, _word: Tensor) -> description.FeatureHead:
        return description.FeatureHead(None if self.output is None else describe_linear(self.output))


class SlimSpanHead(nn.Module):
    """Start and end logits, `[batch, sequence, 2]`."""

    def __init__(self, head: description.SpanHead) -> None:
        super().__init__()
        self.output = make_linear(head.output)

    def forward(self, x: Tensor, _word: Tensor) -> Tensor:
        logits: Tensor = self.output(x)
        return logits

    def describe(self, _word: Tensor) -> description.SpanHead:
        return description.SpanHead(describe_linear(self.output))


class SlimTokenHead(nn.Module):
    """Logits per token, `[batch, sequence, labels]`."""

    def __init__(self, head: description.TokenHead, dropout: float) -> None:
        super().__init__()
        self.output, self.dropout = make_linear(head.output), nn.Dropout(dropout)

    def forward(self, x: Tensor, _word: Tensor) -> Tensor:
        logits: Tensor = self.output(self.dropout(x))
        return logits

    def describe(self, _word: Tensor) -> description.TokenHead:
        return description.TokenHead(describe_linear(self.output))


class SlimSequenceHead(nn.Module):
    """Logits of the first token, `[batch, labels]`."""

    def __init__(self, head: description.SequenceHead, dropout: float) -> None:
        super().__init__()
        self.dense, self.activation, self.output = make_linear(head.dense), head.activation, make_linear(head.output)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, _word: Tensor) -> Tensor:
        pooled = ACTIVATIONS[self.activation](self.dense(x[:, 0]))
        logits: Tensor = self.output(self.dropout(pooled))
        return logits

    def describe(self, _word: Tensor) -> description.SequenceHead:
        return description.SequenceHead(describe_linear(self.dense), self.activation, describe_linear(self.output))


class SlimMaskedLanguageHead(nn.Module):
    """Logits over the vocabulary, `[batch, sequence, vocabulary]`; a tied decoder has no weights of its own."""

    def __init__(self, head: description.MaskedLanguageHead, embeddings: description.Embeddings) -> None:
        super().__init__()
        self.dense, self.activation, self.norm = make_linear(head.dense), head.activation, SlimNorm(head.norm)
        self.decoder = None if head.decoder.weight is embeddings.word else make_parameter(head.decoder.weight)
        self.bias = make_parameter(head.decoder.bias)

    def forward(self, x: Tensor, word: Tensor) -> Tensor:
        states = self.norm(ACTIVATIONS[self.activation](self.dense(x)))
        return functional.linear(states, word if self.decoder is None else self.decoder, self.bias)

    def describe(self, word: Tensor) -> description.MaskedLanguageHead:
        decoder = word if self.decoder is None else self.decoder.detach()
        return description.MaskedLanguageHead(
            describe_linear(self.dense),
            self.activation,
            self.norm.describe(),
            description.Linear(decoder, self.bias.detach()),
        )


SlimHead = SlimFeatureHead | SlimSpanHead | SlimTokenHead | SlimSequenceHead | SlimMaskedLanguageHead


def make_head(head: description.TaskHead, embeddings: description.Embeddings, dropout: float) -> SlimHead:
    """Returns the module of a task head."""
    match head:
        case description.FeatureHead():
            return SlimFeatureHead(head)
        case description.SpanHead():
            return SlimSpanHead(head)
        case description.TokenHead():
            return SlimTokenHead(head, dropout)
        case description.SequenceHead():
            return SlimSequenceHead(head, dropout)
        case description.MaskedLanguageHead():
            return SlimMaskedLanguageHead(head, embeddings)
