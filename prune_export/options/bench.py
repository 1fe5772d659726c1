"""The options of `bench`."""

from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated

from exporters.providers import PROVIDERS
from prune_export.options.checkpoint import HubAccess, TaskOption
from prune_export.options.listening import Listening
from prune_export.options.option import Option, Options
from prune_export.options.ranges import BATCH_SIZE, COUNT, PADDING, POSITIVE, THREADS
from prune_export.options.targets import FLOAT_DTYPES

ROUNDS, QUICK_ROUNDS = 5, 3
SECONDS, QUICK_SECONDS = 2.0, 0.5
SEQUENCE_LENGTHS, QUICK_SEQUENCE_LENGTHS = (128, 384), (128,)


class BenchRows(Options, title="rows"):
    """What is measured."""

    model: Annotated[
        str | Path | None,
        Option("a checkpoint's folder, or a hub id (owner/name)", "M", group="checkpoint"),
    ] = field(default=None, kw_only=False)
    onnx: Annotated[
        Sequence[str | Path], Option("exported folders or .onnx files", "O", nargs="+", action="extend")
    ] = field(default=(), kw_only=False)
    rows: Annotated[
        Sequence[str] | None, Option("rows made of the checkpoint", "ROW", nargs="+", default="pytorch slim")
    ] = None


class RunConditions(Options, title="conditions"):
    """Where and how long rows run. None stands for what `quick` decides."""

    provider: Annotated[str, Option(choices=tuple(PROVIDERS))] = "cpu"
    dtype: Annotated[str, Option("of the rows made of the checkpoint", choices=FLOAT_DTYPES)] = "fp32"
    threads: Annotated[int | None, Option("threads of a row", "N", THREADS, default="one a physical core")] = None
    padding: Annotated[float, Option("fraction of padding", "X", PADDING)] = 0.0
    cuda_graphs: Annotated[bool, Option("ONNX and compiled rows replay captured CUDA graphs")] = False
    rounds: Annotated[
        int | None, Option("alternating rounds", "N", COUNT, default=f"{ROUNDS}; quick: {QUICK_ROUNDS}")
    ] = None
    seconds: Annotated[
        float | None,
        Option("a row, round and shape", "S", POSITIVE, default=f"{SECONDS:g}; quick: {QUICK_SECONDS:g}"),
    ] = None
    quick: Annotated[bool, Option("a first look in a minute or so, at length 128")] = False

    @property
    def rounds_or_default(self) -> int:
        return self.rounds or (QUICK_ROUNDS if self.quick else ROUNDS)

    @property
    def seconds_or_default(self) -> float:
        return self.seconds or (QUICK_SECONDS if self.quick else SECONDS)


class Shapes(Options, title="conditions"):
    batch_sizes: Annotated[Sequence[int], Option("", "B", BATCH_SIZE, flag="--batch-size", nargs="+")] = (1, 8)
    sequence_lengths: Annotated[
        Sequence[int] | None,
        Option("", "N", COUNT, flag="--sequence-length", nargs="+", default="128 384; quick: 128"),
    ] = None


class BenchOptions(Listening, HubAccess, RunConditions, TaskOption, Shapes, BenchRows):
    """All that `bench` takes."""
