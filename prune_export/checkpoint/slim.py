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
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import msgspec
import torch
from torch import Tensor

from exporters.axes import assemble, named_tensors, wrong_shapes
from exporters.encoder import (
    Attention,
    ConstantBlock,
    DotProduct,
    Embeddings,
    Encoder,
    FeedForward,
    Layer,
    MaskedLanguageHead,
    Norm,
    TaskHead,
    Ungated,
)
from exporters.errors import WeightsError
from exporters.tasks import Task
from prune_export.checkpoint.sizes import MOST_HEADS, MOST_LAYERS
from prune_export.checkpoint.weights import read_safetensors
from prune_export.facts.file_names import CONFIG, PLAN_FILE, SLIM
from prune_export.facts.format import Format
from prune_export.families.describe import epsilon_of
from prune_export.families.names import Family
from prune_export.files.reading import ReadingError, read_json
from prune_export.files.tensors import save_tensors
from prune_export.files.transaction import transaction
from prune_export.outputs.destination import folder_destination
from prune_export.outputs.folder_types import SLIM_CHECKPOINT
from prune_export.tasks import SPECS

P = TypeVar("P")

FORMAT = Format("prune-export/slim", 1)


def write_slim(encoder: Encoder, config: Any, folder: Path) -> None:
    """Writes `encoder` and its configuration into `folder`, which is made if needed.

    As with every checkpoint that is saved while training, an older slim one there is replaced; files that are not of one are
    not. All files are prepared aside and moved into place.

    Raises:
        OutputError: the folder holds files of these names that are not of a slim checkpoint, or cannot be written.
    """
    tensors = {f"embeddings.{path}": value for path, value in named_tensors(encoder.embeddings).items()}
    for index, layer in enumerate(encoder.distinct_layers):
        tensors |= {f"layers.{index}.{path}": value for path, value in named_tensors(layer).items()}
    tensors |= {f"head.{path}": value for path, value in named_tensors(encoder.head).items()}
    if isinstance(encoder.head, MaskedLanguageHead) and encoder.head.decoder.weight is encoder.embeddings.word:
        del tensors["head.decoder.weight"]  # tied
    record = FORMAT.marked(
        {
            "files": [CONFIG, PLAN_FILE, SLIM],
            "task": encoder.task,
            "order": list(encoder.layer_indices),
            "layers": [
                {"heads": list(layer.attention.heads) if isinstance(layer.attention, Attention) else None}
                for layer in encoder.distinct_layers
            ],
        }
    )
    earlier = SLIM_CHECKPOINT.removable(folder)
    is_slim = earlier >= {name for name in SLIM_CHECKPOINT.files if os.path.lexists(folder / name)}
    place = folder_destination(folder, SLIM_CHECKPOINT, overwrite=is_slim)
    with transaction(place.placement) as aside:
        config.to_json_file(aside / CONFIG, use_diff=False)
        (aside / PLAN_FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        save_tensors(tensors, aside / SLIM)


class _SlimLayer(msgspec.Struct):
    heads: Annotated[list[Annotated[int, msgspec.Meta(ge=0, lt=MOST_HEADS)]], msgspec.Meta(min_length=1)] | None


class _Record(msgspec.Struct):
    format: Literal["prune-export/slim"]
    version: Literal[1]
    task: Task
    order: Annotated[list[Annotated[int, msgspec.Meta(ge=0, lt=MOST_LAYERS)]], msgspec.Meta(max_length=MOST_LAYERS)]
    layers: Annotated[list[_SlimLayer], msgspec.Meta(max_length=MOST_LAYERS)]


def read_slim(folder: Path, family: Family, config: Any) -> Encoder:
    """Reads a slim checkpoint.

    Raises:
        WeightsError: a file is missing, damaged, or not ours.
    """
    path = folder / PLAN_FILE
    try:
        record = read_json(path, _Record)
    except ReadingError as error:
        raise WeightsError(f"{path}: expected the record of a slim checkpoint ({FORMAT}): {error}") from error
    path = folder / SLIM
    tensors = read_safetensors(path)
    for name, values in tensors.items():
        if not torch.isfinite(values).all():
            count = int((~torch.isfinite(values)).sum())
            raise WeightsError(f"{path}: the tensor '{name}' holds {count} NaN or infinite values of {values.numel()}")
    if any(place >= len(record.layers) for place in record.order):
        raise WeightsError(f"{folder / PLAN_FILE}: the order names layer {max(record.order)} of {len(record.layers)}")
    return _Reader(tensors, path, family, config).encoder(record)


class _Reader:
    """Reads parts of a description by the paths of their tensors in it."""

    def __init__(self, tensors: dict[str, Tensor], path: Path, family: Family, config: Any) -> None:
        self.tensors = tensors
        self.path = path
        self.family = family
        self.dimensions = family.dimensions(config)
        self.epsilon = epsilon_of(config, self.dimensions)

    def encoder(self, record: _Record) -> Encoder:
        layers = [self.layer(place, layer.heads) for place, layer in enumerate(record.layers)]
        embeddings = self.part(
            Embeddings,
            "embeddings",
            positions="from_padding" if self.family.positions_from_padding else "absolute",
            pad_token_id=self.dimensions.pad_token_id,
        )
        if "decoder.weight" in self.family.heads[record.task]:
            self.tensors.setdefault("head.decoder.weight", embeddings.word)  # tied
        activation = self.family.activations.get(record.task) or self.dimensions.activation
        head = self.part(SPECS[record.task].head, "head", activation=activation)
        return Encoder(record.task, embeddings, tuple(layers[place] for place in record.order), head)

    def layer(self, place: int, heads: list[int] | None) -> Layer:
        name = f"layers.{place}"
        attention: Attention | ConstantBlock
        if heads is None:
            attention = self.part(ConstantBlock, f"{name}.attention")
        else:
            scores = DotProduct(self.dimensions.head_size**-0.5)
            attention = self.part(Attention, f"{name}.attention", heads=tuple(heads), scores=scores)
        feed_forward: FeedForward | ConstantBlock
        if f"{name}.feed_forward.bias" in self.tensors:
            feed_forward = self.part(ConstantBlock, f"{name}.feed_forward")
        else:
            gating = Ungated(self.dimensions.activation)
            feed_forward = self.part(FeedForward, f"{name}.feed_forward", gating=gating)
        layer = Layer(
            attention=attention,
            attention_norm=self.part(Norm, f"{name}.attention_norm"),
            feed_forward=feed_forward,
            feed_forward_norm=self.part(Norm, f"{name}.feed_forward_norm"),
        )
        self.check(layer, f"layer {place}: ")
        return layer

    def part(self, kind: type[P], name: str, **values: Any) -> P:
        prefix = f"{name}."
        inside = {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}
        try:
            part = assemble(kind, inside, epsilon=self.epsilon, **values)
        except KeyError as error:
            raise WeightsError(f"{self.path}: the tensor '{prefix}{error.args[0]}' is missing") from error
        if kind in (Embeddings, *get_args(TaskHead)):
            self.check(part, prefix)
        return part

    def check(self, part: Any, where: str) -> None:
        """Checks that the shapes in a part belong together and to config.json."""
        hidden = self.dimensions.hidden
        known = {"hidden": hidden, "pooled": hidden, "embedding": self.dimensions.embedding}
        for path, shape, expected in wrong_shapes(part, known):
            raise WeightsError(
                f"{self.path}: {where}'{path}' has shape {list(shape)}; expected {list(expected)} from config.json and "
                "pruning.json"
            )
