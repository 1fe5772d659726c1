"""The slim checkpoint on disk.

    config.json        the original configuration, unchanged: AutoConfig and AutoTokenizer keep working
    slim.safetensors   the small tensors; named so that transformers does not take the folder for a checkpoint of full
                       size and fill what it misses with random weights
    pruning.json       {"format": "prune-export/slim", "version": 1, "task": …, "order": […], "layers": [{"heads": […]}]}

`order` names the stored layer of each step (shared layers are stored once); `heads` are original indices, and null where
the attention block is a constant. Tensors carry the names of the dataclasses in `exporters.encoder`, such as
`layers.3.attention.query_weight` `[heads, query_key_size, hidden]`.
"""

from __future__ import annotations

import json
import os
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import torch
from torch import Tensor

from exporters.encoder import (
    Attention,
    ConstantBlock,
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
    Task,
    TaskHead,
    TokenHead,
)
from exporters.errors import WeightsError
from prune_export.checkpoint.sizes import MOST_HEADS, MOST_LAYERS
from prune_export.checkpoint.weights import read_safetensors
from prune_export.facts.file_names import CONFIG, PLAN_FILE, SLIM
from prune_export.families.describe import norm_type
from prune_export.families.names import Dimensions, Family
from prune_export.files.reading import ReadingError, read_json
from prune_export.files.tensors import save_tensors
from prune_export.files.transaction import transaction
from prune_export.outputs.destination import folder_destination
from prune_export.outputs.folder_types import SLIM_CHECKPOINT

FORMAT = "prune-export/slim"
VERSION = 1


