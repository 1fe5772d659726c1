"""The options of `export`."""

from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from prune_export.options.checkpoint import HubAccess, ModelOption, PlanOption, TaskOption
from prune_export.options.listening import Listening
from prune_export.options.option import Option, Options
from prune_export.options.output import OverwriteOption
from prune_export.options.parity import ParityOptions, QualityOptions, ToleranceOption
from prune_export.options.ranges import COUNT
from prune_export.options.targets import DTYPES, TARGETS

if TYPE_CHECKING:
    from prune_export.data.examples import Data


class GraphOptions(Options, title="model"):
    """For what the graph is written."""

    target: Annotated[
        str,
        Option(
            "auto: cuda where its provider starts, else cpu; portable: ai.onnx operations only; cuda-packed: computes "
            "nothing for padding",
            choices=TARGETS,
            is_open=True,
        ),
    ] = "auto"
    dtype: Annotated[str, Option(choices=DTYPES)] = "fp32"
    opset: Annotated[int | None, Option("ai.onnx opset", "N", COUNT, default="the target's")] = None


class QuantizationOptions(QualityOptions, title="int8"):
    """What int8 does beyond its defaults; `calibration` makes it static, on examples that are drawn like those of `data`."""

    calibration: Annotated[
        "str | Path | Data | None",
        Option("quantize activations by the ranges that they take on this data", "DATA", default="by each input's own"),
    ] = None
    keep_float: Annotated[
        Sequence[str],
        Option(
            "layers, blocks or linear maps that stay in fp32: layer_3, layer_3/feed_forward, layer_3/feed_forward/down",
            "NAME",
            nargs="+",
        ),
    ] = ()
    quantize_embeddings: Annotated[bool, Option("store word embeddings in 8 bits")] = False


class ModelOutput(Options, title="output"):
    output: Annotated[str | Path, Option("a file (out/model.onnx) or a folder", "O", is_required=False)] = field(
        kw_only=False
    )


class VerifyOption(Options, title="parity"):
    verify: Annotated[bool, Option("skip parity; the record says so")] = True


class ExportOptions(
    Listening,
    HubAccess,
    OverwriteOption,
    QuantizationOptions,
    QualityOptions,
    ParityOptions,
    VerifyOption,
    ToleranceOption,
    PlanOption,
    GraphOptions,
    TaskOption,
    ModelOutput,
    ModelOption,
):
    """All that `export` takes."""
