"""The options that only the command line has."""

from dataclasses import KW_ONLY, dataclass
from typing import Annotated, ClassVar

from prune_export.options.option import Option


@dataclass(frozen=True)
class Printing:
    TITLE: ClassVar[str] = "printing"
    _: KW_ONLY
    json: Annotated[bool, Option("print the result as JSON on stdout")] = False
    quiet: Annotated[bool, Option("nothing but errors")] = False
    verbose: Annotated[bool, Option("a log with times on stderr, ONNX Runtime's warnings too", excludes="quiet")] = (
        False
    )
