"""The attempts of an export to quantize a network, in order, until one is good enough."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from exporters.errors import UsageError
from exporters.onnx.context import Target
from exporters.onnx.precision import Precision, Quantization
from exporters.onnx.writer import quantizable_maps
from prune_export.checkpoint.inspection import Inspection
from prune_export.checkpoint.tokenizer import load_tokenizer, read_config
from prune_export.options.export import QuantizationOptions
from prune_export.options.option import fields_of
from prune_export.parity.inputs import Batch, text_tokenizer
from prune_export.parity.quality import read_sample
from prune_export.progress import Progress
from prune_export.quantization.ranges import observe_ranges
from prune_export.quantization.samples import data_batches, text_batches
from prune_export.quantization.sensitivity import BlockLoss, quantized_blocks, rank_blocks, with_worst_in_float

RANKING_EXAMPLES = 32  # enough to tell a block that breaks the network from one that does not


def check_options(options: QuantizationOptions, precision: Precision) -> None:
    """Checks that options for int8 come with int8.

    Raises:
        UsageError: they come with another precision.
    """
    own = [field for field in fields_of(QuantizationOptions) if field.group == QuantizationOptions.TITLE]
    given = [field.flag for field in own if getattr(options, field.name) != field.default]
    if not precision.quantized and given:
        raise UsageError(f"{', '.join(given)}: for --dtype int8 only; found --dtype {precision.name}")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt. `worst` are the blocks that were measured to lose most, and stay in fp32."""

    quantization: Quantization
    maps: int
    calibrated_on: str | None = None
    worst: tuple[BlockLoss, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Returns the attempt for the record."""
        kept = self.quantization.keep_float
        return {
            "activations": "static" if self.quantization.ranges is not None else "dynamic",
            "calibrated_on": self.calibrated_on,
            "embeddings": self.quantization.embeddings,
            "maps": self.maps - len(kept),
            "float_maps": sorted(kept),
            "measured": [{"block": loss.block, "error": loss.error} for loss in self.worst],
        }


def attempts(
    inspection: Inspection, target: Target, precision: Precision, options: QuantizationOptions, *, progress: Progress
) -> Iterator[Attempt]:
    """Yields the attempts: the requested quantization, then ever more of the worst blocks in fp32, which are costly to find.

    One attempt where `precision` is floating point.

    Raises:
        UsageError: `keep_float` names nothing.
        DataError, CheckpointError: the calibration data or the tokenizer cannot be read.
    """
    if not precision.quantized:
        yield Attempt(Quantization(), 0)
        return
    encoder = inspection.slim
    maps = quantizable_maps(encoder)
    ranges, calibrated_on, batches = None, None, None
    if options.calibration is not None:
        data = read_sample(options.calibration, encoder.task, options, purpose="calibration")
        folder = inspection.checkpoint.source.folder
        batches = data_batches(data, encoder, read_config(folder), load_tokenizer(folder))
        calibrated_on = "; ".join((f"{len(data.examples)} examples of {data.name}", *data.notes))
        progress.stage("Observing ranges", len(batches))
        ranges = observe_ranges(encoder, target, batches, advance=progress.advance)
    base = Quantization(_named(options.keep_float, maps), options.quantize_embeddings, ranges)
    first = Attempt(base, len(maps), calibrated_on)
    yield first
    progress.stage("Finding the blocks that lose most", len(quantized_blocks(encoder, base)))
    seen = _few(batches) if batches is not None else _texts(inspection, options.seed)
    ranked = rank_blocks(encoder, target, base, seen, advance=progress.advance)
    for quantization, worst in with_worst_in_float(base, ranked):
        yield replace(first, quantization=quantization, worst=worst)


def _named(keep_float: Sequence[str], maps: tuple[str, ...]) -> frozenset[str]:
    """Returns the linear maps that `keep_float` names: maps, blocks or layers."""
    names: set[str] = set()
    for name in keep_float:
        matches = {linear_map for linear_map in maps if linear_map == name or linear_map.startswith(f"{name}/")}
        if not matches:
            raise UsageError(
                f"--keep-float {name}: no linear map, block or layer has this name; expected names such as "
                f"{maps[0]}, {maps[0].rsplit('/', 1)[0]} or {maps[0].split('/', maxsplit=1)[0]}"
            )
        names |= matches
    return frozenset(names)


def _few(batches: tuple[Batch, ...]) -> tuple[Batch, ...]:
    """Returns the first batches, until they have enough rows."""
    chosen: list[Batch] = []
    rows = 0
    for batch in batches:
        if rows >= RANKING_EXAMPLES:
            break
        chosen.append(batch)
        rows += len(batch["input_ids"])
    return tuple(chosen)


def _texts(inspection: Inspection, seed: int) -> tuple[Batch, ...]:
    encoder = inspection.checkpoint.encoder
    tokenizer, _ = text_tokenizer(inspection.checkpoint.source.folder, encoder)
    return text_batches(encoder, tokenizer, seed=seed)
