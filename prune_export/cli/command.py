"""The options that only the command line has."""

from typing import Annotated

from prune_export.options.option import Option, Options


class Printing(Options, title="printing"):
    json: Annotated[bool, Option("print the result as JSON on stdout")] = False
    quiet: Annotated[bool, Option("nothing but errors")] = False
    verbose: Annotated[bool, Option("a log with times on stderr, ONNX Runtime's warnings too", excludes="quiet")] = (
        False
    )
