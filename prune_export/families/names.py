"""Model families of Hugging Face transformers as data: their dimensions, layers and tables of tensor names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from exporters.axes import assemble
from exporters.cost import LayerShape
from exporters.encoder import AttentionScores, DotProduct, Pooling, Positions
from exporters.tasks import Task
from prune_export.families.table import Stored, Table, linear, section
from prune_export.tasks import SPECS

NORMS = ("attention_norm", "feed_forward_norm", "attention_input_norm", "feed_forward_input_norm")  # of a layer


@dataclass(frozen=True, slots=True)
class Dimensions:
    """The numbers in a configuration, under the same names for all families."""

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
    distance_rows: int = 0  # of the table of scores by distance, where there is one
    pooling: Pooling = "first"  # of text classification
    head_activation: str | None = None  # of all task heads, where the configuration has one for them
    distance_terms: int = 0  # products of query or key with that table
    has_position_rows: bool = True  # otherwise `positions` is the greatest length that the model is meant for
    keeps_head_size: bool = False  # what scores have by position is for heads of this size

    @property
    def head_size(self) -> int:
        return self.hidden // self.heads

    @property
    def sizes(self) -> dict[str, int]:
        """Returns the unpruned size of every axis of the description."""
        return {
            "vocabulary": self.vocabulary,
            "position": self.positions,
            "token_type": self.types,
            "embedding": self.embedding,
            **dict.fromkeys(("hidden", "middle", "output", "written", "feature"), self.hidden),
            "pooled": self.hidden,
            "head": self.heads,
            "query_key": self.head_size,
            "value": self.head_size,
            "intermediate": self.intermediate,
            "label": self.labels,
            "distance_row": self.distance_rows,
            "distance_feature": self.hidden,
            "original_head": self.heads,
        }


# BERT's tables. Names of embeddings are relative to the base model, those of a layer to the layer, those of heads to the
# whole model.
EMBEDDINGS: Table = {
    "position": Stored("embeddings.position_embeddings.weight"),
    "token_type": Stored("embeddings.token_type_embeddings.weight"),
    "word": Stored("embeddings.word_embeddings.weight"),
    **linear("norm", "embeddings.LayerNorm"),
}
LAYER: Table = {
    **linear("feed_forward.up", "intermediate.dense"),
    **linear("feed_forward.down", "output.dense"),
    **linear("attention.query_", "attention.self.query"),
    **linear("attention.key_", "attention.self.key"),
    **linear("attention.value_", "attention.self.value"),
    **linear("attention.output_", "attention.output.dense"),
    **linear("attention_norm", "attention.output.LayerNorm"),
    **linear("feed_forward_norm", "output.LayerNorm"),
}
SPAN_HEAD: Table = linear("output", "qa_outputs")
TOKEN_HEAD: Table = linear("output", "classifier")


def masked_language_head(dense: str, norm: str, decoder: str, bias: str) -> Table:
    """Returns the table of a fill-mask head; `bias` is the name of the decoder's bias where it is tied."""
    return {
        **linear("transform.dense", dense),
        **linear("transform.norm", norm),
        "decoder.weight": Stored(f"{decoder}.weight"),
        "decoder.bias": Stored(bias),
    }


def _never(_config: Any, _name: str) -> bool:
    return False


def _no_values(_config: Any, _index: int) -> Mapping[str, Any]:
    return {}


def _no_changes(_config: Any) -> Mapping[str, Any]:
    return {}


