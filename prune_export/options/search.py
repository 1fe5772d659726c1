"""The options of `search`."""

from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated

from exporters.errors import UsageError
from exporters.providers import CPU, PROVIDERS
from prune_export.options.checkpoint import HubAccess, ModelOption, TaskOption
from prune_export.options.listening import Listening
from prune_export.options.option import Option, Options
from prune_export.options.prune import CalibrationData
from prune_export.options.ranges import COUNT, COUNT_OR_NONE, KEPT_FRACTION, NOT_NEGATIVE, POSITIVE, SAMPLE_COUNT
from prune_export.options.timing import TimingConditions

LADDERS, FPTAS = METHODS = ("ladders", "fptas")


class SearchSpace(Options, title="what may change"):
    """The axes of the space."""

    widths: Annotated[
        bool, Option("narrow the residual stream, too; what is written then are slim checkpoints", flag="--widths")
    ] = False
    depth: Annotated[int | None, Option("at most so many layers keep something", "N", COUNT, default="all")] = None
    align: Annotated[int, Option("columns in multiples of N", "N", COUNT)] = 32
    keep_layers: Annotated[
        Sequence[int], Option("layers, from 0, that lose nothing", "N", COUNT_OR_NONE, nargs="+")
    ] = ()
    uniform: Annotated[
        bool, Option("all layers alike and one width; what is written are plain checkpoints", flag="--uniform")
    ] = False
    space: Annotated[
        str | Path | None,
        Option("the sizes of uniform networks, in TOML", "TOML", default="Bort's, scaled to the model", is_path=True),
    ] = None


class SearchMethod(Options, title="method"):
    """The algorithm; `fptas` is the published one, for uniform networks."""

    method: Annotated[str, Option("ladders: ours; fptas: the published algorithm", choices=METHODS)] = LADDERS
    epsilon: Annotated[
        float | None, Option("of fptas: the part of the space between two shapes", "X", KEPT_FRACTION, default="0.1")
    ] = None
    steps: Annotated[int | None, Option("of fptas: of each short training", "N", COUNT_OR_NONE, default="50")] = None
    inherit: Annotated[bool, Option("of fptas: train from the model's weights, not from random ones")] = False


class SearchEffort(Options, title="search"):
    """How long the search goes on, and how much of its front is measured."""

    evaluations: Annotated[int, Option("candidates that are judged", "N", COUNT)] = 200
    points: Annotated[int, Option("points of the front that are refitted and measured", "N", COUNT)] = 10
    max_divergence: Annotated[
        float,
        Option("the front ends where answers diverge more, as predicted; not for uniform networks", "X", POSITIVE),
    ] = 1.0
    device: Annotated[str, Option("where to calibrate", choices=tuple(PROVIDERS))] = CPU.name


class PointChoice(Options, title="which point is written as a checkpoint: the fastest within all limits"):
    """The point of the front that is written."""

    max_loss: Annotated[
        float | None, Option("points of the metric that it may lose; without labels, divergence", "X", NOT_NEGATIVE)
    ] = None
    latency_ms: Annotated[float | None, Option("milliseconds for a batch", "X", POSITIVE)] = None
    max_mib: Annotated[float | None, Option("MiB of its file", "X", POSITIVE)] = None
    best_w: Annotated[bool, Option("the point with the greatest W-coefficient")] = False
    point: Annotated[str | None, Option("a point by its name in the table", "NAME")] = None


class SearchOutput(Options, title="output"):
    output: Annotated[
        str | Path,
        Option("the search's folder: front.json, front.svg, the journal, and checkpoint/", "DIR", is_path=True),
    ] = field(kw_only=False)


class SearchData(CalibrationData, title="data"):
    samples: Annotated[
        int, Option("examples: half to fit, an eighth to search, the rest to judge", "N", SAMPLE_COUNT)
    ] = 1024


class SearchOptions(
    Listening,
    HubAccess,
    TaskOption,
    TimingConditions,
    SearchEffort,
    SearchMethod,
    SearchSpace,
    PointChoice,
    SearchOutput,
    SearchData,
    ModelOption,
):
    """All that `search` takes."""

    @property
    def is_uniform(self) -> bool:
        """Says whether the search is over shapes."""
        return self.uniform or self.method == FPTAS

    def check_combination(self) -> None:
        """Checks that the options make sense together.

        Raises:
            UsageError: one has no meaning beside another one.
        """
        for name in ("epsilon", "steps", "inherit"):
            if self.method != FPTAS:
                self._refuse(name, "is for --method fptas", "leave it out, or add --method fptas")
        for name in ("widths", "align", "keep_layers", "max_divergence"):
            if self.is_uniform:
                self._refuse(
                    name, "is not for uniform networks, whose layers are alike", "leave it out, or give --space"
                )
        for name in ("evaluations", "points"):
            if self.method == FPTAS:
                self._refuse(
                    name, "is not for --method fptas, which gives one shape", "leave it out, or give --epsilon"
                )
        if not self.is_uniform:
            self._refuse("space", "is for uniform networks", "add --uniform or --method fptas")

    def _refuse(self, name: str, reason: str, advice: str) -> None:
        value, default = getattr(self, name), getattr(SearchOptions, name)
        if value != default:
            given = "" if value is True else f" {' '.join(map(str, value)) if isinstance(value, tuple) else value}"
            raise UsageError(f"--{name.replace('_', '-')}{given}: {reason}; {advice}")
