"""How a model is compared with the original: on random tokens and real text, and by the task's metric on data."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from prune_export.options.option import Option, Options
from prune_export.options.ranges import COUNT, NOT_NEGATIVE, PARITY_SAMPLES, POSITIVE, SEEDS

if TYPE_CHECKING:
    from prune_export.data.examples import Data

SAMPLES = 16  # of a thorough comparison
MAX_LOSS = 0.5  # points: what an 8-bit network of ours may lose at most
EXAMPLES = 1000

_THOROUGH = "compare many random batches of every size, up to the longest input; otherwise a few that take seconds"


class Seeded(Options, title="parity"):
    seed: Annotated[int, Option("seed of the random batches", "N", SEEDS)] = 0


class ParityOptions(Seeded, title="parity"):
    """How the answers are compared. A subclass decides whether comparisons are `thorough` by default."""

    atol: Annotated[
        float | None,
        Option(
            "pass at max|Δ| <= X * max(1, max|reference|)",
            "X",
            POSITIVE,
            default="1e-4 for fp32, 2e-2 for fp16, 0.3 for int8",
        ),
    ] = None
    thorough: Annotated[bool, Option(_THOROUGH, default="--no-thorough", is_two_way=True)] = False
    samples: Annotated[
        int | None,
        Option("random batches of a thorough comparison", "N", PARITY_SAMPLES, default=str(SAMPLES)),
    ] = None

    @property
    def random_batches(self) -> int | None:
        """How many random batches are compared; None: those of the budget, which is neither thorough nor counted."""
        return SAMPLES if self.thorough and self.samples is None else self.samples


class ThoroughParity(ParityOptions, title="parity"):
    thorough: Annotated[bool, Option(_THOROUGH, default="--thorough", is_two_way=True)] = True


class ExampleOptions(Seeded, title="quality"):
    """Which examples of the data are used."""

    dataset: Annotated[str | None, Option("the GLUE task (or own), where the data cannot tell", "NAME")] = None
    limit: Annotated[int | None, Option("examples to use, drawn by --seed", "N", COUNT, default=str(EXAMPLES))] = None


class QualityOptions(ExampleOptions, title="quality"):
    """By which data and how strictly the task's metric is judged."""

    data: Annotated[
        "str | Path | Data | None",
        Option("also compare the task's official metric on this data (what evaluate takes)", "DATA"),
    ] = None
    max_loss: Annotated[
        float | None, Option("points of the metric that may be lost", "X", NOT_NEGATIVE, default=str(MAX_LOSS))
    ] = None
