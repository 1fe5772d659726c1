"""Options that several verbs have."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from exporters.tasks import TASKS
from prune_export import numbers
from prune_export.numbers import Range

TASK_NAMES = ", ".join(TASKS)


class NumberError(argparse.ArgumentTypeError):
    """A word is no number, or one that the option cannot take: one line, without the usage of the whole verb."""


def number(allowed: Range) -> Callable[[str], int | float]:
    """The `type` of every option that takes a number: one in the range `allowed`, or one line says what was expected."""

    def parse(text: str) -> int | float:
        try:
            return allowed.parsed(text)
        except ValueError as error:
            raise NumberError(str(error)) from None

    return parse


def add_checkpoint_options(parser: argparse.ArgumentParser, *, required: bool = True, with_plan: bool = True) -> None:
    """Where the checkpoint is and how to read it."""
    group = parser.add_argument_group("checkpoint")
    group.add_argument(
        "--model", required=required, metavar="M", help="a checkpoint's folder, or a hub id (owner/name)"
    )
    group.add_argument("--revision", metavar="R", help="a branch, tag or commit of the hub's repository")
    group.add_argument("--cache-dir", type=Path, metavar="DIR", help="huggingface_hub's cache (default: its own)")
    group.add_argument("--token", metavar="T", help="access token for the hub (default: huggingface_hub's own)")
    group.add_argument("--task", metavar="TASK", help=f"one of {TASK_NAMES} (default: from the checkpoint)")
    if with_plan:
        group.add_argument(
            "--plan", type=Path, metavar="JSON", help="prune by this plan instead of what the checkpoint says"
        )


def add_shape_options(parser: argparse.ArgumentParser) -> None:
    """For which target, and on which inputs, time is measured."""
    group = parser.add_argument_group("time is measured for")
    group.add_argument(
        "--target", default="cpu", choices=("auto", "portable", "cpu", "cuda"), help="as for exports (default: cpu)"
    )
    group.add_argument("--dtype", default="fp32", choices=("fp32", "fp16", "int8"), help="default: fp32")
    group.add_argument("--batch-size", type=number(numbers.BATCH_SIZE), default=1, metavar="N", help="default: 1")
    group.add_argument(
        "--sequence-length",
        type=number(numbers.COUNT),
        metavar="N",
        help="tokens (default: 384 for question answering, else 128)",
    )
    group.add_argument(
        "--threads",
        type=number(numbers.THREADS),
        metavar="N",
        help="threads inside an operation (default: the runtime's)",
    )


def add_parity_options(parser: argparse.ArgumentParser, *, thorough: bool) -> None:
    """How parity is judged; `thorough` is the default."""
    group = parser.add_argument_group("parity")
    group.add_argument(
        "--atol",
        type=number(numbers.POSITIVE),
        metavar="X",
        help="pass at max|Δ| <= X * max(1, max|reference|) (default: 1e-4 for fp32, 2e-2 for fp16, 0.3 for int8)",
    )
    group.add_argument(
        "--thorough",
        action=argparse.BooleanOptionalAction,
        default=thorough,
        help="compare many random batches of every size, up to the longest input; otherwise a few that take seconds "
        f"(default: --{'' if thorough else 'no-'}thorough)",
    )
    group.add_argument(
        "--samples",
        type=number(numbers.PARITY_SAMPLES),
        metavar="N",
        help="random batches of a thorough comparison (default: 16)",
    )
    group.add_argument(
        "--seed", type=number(numbers.SEEDS), default=0, metavar="N", help="seed of the random batches (default: 0)"
    )


def add_quality_options(parser: argparse.ArgumentParser) -> None:
    """What real data the model is judged by."""
    group = parser.add_argument_group("quality")
    group.add_argument(
        "--data", metavar="DATA", help="also compare the task's official metric on this data (what evaluate takes)"
    )
    group.add_argument("--dataset", metavar="NAME", help="the GLUE task (or own), where the data cannot tell")
    group.add_argument(
        "--max-loss",
        type=number(numbers.NOT_NEGATIVE),
        metavar="X",
        help="points of the metric that may be lost (default: 0.5)",
    )
    group.add_argument(
        "--limit",
        type=number(numbers.COUNT),
        metavar="N",
        help="examples to use, drawn by --seed (default: 1000)",
    )


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """What is printed."""
    group = parser.add_argument_group("printing")
    group.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
    how_much = group.add_mutually_exclusive_group()
    how_much.add_argument("--quiet", action="store_true", help="nothing but errors")
    how_much.add_argument(
        "--verbose", action="store_true", help="a log with times on stderr, ONNX Runtime's warnings too"
    )
