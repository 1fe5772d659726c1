"""The options of `prune`."""

from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

from exporters.providers import CPU, PROVIDERS
from prune_export.options.checkpoint import HubAccess, ModelOption, TaskOption
from prune_export.options.listening import Listening
from prune_export.options.option import Option, Options
from prune_export.options.output import OverwriteOption
from prune_export.options.ranges import (
    COUNT,
    COUNT_OR_NONE,
    FACTOR,
    FRACTION,
    KEPT_FRACTION,
    POSITIVE,
    SAMPLE_COUNT,
    SEEDS,
)
from prune_export.options.timing import TimingConditions

if TYPE_CHECKING:
    from prune_export.pruning.calibration import Source

Method = Literal["obs", "fisher", "taylor", "magnitude", "random"]
Reconstruction = Literal["full", "scales", "none"]


class CalibrationData(Options, title="data"):
    """Which examples the network is pruned with."""

    calibration: Annotated[
        "Source | Sequence[Source]",
        Option(
            "examples with answers or labels: SQuAD .json, MRQA .jsonl.gz, a GLUE .tsv, or a name for datasets; "
            "several are mixed",
            "DATA",
            nargs="+",
        ),
    ] = field(kw_only=False)
    samples: Annotated[int, Option("examples that are used", "N", SAMPLE_COUNT)] = 1024
    seed: Annotated[int, Option("which examples", "N", SEEDS)] = 0
    dataset: Annotated[str | None, Option("the GLUE task, where the data cannot tell", "NAME")] = None
    labels: Annotated[Sequence[str] | None, Option("the model's classes in order", "LABEL", nargs="+")] = None
    max_seq_length: Annotated[int | None, Option("tokens", "N", COUNT, default="384 for questions, 128 for texts")] = (
        None
    )


class Budgets(Options, title="budget: what stays, one or more; several write one folder each"):
    """What stays: fractions of the unpruned network, a speed, or the size of the exported file."""

    flops: Annotated[
        float | Sequence[float] | None, Option("fraction of the encoder's FLOPs", "X", KEPT_FRACTION, nargs="+")
    ] = None
    parameters: Annotated[
        float | Sequence[float] | None, Option("fraction of the layers' parameters", "X", KEPT_FRACTION, nargs="+")
    ] = None
    speedup: Annotated[
        float | Sequence[float] | None, Option("times as fast as the unpruned network", "X", FACTOR, nargs="+")
    ] = None
    latency_ms: Annotated[
        float | Sequence[float] | None, Option("milliseconds for a batch", "X", POSITIVE, nargs="+")
    ] = None
    max_mib: Annotated[
        float | Sequence[float] | None,
        Option("MiB of the exported file, as --target and --dtype", "X", POSITIVE, nargs="+"),
    ] = None
    heads: Annotated[float | None, Option("fraction of the heads", "X", FRACTION)] = None
    columns: Annotated[float | None, Option("fraction of the feed-forward columns", "X", FRACTION)] = None
    tolerance: Annotated[
        float,
        Option("how much slower than --speedup or --latency-ms it may be, as a fraction of the time", "X", FRACTION),
    ] = 0.05


class PruningMethod(Options, title="method"):
    """How the parts that go are chosen, and how the rest is refitted."""

    method: Annotated[Method, Option("scores", choices=get_args(Method))] = "obs"
    rearrangement: Annotated[bool, Option("keep the units with the best single scores")] = True
    reconstruction: Annotated[
        Reconstruction,
        Option("refit weights that stay, one scale a unit, or nothing", choices=get_args(Reconstruction)),
    ] = "full"
    gradual: Annotated[bool, Option("prune in one step, however far")] = True
    device: Annotated[str, Option("where to calibrate", choices=tuple(PROVIDERS))] = CPU.name


class PruningRules(Options, title="method"):
    """What selection has to observe."""

    align: Annotated[
        int | None, Option("columns in multiples of N", "N", COUNT, default="32 for budgets in time, else 1")
    ] = None
    keep_layers: Annotated[
        Sequence[int], Option("layers, from 0, that lose nothing", "N", COUNT_OR_NONE, nargs="+")
    ] = ()
    drop_layers: Annotated[bool, Option("whether whole blocks may go", default="yes", is_two_way=True)] = True


class CheckpointOutput(Options, title="output"):
    output: Annotated[str | Path, Option("the masked checkpoint's folder", "DIR", is_path=True)] = field(kw_only=False)


class PruneOptions(
    Listening,
    HubAccess,
    OverwriteOption,
    TaskOption,
    TimingConditions,
    PruningRules,
    PruningMethod,
    Budgets,
    CheckpointOutput,
    CalibrationData,
    ModelOption,
):
    """All that `prune` takes."""
