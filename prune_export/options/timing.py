"""For which target, and on which inputs, time is measured."""

from typing import Annotated

from prune_export.options.checkpoint import HubAccess, ModelOption, TaskOption
from prune_export.options.listening import Listening
from prune_export.options.option import Option, Options
from prune_export.options.ranges import BATCH_SIZE, COUNT, THREADS
from prune_export.options.targets import DTYPES, TIMED_TARGETS


class TimingConditions(Options, title="time is measured for"):
    target: Annotated[str, Option("as for exports", choices=TIMED_TARGETS, is_open=True)] = "cpu"
    dtype: Annotated[str, Option(choices=DTYPES)] = "fp32"
    batch_size: Annotated[int, Option("", "N", BATCH_SIZE)] = 1
    sequence_length: Annotated[
        int | None, Option("tokens", "N", COUNT, default="384 for question answering, else 128")
    ] = None
    threads: Annotated[int | None, Option("threads inside an operation", "N", THREADS, default="the runtime's")] = None


class CacheUse(Options):
    fresh: Annotated[bool, Option("measure anew, whatever the cache holds")] = False


class ProfileOptions(Listening, HubAccess, TaskOption, CacheUse, TimingConditions, ModelOption):
    """All that `profile` takes."""
