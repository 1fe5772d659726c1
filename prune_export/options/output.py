"""Whether what is there already is replaced."""

from typing import Annotated

from prune_export.options.option import Option, Options


class OverwriteOption(Options, title="output"):
    overwrite: Annotated[bool, Option("replace files that are there already")] = False
