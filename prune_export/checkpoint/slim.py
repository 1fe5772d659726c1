"""The slim checkpoint on disk.

    config.json        the original configuration, unchanged: AutoConfig and AutoTokenizer keep working
    slim.safetensors   the small tensors; named so that transformers does not take the folder for a checkpoint of full
                       size and fill what it misses with random weights
    pruning.json       {"format": "prune-export/slim", "version": 1, "task": …, "order": […], "layers": [{"heads": […]}]}

`order` names the stored layer of each step (shared layers are stored once); `heads` are original indices, and null where
the attention block is a constant. With rotary scores a layer that lost pairs has "pairs": the original indices of those
that each head holds. Tensors carry the names of the dataclasses in `exporters.encoder`, such as
`layers.3.attention.query_weight` `[heads, query_key_size, hidden]`. What the scores of all layers have in common, which is
every tensor of theirs without an axis of heads, is stored once, such as `scores.table` of a bias by distance.

A network with a sliced residual stream has the key "sliced" as well: {"widths": […], "epsilons": […]}, one number per norm,
the embeddings' first, then two per layer. These norms are then RMSNorms without bias, and every layer has skip matrices.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar, get_args

import msgspec
import torch
from torch import Tensor

from exporters.axes import assemble, axes_of, wrong_shapes
from exporters.encoder import (
    Attention,
    AttentionScores,
    ConstantBlock,
    Embeddings,
    Encoder,
    FeatureHead,
    FeedForward,
    Gated,
    Gating,
    Layer,
    MaskedLanguageHead,
    Norm,
    Rotary,
    SpanHead,
    TaskHead,
    TokenHead,
    Ungated,
)
from exporters.errors import WeightsError
from exporters.tasks import Task
from prune_export.checkpoint.sizes import MOST_HEADS, MOST_HIDDEN, MOST_LAYERS
from prune_export.checkpoint.weights import read_safetensors
from prune_export.facts.file_names import PLAN_FILE, SLIM
from prune_export.facts.format import Format
from prune_export.families.describe import epsilon_of, head_values
from prune_export.families.names import NORMS, Family
from prune_export.families.table import Table, section
from prune_export.files.reading import ReadingError, read_json
from prune_export.tasks import SPECS

P = TypeVar("P")

_DROPPED = ("key_bias", "value_bias")  # of attention, by surgery

_MOST_NORMS = 2 * MOST_LAYERS + 1

FORMAT = Format("prune-export/slim", 1)
SCORES = "attention.scores."  # the paths, in a layer, of the tensors of its scores


class _SlimLayer(msgspec.Struct):
    heads: Annotated[list[Annotated[int, msgspec.Meta(ge=0, lt=MOST_HEADS)]], msgspec.Meta(min_length=1)] | None
    pairs: Annotated[list[Annotated[list[int], msgspec.Meta(min_length=1)]], msgspec.Meta(min_length=1)] | None = None


class _Sliced(msgspec.Struct):
    widths: Annotated[list[Annotated[int, msgspec.Meta(ge=1, le=MOST_HIDDEN)]], msgspec.Meta(max_length=_MOST_NORMS)]
    epsilons: Annotated[
        list[Annotated[float, msgspec.Meta(ge=0, le=MOST_HIDDEN)]], msgspec.Meta(max_length=_MOST_NORMS)
    ]


class _Record(msgspec.Struct):
    format: Literal["prune-export/slim"]
    version: Literal[1]
    task: Task
    order: Annotated[list[Annotated[int, msgspec.Meta(ge=0, lt=MOST_LAYERS)]], msgspec.Meta(max_length=MOST_LAYERS)]
    layers: Annotated[list[_SlimLayer], msgspec.Meta(max_length=MOST_LAYERS)]
    sliced: _Sliced | None = None


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
    if record.sliced is not None:
        _check_sliced(record, record.sliced, folder / PLAN_FILE)
    return _Reader(tensors, path, family, config, record).encoder()


def _check_sliced(record: _Record, sliced: _Sliced, path: Path) -> None:
    norms = 2 * len(record.order) + 1
    if len(sliced.widths) != norms or len(sliced.epsilons) != norms:
        raise WeightsError(
            f"{path}: expected widths and epsilons for {norms} norms of {len(record.order)} layers; found "
            f"{len(sliced.widths)} and {len(sliced.epsilons)}"
        )
    if record.order != list(range(len(record.layers))):
        raise WeightsError(f"{path}: expected a sliced network to have layers of its own, in order; found shared ones")


def _query_key_size(layer: Layer) -> dict[str, int]:
    """Returns the size of the axis "query_key" that follows from the layer's pairs, where it has rotary scores."""
    attention = layer.attention
    if not isinstance(attention, Attention) or not isinstance(attention.scores, Rotary):
        return {}
    pairs = attention.scores.pairs
    return {"query_key": 2 * len(attention.scores.frequencies if pairs is None else pairs[0])}


