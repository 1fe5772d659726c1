"""Task heads as PyTorch modules; `forward` maps the last hidden states `[batch, sequence, hidden]` to logits."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from exporters import encoder as description
from exporters.encoder import ACTIVATIONS
from prune_export.slim_model.blocks import SlimNorm, describe_linear, make_linear, make_parameter


class SlimFeatureHead(nn.Module):
    """The hidden states as they are."""

    def forward(self, x: Tensor, _word: Tensor) -> Tensor:
        return x

    def describe(self, _word: Tensor) -> description.FeatureHead:
        return description.FeatureHead()


class SlimSpanHead(nn.Module):
    """Start and end logits, `[batch, sequence, 2]`."""

    def __init__(self, part: description.SpanHead) -> None:
        super().__init__()
        self.output = make_linear(part.output)

    def forward(self, x: Tensor, _word: Tensor) -> Tensor:
        logits: Tensor = self.output(x)
        return logits

    def describe(self, _word: Tensor) -> description.SpanHead:
        return description.SpanHead(describe_linear(self.output))


class SlimTokenHead(nn.Module):
    """Logits per token, `[batch, sequence, labels]`."""

    def __init__(self, part: description.TokenHead, dropout: float) -> None:
        super().__init__()
        self.output, self.dropout = make_linear(part.output), nn.Dropout(dropout)

    def forward(self, x: Tensor, _word: Tensor) -> Tensor:
        logits: Tensor = self.output(self.dropout(x))
        return logits

    def describe(self, _word: Tensor) -> description.TokenHead:
        return description.TokenHead(describe_linear(self.output))


class SlimSequenceHead(nn.Module):
    """Logits of the first token, `[batch, labels]`."""

    def __init__(self, part: description.SequenceHead, dropout: float) -> None:
        super().__init__()
        self.dense, self.activation, self.output = make_linear(part.dense), part.activation, make_linear(part.output)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, _word: Tensor) -> Tensor:
        pooled = ACTIVATIONS[self.activation](self.dense(x[:, 0]))
        logits: Tensor = self.output(self.dropout(pooled))
        return logits

    def describe(self, _word: Tensor) -> description.SequenceHead:
        return description.SequenceHead(describe_linear(self.dense), self.activation, describe_linear(self.output))


class SlimMaskedLanguageHead(nn.Module):
    """Logits over the vocabulary, `[batch, sequence, vocabulary]`; a tied decoder has no weights of its own."""

    def __init__(self, part: description.MaskedLanguageHead, embeddings: description.Embeddings) -> None:
        super().__init__()
        self.dense, self.activation, self.norm = make_linear(part.dense), part.activation, SlimNorm(part.norm)
        self.decoder = None if part.decoder.weight is embeddings.word else make_parameter(part.decoder.weight)
        self.bias = make_parameter(part.decoder.bias)

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


def make_head(part: description.TaskHead, embeddings: description.Embeddings, dropout: float) -> SlimHead:
    """The module of a task head."""
    match part:
        case description.FeatureHead():
            return SlimFeatureHead()
        case description.SpanHead():
            return SlimSpanHead(part)
        case description.TokenHead():
            return SlimTokenHead(part, dropout)
        case description.SequenceHead():
            return SlimSequenceHead(part, dropout)
        case description.MaskedLanguageHead():
            return SlimMaskedLanguageHead(part, embeddings)
