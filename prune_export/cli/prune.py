"""Prunes a dense checkpoint in minutes, without training: a masked checkpoint at a budget of size or of measured time."""

from __future__ import annotations

import argparse
from pathlib import Path

from exporters.providers import CPU, PROVIDERS
from prune_export import numbers
from prune_export.cli.options import add_checkpoint_options, add_output_options, add_shape_options, number
from prune_export.cli.printing import reporting, say

_EPILOG = """\
The masked checkpoint loads in any transformers; prune-export --model makes a slim ONNX model of it.
Exit code 4 if it is slower than --speedup or --latency-ms asks for, by more than --tolerance, after writing everything.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    add_checkpoint_options(parser, with_plan=False)
    group = parser.add_argument_group("data")
    group.add_argument(
        "--calibration",
        required=True,
        nargs="+",
        metavar="DATA",
        help="examples with answers or labels: SQuAD .json, MRQA .jsonl.gz, a GLUE .tsv, or a name for datasets; "
        "several are mixed",
    )
    group.add_argument(
        "--samples",
        type=number(numbers.SAMPLE_COUNT),
        default=512,
        metavar="N",
        help="examples that are used (default: 512)",
    )
    group.add_argument("--seed", type=number(numbers.SEEDS), default=0, metavar="N", help="which examples (default: 0)")
    group.add_argument("--dataset", metavar="NAME", help="the GLUE task, where the data cannot tell")
    group.add_argument("--labels", nargs="+", metavar="LABEL", help="the model's classes in order")
    group.add_argument(
        "--max-seq-length",
        type=number(numbers.COUNT),
        metavar="N",
        help="tokens (default: 384 for questions, 128 for texts)",
    )
    group = parser.add_argument_group("budget: what stays, one or more; several write one folder each")
    group.add_argument(
        "--flops", type=number(numbers.KEPT_FRACTION), nargs="+", metavar="X", help="fraction of the encoder's FLOPs"
    )
    group.add_argument(
        "--parameters",
        type=number(numbers.KEPT_FRACTION),
        nargs="+",
        metavar="X",
        help="fraction of the layers' parameters",
    )
    group.add_argument(
        "--speedup", type=number(numbers.FACTOR), nargs="+", metavar="X", help="times as fast as the unpruned network"
    )
    group.add_argument(
        "--latency-ms", type=number(numbers.POSITIVE), nargs="+", metavar="X", help="milliseconds for a batch"
    )
    group.add_argument("--heads", type=number(numbers.FRACTION), metavar="X", help="fraction of the heads")
    group.add_argument(
        "--columns", type=number(numbers.FRACTION), metavar="X", help="fraction of the feed-forward columns"
    )
    group.add_argument(
        "--tolerance",
        type=number(numbers.FRACTION),
        default=0.05,
        metavar="X",
        help="how much slower than --speedup or --latency-ms it may be, as a fraction of the time (default: 0.05)",
    )
    group = parser.add_argument_group("method")
    group.add_argument(
        "--method",
        default="fisher",
        choices=("fisher", "taylor", "magnitude", "random"),
        help="scores (default: fisher)",
    )
    group.add_argument("--no-rearrangement", action="store_true", help="keep the units with the best single scores")
    group.add_argument(
        "--reconstruction",
        default="full",
        choices=("full", "scales", "none"),
        help="refit weights that stay, one scale a unit, or nothing (default: full)",
    )
    group.add_argument("--no-gradual", action="store_true", help="prune in one step, however far")
    group.add_argument(
        "--align",
        type=number(numbers.COUNT),
        metavar="N",
        help="columns in multiples of N (default: 32 for budgets in time, else 1)",
    )
    group.add_argument(
        "--keep-layers",
        type=number(numbers.COUNT_OR_NONE),
        nargs="+",
        default=[],
        metavar="N",
        help="layers, from 0, that lose nothing",
    )
    group.add_argument(
        "--drop-layers",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether whole blocks may go (default: yes)",
    )
    group.add_argument("--device", default=CPU.name, choices=tuple(PROVIDERS), help="where to calibrate (default: cpu)")
    add_shape_options(parser)
    group = parser.add_argument_group("output")
    group.add_argument("--output", required=True, type=Path, metavar="DIR", help="the masked checkpoint's folder")
    group.add_argument("--overwrite", action="store_true", help="replace files that are there already")
    add_output_options(parser)


def run(options: argparse.Namespace) -> int:
    from exporters.errors import QualityError
    from prune_export.cli.console import print_pruned, progress
    from prune_export.verbs.prune import prune

    with progress(quiet=options.quiet) as listener:
        results = prune(
            options.model,
            options.calibration,
            options.output,
            flops=options.flops,
            parameters=options.parameters,
            speedup=options.speedup,
            latency_ms=options.latency_ms,
            heads=options.heads,
            columns=options.columns,
            tolerance=options.tolerance,
            method=options.method,
            rearrangement=not options.no_rearrangement,
            reconstruction=options.reconstruction,
            gradual=not options.no_gradual,
            samples=options.samples,
            seed=options.seed,
            align=options.align,
            keep_layers=options.keep_layers,
            drop_layers=options.drop_layers,
            target=options.target,
            dtype=options.dtype,
            batch_size=options.batch_size,
            sequence_length=options.sequence_length,
            threads=options.threads,
            task=options.task,
            dataset=options.dataset,
            labels=options.labels,
            max_seq_length=options.max_seq_length,
            device=options.device,
            overwrite=options.overwrite,
            revision=options.revision,
            cache_dir=options.cache_dir,
            token=options.token,
            progress=listener,
        )
    with reporting(options, optional=True):
        print_pruned(results, json_output=options.json, quiet=options.quiet)
    missed = [result.missed for result in results if result.missed is not None]
    for line in missed:
        say(f"prune-export: error: {line}; the checkpoint was written")
    return QualityError.exit_code if missed else 0
