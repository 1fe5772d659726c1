"""Measures a checkpoint and its exports side by side: speed, speed-up by FLOPs, size, load time and memory.

Every row runs in a process of its own and rounds alternate between them; the first row is the baseline. Rows made of the
checkpoint (--rows), in the order given, then the exported folders:

  pytorch      the untouched Hugging Face model          dense        the network before pruning (random weights)
  compile      the same through torch.compile            dense-onnx   that, exported
  slim         the slim PyTorch network                  optimum      optimum's export of the checkpoint
"""

from pathlib import Path
from typing import Annotated, Any

from prune_export.cli.command import Printing
from prune_export.cli.printing import reporting
from prune_export.options.bench import BenchOptions
from prune_export.options.option import Option


class BenchCommand(Printing, title="output"):
    output: Annotated[Path | None, Option("write bench.json, bench.md and bench.svg there", "DIR", is_path=True)] = None
    picture: Annotated[Path | None, Option("draw the speed-ups, as .svg or .png", "FILE", is_path=True)] = None
    overwrite: Annotated[bool, Option("replace files that are there, whatever they are")] = False


OPTIONS, COMMAND = BenchOptions, BenchCommand


def run(given: dict[str, Any], command: BenchCommand) -> int:
    from prune_export.benchmark.files import PICTURE, check_files, write_files, write_picture
    from prune_export.benchmark.picture import can_draw, check_picture
    from prune_export.cli.console import print_bench, progress
    from prune_export.verbs.bench import bench

    output, picture = command.output, command.picture
    if picture is not None:
        check_picture(picture)
    if output is not None and picture is None and can_draw():
        picture = output / PICTURE
    check_files(output, picture, overwrite=command.overwrite)
    with progress(quiet=command.quiet) as listener:
        report = bench(**given, progress=listener)
    written, notes = [], []
    if output is not None:
        written = write_files(report, output, overwrite=command.overwrite)
    if picture is not None:
        written.append(write_picture(report, picture, overwrite=command.overwrite))
    if output is not None and picture is None:
        notes.append("no picture was drawn, because matplotlib is not installed: pip install 'prune-export[bench]'")
    with reporting(command, optional=bool(written)):
        print_bench(report, written, notes, command)
    return 0