class _Reader:
    """Reads parts of a description by the paths of their tensors in it."""

    def __init__(self, tensors: dict[str, Tensor], path: Path, family: Family, config: Any, record: _Record) -> None:
        self.tensors = tensors
        self.path = path
        self.family = family
        self.record = record
        self.first_use = {place: index for index, place in reversed(tuple(enumerate(record.order)))}
        self.config, self.dimensions = config, family.dimensions(config)
        self.epsilon = epsilon_of(config, self.dimensions)
        self.sliced = record.sliced

    def encoder(self) -> Encoder:
        record = self.record
        layers = [self.layer(place, layer) for place, layer in enumerate(record.layers)]
        embeddings = self.part(
            Embeddings,
            "embeddings",
            **self.norm_values(0),
            **self.family.position_values(self.config),
        )
        if "decoder.weight" in self.family.heads[record.task] and getattr(self.config, "tie_word_embeddings", True):
            self.tensors.setdefault("head.decoder.weight", embeddings.word)  # tied
        rows = self.family.present(self.family.final_norm, self.config, self.family.body(""))
        final_norm = self.norm("final_norm", rows, -1) if rows else None
        return Encoder(record.task, embeddings, tuple(layers[place] for place in record.order), self.head(), final_norm)

    def scores(self, place: int) -> AttentionScores:
        """Returns the scores of a layer; some of their tensors all layers have in common."""
        names = {path: f"scores.{path}" for path in self.family.scores}
        own = tuple(self.family.own_scores) if self.sliced is None else self.own_projections(place)
        names |= {path: f"layers.{place}.{SCORES}{path}" for path in own}
        for name in names.values():
            self.require(name)
        inside = {path: self.tensors[name] for path, name in names.items()}
        scores = self.family.attention_scores(self.config, self.first_use.get(place, 0), inside)
        sizes = self.dimensions.sizes
        self.check(scores, "scores.", {axis: sizes[axis] for axis in sizes if axis not in ("head", "query_key")})
        return scores

    def own_projections(self, place: int) -> tuple[str, ...]:
        """Returns the paths of a sliced layer's projections of distances, which are its own whatever the family's are."""
        values = self.family.scores_values(self.config, place)
        terms = (("key", "content_to_position"), ("query", "position_to_content"))
        kept = [name for name, term in terms if values.get(term)]
        biases = (f"{name}.bias" for name in kept)
        prefix = f"layers.{place}.{SCORES}"
        return (*(f"{name}.weight" for name in kept), *(path for path in biases if f"{prefix}{path}" in self.tensors))

    def with_pairs(self, scores: AttentionScores, place: int, record: _SlimLayer) -> AttentionScores:
        """Returns the scores with the pairs that each head holds, where they are rotary."""
        if record.pairs is None:
            return scores
        pairs, original = record.pairs, len(scores.frequencies) if isinstance(scores, Rotary) else 0
        right = (
            len(pairs) == len(record.heads or ())
            and len(set(map(len, pairs))) == 1
            and all(len(set(own)) == len(own) and 0 <= min(own) <= max(own) < original for own in pairs)
        )
        if not isinstance(scores, Rotary) or not right:
            raise WeightsError(
                f"{self.path.parent / PLAN_FILE}: layer {place}: expected pairs of rotary scores, for every head equally "
                f"many distinct ones below {original}; found others"
            )
        return replace(scores, pairs=tuple(map(tuple, pairs)))

    def layer(self, place: int, record: _SlimLayer) -> Layer:
        name = f"layers.{place}"
        path = f"{self.family.layer_paths(self.config)[self.first_use.get(place, 0)]}."
        table = self.family.present(self.family.layers, self.config, path)
        attention: Attention | ConstantBlock
        if record.heads is None:
            attention = self.part(ConstantBlock, f"{name}.attention")
        else:
            heads, rows = tuple(record.heads), section(table, "attention")
            scores = self.with_pairs(self.scores(place), place, record)
            attention = self.part(Attention, f"{name}.attention", rows, heads=heads, scores=scores)
            if scores.key_bias_matters and "attention.key_bias" in table:
                self.require(f"{name}.attention.key_bias")
        feed_forward: FeedForward | ConstantBlock
        if f"{name}.feed_forward.bias" in self.tensors:
            feed_forward = self.part(ConstantBlock, f"{name}.feed_forward")
        else:
            gating: Gating = Ungated(self.dimensions.activation)
            if self.family.is_gated:
                rows = section(table, "feed_forward.gating")
                gating = self.part(Gated, f"{name}.feed_forward.gating", rows, activation=self.dimensions.activation)
            rows = section(table, "feed_forward")
            feed_forward = self.part(FeedForward, f"{name}.feed_forward", rows, gating=gating)
        blocks = {"attention": attention, "feed_forward": feed_forward}
        dead = [f"{block}_input_norm" for block, value in blocks.items() if isinstance(value, ConstantBlock)]
        norms = {
            norm: self.norm(f"{name}.{norm}", section(table, norm), 2 * place + index % 2 + (index < 2))
            for index, norm in enumerate(NORMS)  # two after the blocks, and two before
            if section(table, norm) and not (norm in dead and f"{name}.{norm}.weight" not in self.tensors)
        }
        layer = Layer(
            attention=attention,
            feed_forward=feed_forward,
            **{norm: norms.get(norm) for norm in NORMS},
            attention_skip=self.skip(f"{name}.attention_skip"),
            feed_forward_skip=self.skip(f"{name}.feed_forward_skip"),
        )
        self.check(
            layer,
            f"layer {place}: ",
            dict(zip(("hidden", "middle", "output"), self.widths(place), strict=True)) | _query_key_size(layer),
        )
        return layer

    def widths(self, place: int) -> tuple[int, ...]:
        """Returns the widths of the residual stream before, within and after a layer."""
        return (
            (self.dimensions.hidden,) * 3
            if self.sliced is None
            else tuple(self.sliced.widths[2 * place : 2 * place + 3])
        )

    def norm_values(self, index: int | None) -> dict[str, Any]:
        """Returns what is not a tensor in the norm at place `index` of the residual stream; None: in another norm."""
        if self.sliced is None or index is None:
            return {"epsilon": self.epsilon, "centered": self.family.centered_norms}
        return {"epsilon": self.sliced.epsilons[index], "centered": False}

    def norm(self, name: str, table: Table, index: int) -> Norm:
        return self.part(Norm, name, table, **self.norm_values(index))

    def skip(self, name: str) -> Tensor | None:
        """Returns the skip matrix `name`, which all layers of a sliced network have, and no others."""
        if self.sliced is None:
            return None
        self.require(name)
        return self.tensors[name]

    def require(self, name: str) -> None:
        if name not in self.tensors:
            raise WeightsError(f"{self.path}: the tensor '{name}' is missing")

    def head(self) -> TaskHead:
        kind, family = SPECS[self.record.task].head, self.family
        if kind is FeatureHead and self.sliced is not None:
            self.require("head.output.weight")
        table = family.present(family.heads[self.record.task], self.config)
        return self.part(kind, "head", table, **head_values(family, self.dimensions, self.record.task))

    def part(self, kind: type[P], name: str, table: Table = MappingProxyType({}), **values: Any) -> P:
        """Reads a part of a description; all tensors in `table` must be there, but those that surgery drops."""
        prefix = f"{name}."
        inside = {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}
        try:
            part = assemble(kind, inside, **{"epsilon": self.epsilon, **values})
        except KeyError as error:
            raise WeightsError(f"{self.path}: the tensor '{prefix}{error.args[0]}' is missing") from error
        for path in table:
            is_dropped = path in _DROPPED or (isinstance(part, Norm) and not part.centered)
            if path in axes_of(kind) and not is_dropped:
                self.require(f"{prefix}{path}")
        if isinstance(part, Embeddings):
            names = ["position"] if part.positions != "none" else []
            norm = self.family.present(self.family.embeddings, self.config, self.family.body(""))
            names += [path for path in ("norm.weight", "norm.bias") if path in norm]
            for path in names:
                if not (path == "norm.bias" and part.norm is not None and not part.norm.centered):
                    self.require(f"{prefix}{path}")
        if kind is Embeddings:
            width = self.dimensions.embedding if self.sliced is None else self.sliced.widths[0]
            self.check(part, prefix, {"hidden": self.widths(0)[0], "embedding": width})
        elif kind in get_args(TaskHead):
            hidden = self.dimensions.hidden
            last = hidden if self.sliced is None else self.sliced.widths[-1]
            sizes = {"hidden": last, "pooled": hidden, "feature": hidden, "embedding": self.dimensions.embedding}
            if isinstance(part, MaskedLanguageHead) and part.transform is None:
                sizes["embedding"] = last
            if isinstance(part, SpanHead | TokenHead | MaskedLanguageHead) and part.transform is not None:
                self.check(part.transform, f"{prefix}transform.", sizes)
                self.check(replace(part, transform=None), prefix, sizes | {"hidden": hidden})  # reads what that writes
            else:
                self.check(part, prefix, sizes)
        return part

    def check(self, part: Any, where: str, sizes: dict[str, int]) -> None:
        """Checks that the shapes in a part belong together and to `sizes`, by axis."""
        for path, shape, expected in wrong_shapes(part, sizes):
            raise WeightsError(
                f"{self.path}: {where}'{path}' has shape {list(shape)}; expected {list(expected)} from config.json and "
                "pruning.json"
            )
