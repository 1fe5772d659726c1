"""Measures a checkpoint and its exports side by side: speed, speed-up by FLOPs, size, load time and memory.

Every row runs in a process of its own and rounds alternate between them; the first row is the baseline. Rows made of the
checkpoint (--rows), in the order given, then the exported folders:

  pytorch      the untouched Hugging Face model          dense        the network before pruning (random weights)
  compile      the same through torch.compile            dense-onnx   that, exported
  slim         the slim PyTorch network                  optimum      optimum's export of the checkpoint
"""

from __future__ import annotations

import argparse
from pathlib import Path

from exporters.providers import CPU, PROVIDERS
from prune_export import numbers
from prune_export.cli.options import add_checkpoint_options, add_output_options, number
from prune_export.cli.printing import reporting


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint_options(parser, required=False, with_plan=False)
    group = parser.add_argument_group("rows")
    group.add_argument("--rows", nargs="+", metavar="ROW", help="rows made of the checkpoint (default: pytorch slim)")
    group.add_argument(
        "--onnx", nargs="+", action="extend", default=[], metavar="O", help="exported folders or .onnx files"
    )
    group = parser.add_argument_group("conditions")
    group.add_argument(
        "--batch-size", type=number(numbers.BATCH_SIZE), nargs="+", default=[1, 8], metavar="B", help="default: 1 8"
    )
    group.add_argument(
        "--sequence-length", type=number(numbers.COUNT), nargs="+", metavar="N", help="default: 128 384; quick: 128"
    )
    group.add_argument(
        "--padding", type=number(numbers.PADDING), default=0.0, metavar="X", help="fraction of padding (default: 0)"
    )
    group.add_argument("--provider", default=CPU.name, choices=tuple(PROVIDERS), help="default: cpu")
    group.add_argument(
        "--dtype", default="fp32", choices=("fp32", "fp16"), help="of the rows made of the checkpoint (default: fp32)"
    )
    group.add_argument(
        "--threads", type=number(numbers.THREADS), metavar="N", help="threads of a row (default: one a physical core)"
    )
    group.add_argument(
        "--rounds", type=number(numbers.COUNT), metavar="N", help="alternating rounds (default: 5; quick: 3)"
    )
    group.add_argument(
        "--seconds", type=number(numbers.POSITIVE), metavar="S", help="a row, round and shape (default: 2; quick: 0.5)"
    )
    group.add_argument("--quick", action="store_true", help="a first look in a minute or so, at length 128")
    group.add_argument("--cuda-graphs", action="store_true", help="ONNX and compiled rows replay captured CUDA graphs")
    group = parser.add_argument_group("output")
    group.add_argument("--output", type=Path, metavar="DIR", help="write bench.json, bench.md and bench.svg there")
    group.add_argument("--picture", type=Path, metavar="FILE", help="draw the speed-ups, as .svg or .png")
    group.add_argument("--overwrite", action="store_true", help="replace files that are there, whatever they are")
    add_output_options(parser)


def run(options: argparse.Namespace) -> int:
    from prune_export.benchmark.files import PICTURE, check_files, write_files, write_picture
    from prune_export.benchmark.picture import can_draw, check_picture
    from prune_export.cli.console import print_bench, progress
    from prune_export.verbs.bench import bench

    picture = options.picture
    if picture is not None:
        check_picture(picture)
    if options.output is not None and picture is None and can_draw():
        picture = options.output / PICTURE
    check_files(options.output, picture, overwrite=options.overwrite)
    with progress(quiet=options.quiet) as listener:
        report = bench(
            options.model,
            options.onnx,
            rows=options.rows,
            batch_sizes=options.batch_size,
            sequence_lengths=options.sequence_length,
            task=options.task,
            provider=options.provider,
            dtype=options.dtype,
            threads=options.threads,
            padding=options.padding,
            cuda_graphs=options.cuda_graphs,
            rounds=options.rounds,
            seconds=options.seconds,
            quick=options.quick,
            revision=options.revision,
            cache_dir=options.cache_dir,
            token=options.token,
            progress=listener,
        )
    written = []
    if options.output is not None:
        written = write_files(report, options.output, overwrite=options.overwrite)
    if picture is not None:
        written.append(write_picture(report, picture, overwrite=options.overwrite))
    notes = []
    if options.output is not None and picture is None:
        notes.append("no picture was drawn, because matplotlib is not installed: pip install 'prune-export[bench]'")
    with reporting(options, optional=bool(written)):
        print_bench(report, written, notes, json_output=options.json, quiet=options.quiet)
    return 0
