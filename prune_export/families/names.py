"""Where a family keeps its tensors: the names of its modules, as paths inside a Hugging Face model.

Paths of the body are relative to the base model (`bert.` and the like); paths of task heads are absolute. One table reads
a checkpoint into an Encoder and writes an Encoder back under Hugging Face's names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from exporters.tasks import Task
from prune_export.tasks import SPECS


@dataclass(frozen=True, slots=True)
class Dimensions:
    """The numbers of a configuration under one set of names."""

    vocabulary: int
    positions: int
    types: int  # token types; 0: the model takes none
    embedding: int
    hidden: int
    layers: int
    heads: int
    intermediate: int
    activation: str
    epsilon: float
    pad_token_id: int
    labels: int
    hidden_dropout: float
    attention_dropout: float
    classifier_dropout: float

    @property
    def head_size(self) -> int:
        return self.hidden // self.heads


@dataclass(frozen=True, slots=True)
class EmbeddingNames:
    """Paths of the embedding modules; `projection` is there where embedding and hidden size may differ."""

    word: str = "embeddings.word_embeddings"
    position: str = "embeddings.position_embeddings"
    token_type: str | None = "embeddings.token_type_embeddings"
    norm: str = "embeddings.LayerNorm"
    projection: str | None = None
    projection_always: bool = False  # ALBERT projects even where the sizes are equal


@dataclass(frozen=True, slots=True)
class LayerNames:
    """Paths of one layer's modules, relative to the layer."""

    query: str = "attention.self.query"
    key: str = "attention.self.key"
    value: str = "attention.self.value"
    attention_output: str = "attention.output.dense"
    attention_norm: str = "attention.output.LayerNorm"
    up: str = "intermediate.dense"
    down: str = "output.dense"
    feed_forward_norm: str = "output.LayerNorm"


@dataclass(frozen=True, slots=True)
class SequenceHeadNames:
    """Text classification; `dense_in_body` where the first linear is the base model's pooler."""

    dense: str
    activation: str
    output: str
    dense_in_body: bool = False


@dataclass(frozen=True, slots=True)
class MaskedLanguageHeadNames:
    """Fill-mask. `bias` is the decoder's bias as saved; `activation` None means the encoder's own."""

    dense: str
    norm: str
    decoder: str
    bias: str
    activation: str | None = None


@dataclass(frozen=True, slots=True)
class Family:
    """One model family of Hugging Face transformers.

    `layer(dimensions, index)` is the path of layer `index`; layers that share a path share their weights.
    `architecture` is the stem of its class names: `BertForQuestionAnswering` has `Bert`.
    """

    model_type: str
    architecture: str
    prefix: str
    dimensions: Callable[[object], Dimensions]
    layer: Callable[[object, int], str]
    sequence_head: SequenceHeadNames
    masked_language_head: MaskedLanguageHeadNames
    embeddings: EmbeddingNames = EmbeddingNames()
    layers: LayerNames = LayerNames()
    span_output: str = "qa_outputs"
    token_output: str = "classifier"
    positions_from_padding: bool = False

    def class_name(self, task: Task) -> str:
        """The Hugging Face class of this family for `task`."""
        return f"{self.architecture}{SPECS[task].suffix}"