def write_slim(encoder: Encoder, config: Any, folder: Path) -> None:
    """Writes `encoder` and its configuration into `folder`, which is made if needed.

    As with every checkpoint that is saved while training, an older slim one there is replaced; files that are not of one are
    not. All files are prepared aside and moved into place.

    Raises:
        OutputError: the folder holds files of these names that are not of a slim checkpoint, or cannot be written.
    """
    distinct = list({id(layer): layer for layer in encoder.layers}.values())
    order = [next(place for place, layer in enumerate(distinct) if layer is one) for one in encoder.layers]
    tensors = {
        **_named(encoder.embeddings, "embeddings"),
        **{
            name: value
            for place, layer in enumerate(distinct)
            for name, value in _named(layer, f"layers.{place}").items()
        },
        **_named(encoder.head, "head"),
    }
    if isinstance(encoder.head, MaskedLanguageHead) and encoder.head.decoder.weight is encoder.embeddings.word:
        del tensors["head.decoder.weight"]  # tied
    record = {
        "format": FORMAT,
        "version": VERSION,
        "files": [CONFIG, PLAN_FILE, SLIM],
        "task": encoder.task,
        "order": order,
        "layers": [
            {"heads": list(layer.attention.heads) if isinstance(layer.attention, Attention) else None}
            for layer in distinct
        ],
    }
    earlier = SLIM_CHECKPOINT.removable(folder)
    is_slim = earlier >= {name for name in SLIM_CHECKPOINT.files if os.path.lexists(folder / name)}
    place = folder_destination(folder, SLIM_CHECKPOINT, overwrite=is_slim)
    with transaction(place.placement) as aside:
        config.to_json_file(aside / CONFIG, use_diff=False)
        (aside / PLAN_FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        save_tensors(tensors, aside / SLIM)


def _named(part: Any, name: str) -> dict[str, Tensor]:
    if isinstance(part, Tensor):
        return {name: part}
    if is_dataclass(part):
        found: dict[str, Tensor] = {}
        for field in fields(part):
            found.update(_named(getattr(part, field.name), f"{name}.{field.name}"))
        return found
    return {}


class _Layer(msgspec.Struct):
    heads: Annotated[list[Annotated[int, msgspec.Meta(ge=0, lt=MOST_HEADS)]], msgspec.Meta(min_length=1)] | None


class _Record(msgspec.Struct):
    format: Literal["prune-export/slim"]
    version: Literal[1]
    task: Task
    order: Annotated[list[Annotated[int, msgspec.Meta(ge=0, lt=MOST_LAYERS)]], msgspec.Meta(max_length=MOST_LAYERS)]
    layers: Annotated[list[_Layer], msgspec.Meta(max_length=MOST_LAYERS)]


def read_slim(folder: Path, family: Family, config: Any) -> Encoder:
    """Reads a slim checkpoint.

    Raises:
        WeightsError: a file is missing, damaged, or not ours.
    """
    path = folder / PLAN_FILE
    try:
        record = read_json(path, _Record)
    except ReadingError as error:
        raise WeightsError(
            f"{path}: expected the record of a slim checkpoint ({FORMAT}, version {VERSION}): {error}"
        ) from error
    tensors = read_safetensors(folder / SLIM)
    dimensions = family.dimensions(config)
    reader = _Reader(tensors, family, dimensions, None if norm_type(config) == "no_norm" else dimensions.epsilon)
    try:
        distinct = [reader.layer(f"layers.{place}", layer.heads) for place, layer in enumerate(record.layers)]
        embeddings = reader.embeddings()
        layers = tuple(distinct[place] for place in record.order)
        encoder = Encoder(record.task, embeddings, layers, reader.head(record.task, embeddings.word))
    except (KeyError, IndexError) as error:
        raise WeightsError(f"{folder / SLIM}: the tensor {error} is missing") from error
    _check(encoder, tensors, dimensions, folder / SLIM)
    return encoder


def _check(encoder: Encoder, tensors: dict[str, Tensor], dimensions: Dimensions, path: Path) -> None:
    """The same promises that other checkpoints are held to: finite values, and shapes that belong together."""
    for name, values in tensors.items():
        if not torch.isfinite(values).all():
            count = int((~torch.isfinite(values)).sum())
            raise WeightsError(f"{path}: the tensor '{name}' holds {count} NaN or infinite values of {values.numel()}")
    hidden = dimensions.hidden
    for index, layer in enumerate(encoder.layers):
        expected: dict[str, tuple[Tensor, tuple[int, ...]]] = {
            "attention_norm.weight": (layer.attention_norm.weight, (hidden,))
        }
        match layer.attention:
            case ConstantBlock(bias):
                expected["attention.bias"] = (bias, (hidden,))
            case Attention() as block:
                heads, query_key, value = len(block.heads), block.query_key_size, block.value_size
                expected |= {
                    "attention.query_weight": (block.query_weight, (heads, query_key, hidden)),
                    "attention.query_bias": (block.query_bias, (heads, query_key)),
                    "attention.key_weight": (block.key_weight, (heads, query_key, hidden)),
                    "attention.value_weight": (block.value_weight, (heads, value, hidden)),
                    "attention.output_weight": (block.output_weight, (hidden, heads, value)),
                    "attention.output_bias": (block.output_bias, (hidden,)),
                }
        match layer.feed_forward:
            case ConstantBlock(bias):
                expected["feed_forward.bias"] = (bias, (hidden,))
            case FeedForward(up, _, down):
                columns = up.weight.shape[0]
                expected |= {
                    "feed_forward.up.weight": (up.weight, (columns, hidden)),
                    "feed_forward.up.bias": (up.bias, (columns,)),
                    "feed_forward.down.weight": (down.weight, (hidden, columns)),
                    "feed_forward.down.bias": (down.bias, (hidden,)),
                }
        for name, (tensor, shape) in expected.items():
            if tuple(tensor.shape) != shape:
                raise WeightsError(
                    f"{path}: layer {index}: '{name}' has shape {list(tensor.shape)}; expected {list(shape)} from "
                    "config.json and pruning.json"
                )


class _Reader:
    def __init__(
        self, tensors: dict[str, Tensor], family: Family, dimensions: Dimensions, epsilon: float | None
    ) -> None:
        self.tensors = tensors
        self.family = family
        self.dimensions = dimensions
        self.epsilon = epsilon

    def linear(self, name: str) -> Linear:
        return Linear(self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"])

    def norm(self, name: str) -> Norm:
        return Norm(self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"], self.epsilon)

    def embeddings(self) -> Embeddings:
        return Embeddings(
            word=self.tensors["embeddings.word"],
            position=self.tensors["embeddings.position"],
            token_type=self.tensors.get("embeddings.token_type"),
            norm=self.norm("embeddings.norm"),
            projection=self.linear("embeddings.projection") if "embeddings.projection.weight" in self.tensors else None,
            positions="from_padding" if self.family.positions_from_padding else "absolute",
            pad_token_id=self.dimensions.pad_token_id,
        )

    def layer(self, name: str, heads: list[int] | None) -> Layer:
        return Layer(
            attention=self.attention(f"{name}.attention", heads),
            attention_norm=self.norm(f"{name}.attention_norm"),
            feed_forward=self.feed_forward(f"{name}.feed_forward"),
            feed_forward_norm=self.norm(f"{name}.feed_forward_norm"),
        )

    def attention(self, name: str, heads: list[int] | None) -> Attention | ConstantBlock:
        if heads is None:
            return ConstantBlock(self.tensors[f"{name}.bias"])
        return Attention(
            heads=tuple(heads),
            query_weight=self.tensors[f"{name}.query_weight"],
            query_bias=self.tensors[f"{name}.query_bias"],
            key_weight=self.tensors[f"{name}.key_weight"],
            key_bias=self.tensors.get(f"{name}.key_bias"),
            value_weight=self.tensors[f"{name}.value_weight"],
            value_bias=self.tensors.get(f"{name}.value_bias"),
            output_weight=self.tensors[f"{name}.output_weight"],
            output_bias=self.tensors[f"{name}.output_bias"],
            scale=self.dimensions.head_size**-0.5,
        )

    def feed_forward(self, name: str) -> FeedForward | ConstantBlock:
        if f"{name}.bias" in self.tensors:
            return ConstantBlock(self.tensors[f"{name}.bias"])
        return FeedForward(self.linear(f"{name}.up"), self.dimensions.activation, self.linear(f"{name}.down"))

    def head(self, task: str, word: Tensor) -> TaskHead:
        match task:
            case "question-answering":
                return SpanHead(self.linear("head.output"))
            case "token-classification":
                return TokenHead(self.linear("head.output"))
            case "text-classification":
                activation = self.family.sequence_head.activation
                return SequenceHead(self.linear("head.dense"), activation, self.linear("head.output"))
            case "fill-mask":
                activation = self.family.masked_language_head.activation or self.dimensions.activation
                weight = self.tensors.get("head.decoder.weight", word)
                decoder = Linear(weight, self.tensors["head.decoder.bias"])
                return MaskedLanguageHead(self.linear("head.dense"), activation, self.norm("head.norm"), decoder)
            case _:
                return FeatureHead()
