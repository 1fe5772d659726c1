"""The errors that a user may see, as one tree.

PruneExportError
├── UsageError           the command or call contradicts itself                       (exit 2)
├── MissingDependencyError  an optional package is not installed
├── CheckpointError      the input is not a checkpoint that can be read
│   ├── WeightsError     weights are missing, damaged or contradict config.json
│   └── UnsupportedError the architecture, task or option is outside what is supported
├── DataError            a data set cannot be read, or is not for the task
├── PlanError            a pruning plan does not fit the model
├── SurgeryError         a removal would change what the model computes
├── WriteError           the ONNX model cannot be expressed as asked
├── OutputError          the output cannot be put into its place
├── ProviderError        the execution provider is not there
├── BenchmarkError       a row of a benchmark could not be measured
├── TrainingError        a training cannot go on (a loss that is not a number)
├── ParityError          the exported model does not answer like the original         (exit 3)
└── QualityError         a model scores below the required metric                     (exit 4)

Each message says what was expected, what was found and what to do. It shows no secret and no control character, and is
shortened if it is long.
"""

import sys

from exporters.secrets import redacted, scrub

_LONGEST, _END = 3_000, 1_000  # characters of a message, and of its end where the middle is left out


def printable(text: str) -> str:
    """Escapes what a terminal would not print in `text`: control characters and lone surrogates."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


class PruneExportError(Exception):
    """Base of the errors that the user can mend; their messages are shown without a traceback."""

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        lines = redacted(message).split("\n  ")  # each reason of a verdict has its own line
        text = "\n  ".join(map(printable, lines))
        super().__init__(text if len(text) <= _LONGEST else f"{text[: _LONGEST - _END]} … {text[-_END:]}")
        if (handled := sys.exception()) is not None:  # the cause, which a traceback shows, too
            scrub(handled)


class UsageError(PruneExportError):
    """The options contradict each other or are out of range."""

    exit_code = 2


class MissingDependencyError(PruneExportError):
    """An optional package is needed and not installed."""


class CheckpointError(PruneExportError):
    """The input is not a checkpoint that can be read."""


class WeightsError(CheckpointError):
    """Weights are missing, damaged, or contradict the configuration."""


class UnsupportedError(CheckpointError):
    """The architecture, the task or an option of the configuration is not supported."""


class DataError(PruneExportError):
    """A data set cannot be read, or is not for the task."""


class PlanError(PruneExportError):
    """A pruning plan is malformed or does not fit the model."""


class SurgeryError(PruneExportError):
    """A removal would change what the model computes."""


class WriteError(PruneExportError):
    """The ONNX model cannot be written as asked (opset, dtype, size)."""


class OutputError(PruneExportError):
    """The output cannot be put into its place."""


class ProviderError(PruneExportError):
    """The execution provider cannot run here."""


class BenchmarkError(PruneExportError):
    """A row of a benchmark could not be loaded or run."""


class TrainingError(PruneExportError):
    """A training cannot go on."""


class ParityError(PruneExportError):
    """The exported model does not answer like the original."""

    exit_code = 3


class QualityError(PruneExportError):
    """A model scores below the required metric."""

    exit_code = 4