def _no_check(_config: Any, _task: Task) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Family:
    """One model family of Hugging Face transformers.

    `layer(config, index)` returns the path of layer `index` in the base model; layers with the same path share their
    weights. `architecture` is the stem of the family's class names, such as "Bert" of `BertForQuestionAnswering`. `heads`
    holds the table of each task head, `activations` the activation of those that have one (None: the encoder's own). With
    `projects_always` embeddings are projected even where they are as wide as the encoder. `positions` says how position
    rows are counted, where there are any. `scores_kind` is the kind of the attention scores; `scores` holds the tensors
    that they have in common in all layers, `scores_values(config, index)` what else those of a layer need; tensors of a
    layer's own scores are rows of `layers` ("attention.scores.…"). `final_norm` is the table of the norm of the last hidden
    states. `is_absent(config, name)` says whether networks of a configuration lack the tensor `name` of a table, such as a
    bias that the configuration switches off. Without `resizes_heads` transformers has no model whose heads were removed by
    `pruned_heads`. `variant(config)` returns the fields that differ with the configuration (`configured`).
    `check(config, task)` raises UnsupportedError for a task that transformers cannot compute with a configuration. With
    `masks_embeddings` the hidden states of padding are zero before the first layer. `file_modules` holds the modules whose
    paths in files differ from those in the family's classes; transformers renames them when it reads and writes. A module
    of a file that is several in the classes holds their rows one after the other. `depth_keys` are the keys of config.json
    that hold the number of layers. With `optional_types` networks may have no token types. Without `centered_norms` the
    norms of the residual stream are RMSNorm.
    """

    model_type: str
    architecture: str
    prefix: str
    dimensions: Callable[[Any], Dimensions]
    layer: Callable[[Any, int], str]
    heads: Mapping[Task, Table]
    activations: Mapping[Task, str | None]
    embeddings: Table = field(default_factory=lambda: EMBEDDINGS)
    layers: Table = field(default_factory=lambda: LAYER)
    projects_always: bool = False
    positions: Positions = "absolute"
    scores_kind: type[AttentionScores] = DotProduct
    scores: Table = field(default_factory=dict)
    scores_values: Callable[[Any, int], Mapping[str, Any]] = _no_values
    final_norm: Table = field(default_factory=dict)
    is_absent: Callable[[Any, str], bool] = _never
    resizes_heads: bool = True
    masks_embeddings: bool = False
    variant: Callable[[Any], Mapping[str, Any]] = _no_changes
    check: Callable[[Any, Task], None] = _no_check
    file_modules: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    depth_keys: tuple[str, ...] = ("num_hidden_layers",)
    optional_types: bool = False
    centered_norms: bool = True

    @property
    def is_gated(self) -> bool:
        """Says whether feed-forward blocks have a gate."""
        return "feed_forward.gating.gate.weight" in self.layers

    def layer_shape(self, config: Any) -> LayerShape:
        """Returns the shape of an unpruned layer."""
        sizes = self.dimensions(config)
        return LayerShape(
            sizes.heads,
            sizes.head_size,
            sizes.head_size,
            sizes.intermediate,
            is_gated=self.is_gated,
            distance_terms=sizes.distance_terms,
            distance_rows=sizes.distance_rows if sizes.distance_terms else 0,
        )

    def present(self, table: Table, config: Any, prefix: str = "") -> Table:
        """Returns the rows of `table` whose tensors networks of this configuration have; `prefix` precedes their names."""
        return {path: row for path, row in table.items() if not self.is_absent(config, f"{prefix}{row.name}")}

    def input_norm(self, name: str) -> str:
        """Returns the field of the norm that a layer has for "attention" or "feed_forward", before or after the block."""
        return f"{name}_norm" if f"{name}_norm.weight" in self.layers else f"{name}_input_norm"

    def names_in_memory(self, name: str) -> tuple[str, ...]:
        """Returns the names in the family's classes of a file's tensor `name`; several where the file has them as one."""
        names = [f".{name}"]
        for path, modules in self.file_modules.items():
            if f".{path}." in names[0]:
                names = [each.replace(f".{path}.", f".{module}.", 1) for each in names for module in modules]
        return tuple(each.removeprefix(".") for each in names)

    def class_name(self, task: Task) -> str:
        """Returns the name of the family's Hugging Face class for `task`."""
        return f"{self.architecture}{SPECS[task].suffix}"

    def layer_paths(self, config: Any, *, task: Task | None = None) -> tuple[str, ...]:
        """Returns the path of every layer, in order: in checkpoints, or with `task` in the task's class."""
        count = self.dimensions(config).layers
        return tuple(self.body(self.layer(config, index), task=task) for index in range(count))

    def body(self, path: str, *, task: Task | None = None) -> str:
        """Returns the path of a part of the base model: in checkpoints, or with `task` in the task's class.

        The class for features is the base model itself, whose paths have no prefix.
        """
        return path if task is not None and SPECS[task].base_model else f"{self.prefix}.{path}"

    def configured(self, config: Any) -> Family:
        """Returns the family as it is with this configuration, whose `dimensions` have been read before."""
        return replace(self, **self.variant(config), variant=_no_changes)

    @property
    def own_scores(self) -> Table:
        """Returns the rows of the tensors that each layer's scores have for themselves, by their paths in the scores."""
        return section(self.layers, "attention.scores")

    def attention_scores(self, config: Any, index: int, tensors: Mapping[str, Tensor]) -> AttentionScores:
        """Returns the scores of layer `index`; `tensors` are those of the tables `scores` and `own_scores`.

        Raises:
            KeyError: a tensor is missing; the path is the argument.
        """
        values = {"scale": self.dimensions(config).head_size ** -0.5, **self.scores_values(config, index)}
        return assemble(self.scores_kind, tensors, **values)

    def position_values(self, config: Any) -> dict[str, Any]:
        """Returns what is no tensor in the embeddings, by the names of their fields."""
        dimensions = self.dimensions(config)
        rule, longest = (self.positions, None) if dimensions.has_position_rows else ("none", dimensions.positions)
        return {
            "positions": rule,
            "longest": longest,
            "pad_token_id": dimensions.pad_token_id,
            "masked": self.masks_embeddings,
        }

    def module(self, field: str) -> str:
        """Returns the path, in a layer, of the module with the tensor `field` ("attention.query_weight")."""
        return self.layers[field].module
