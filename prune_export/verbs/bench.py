"""`prune_export.bench` measures networks side by side."""

from __future__ import annotations

import tempfile
from pathlib import Path

from exporters import runtime
from exporters.errors import UsageError
from exporters.providers import PROVIDERS
from prune_export.benchmark.results import BenchReport
from prune_export.benchmark.rows import Row, Shape
from prune_export.benchmark.run import check_shapes, choose_cpus, names_of, run_rows
from prune_export.benchmark.sources import onnx_row
from prune_export.options.bench import QUICK_SEQUENCE_LENGTHS, SEQUENCE_LENGTHS, BenchOptions
from prune_export.options.keywords import from_keywords


@from_keywords(BenchOptions)
def bench(options: BenchOptions) -> BenchReport:
    """Measures networks side by side: latency, throughput, size, load time and memory; the first is the baseline.

    `rows` are made of the checkpoint `model`; the exported models `onnx` follow. Each row runs in a process of its own,
    pinned to as many processors as it has `threads`. `rounds` alternate between the rows, with `seconds` per row, round and
    shape. With `quick` it takes a minute or so, and the report says how noisy the figures are.

    Raises:
        UsageError: an argument is out of range, or there is nothing to measure.
        CheckpointError, OutputError: a model cannot be read.
        BenchmarkError: a row cannot be loaded or run.
    """
    lengths = options.sequence_lengths
    if lengths is None:
        lengths = QUICK_SEQUENCE_LENGTHS if options.quick else SEQUENCE_LENGTHS
    shapes = [Shape(batch, length) for batch in options.batch_sizes for length in lengths]
    check_shapes(shapes)
    if options.cuda_graphs and not PROVIDERS[options.provider].graph_options:
        raise UsageError("--cuda-graphs needs --provider cuda")
    if options.rows and options.model is None:
        raise UsageError("--rows needs --model, the checkpoint that they are made of")
    choose_cpus(options.threads)
    exported = [onnx_row(path, name=name) for path, name in zip(options.onnx, names_of(options.onnx), strict=True)]
    if exported or {"dense-onnx", "optimum"} & set(options.rows or ()):
        runtime.check_provider(options.provider)
    with tempfile.TemporaryDirectory(prefix="prune-export-bench-") as folder:
        of_checkpoint: list[Row] = []
        if options.model is not None:
            of_checkpoint = _checkpoint_rows(options, options.model, max(lengths), Path(folder))
        return run_rows([*of_checkpoint, *exported], shapes, options, progress=options.progress)


def _checkpoint_rows(options: BenchOptions, model: str | Path, length: int, folder: Path) -> list[Row]:
    # Imported here, so that a benchmark without a checkpoint does not wait for transformers.
    from prune_export.benchmark.checkpoint_rows import DEFAULT_ROWS, check_row_kinds, checkpoint_rows
    from prune_export.checkpoint.load import load_checkpoint
    from prune_export.checkpoint.source import resolve

    kinds = DEFAULT_ROWS if options.rows is None else tuple(options.rows)
    check_row_kinds(kinds)
    source = resolve(model, options, progress=options.progress)
    options.progress.stage("Reading the checkpoint")
    checkpoint = load_checkpoint(source, task=options.task)
    longest = checkpoint.encoder.embeddings.max_length
    if length > longest:
        raise UsageError(f"--sequence-length {length}: '{source.name}' takes {longest} tokens at most")
    return checkpoint_rows(
        checkpoint, kinds, folder, provider=options.provider, dtype=options.dtype, progress=options.progress
    )
