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

THOROUGH = "compare many random batches of every size, up to the longest input; otherwise a few that take seconds"


class ToleranceOption(Options, title="parity"):
    atol: Annotated[
        float | None,
        Option(
            "pass at max|Δ| <= X * max(1, max|reference|)",
            "X",
            POSITIVE,
            default="1e-4 for fp32, 2e-2 for fp16, 0.3 for int8",
        ),
    ] = None


class ParityOptions(Options, title="parity"):
    """On what the answers are compared."""

    thorough: Annotated[bool, Option(THOROUGH, default="--no-thorough", is_two_way=True)] = False
    samples: Annotated[
        int | None,
        Option("random batches of a thorough comparison", "N", PARITY_SAMPLES, default=str(SAMPLES)),
    ] = None
    seed: Annotated[int, Option("seed of the random batches", "N", SEEDS)] = 0

    @property
    def random_batches(self) -> int | None:
        """How many random batches are compared; None: those of the budget, which is neither thorough nor counted."""
        return SAMPLES if self.thorough and self.samples is None else self.samples


class QualityOptions(ParityOptions, title="quality"):
    """By which examples and how strictly the task's metric is judged; `seed` draws them."""

    data: Annotated[
        "str | Path | Data | None",
        Option("also compare the task's official metric on this data (what evaluate takes)", "DATA"),
    ] = None
    dataset: Annotated[str | None, Option("the GLUE task (or own), where the data cannot tell", "NAME")] = None
    max_loss: Annotated[
        float | None, Option("points of the metric that may be lost", "X", NOT_NEGATIVE, default=str(MAX_LOSS))
    ] = None
    limit: Annotated[int | None, Option("examples to use, drawn by --seed", "N", COUNT, default=str(EXAMPLES))] = None
