"""`prune_export.bench`: networks measured side by side."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from exporters import runtime
from exporters.errors import UsageError
from exporters.providers import CPU, PROVIDERS
from prune_export.arguments import checked
from prune_export.benchmark.results import BenchReport
from prune_export.benchmark.rows import Row, Shape
from prune_export.benchmark.run import ROUNDS, SECONDS, check_run, choose_cpus, names_of, run_rows
from prune_export.benchmark.sources import onnx_row
from prune_export.progress import SILENT, Progress

BATCH_SIZES = (1, 8)

SEQUENCE_LENGTHS = (128, 384)

QUICK_SEQUENCE_LENGTHS = (128,)

QUICK_ROUNDS = 3

QUICK_SECONDS = 0.5


@checked
def bench(
    model: str | Path | None = None,
    onnx: Sequence[str | Path] = (),
    *,
    rows: Sequence[str] | None = None,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    sequence_lengths: Sequence[int] | None = None,
    task: str | None = None,
    provider: str = CPU.name,
    dtype: str = "fp32",
    threads: int | None = None,
    padding: float = 0.0,
    cuda_graphs: bool = False,
    rounds: int | None = None,
    seconds: float | None = None,
    quick: bool = False,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | None = None,
    progress: Progress = SILENT,
) -> BenchReport:
    """Measures networks side by side: latency, throughput, size, load time and memory; the first is the baseline.

    `rows` are made of the checkpoint `model` (a folder or a hub id; default: pytorch, slim), `onnx` are exported folders or
    .onnx files. Each row runs in a process of its own; `rounds` alternate between them, `seconds` a row, round and shape.
    What is None: lengths 128 and 384, 5 rounds, 2 seconds; where it is to be `quick`, length 128, 3 rounds, half a second: a
    first look in a minute or so, and the report says how noisy it is.

    `threads` inside an operation (None: one a physical core); each process is pinned to as many processors. `padding` is
    the fraction of tokens that are padding. `provider` is "cpu" or "cuda"; `dtype`, "fp32" or "fp16", that of the rows
    that are made here (exported folders have their own). `cuda_graphs`: ONNX and compiled rows replay captured graphs.

    Raises:
        UsageError: an argument is out of range, or there is nothing to measure.
        CheckpointError, OutputError: a model cannot be read.
        BenchmarkError: a row cannot be loaded or run.
    """
    if sequence_lengths is None:
        sequence_lengths = QUICK_SEQUENCE_LENGTHS if quick else SEQUENCE_LENGTHS
    if rounds is None:
        rounds = QUICK_ROUNDS if quick else ROUNDS
    if seconds is None:
        seconds = QUICK_SECONDS if quick else SECONDS
    shapes = [Shape(batch, length) for batch in batch_sizes for length in sequence_lengths]
    check_run(shapes, padding=padding, rounds=rounds, seconds=seconds, provider=provider, dtype=dtype)
    if cuda_graphs and not PROVIDERS[provider].graph_options:
        raise UsageError("--cuda-graphs needs --provider cuda")
    if rows and model is None:
        raise UsageError("--rows needs --model, the checkpoint that they are made of")
    choose_cpus(threads)
    exported = [onnx_row(path, name=name) for path, name in zip(onnx, names_of(onnx), strict=True)]
    if exported or {"dense-onnx", "optimum"} & set(rows or ()):
        runtime.check_provider(provider)
    with tempfile.TemporaryDirectory(prefix="prune-export-bench-") as folder:
        made: list[Row] = []
        if model is not None:
            # Here, and not above: what needs no checkpoint should not wait for transformers.
            from prune_export.benchmark.checkpoint_rows import DEFAULT_ROWS, check_row_kinds, checkpoint_rows
            from prune_export.checkpoint.load import load_checkpoint
            from prune_export.checkpoint.source import resolve

            kinds = DEFAULT_ROWS if rows is None else tuple(rows)
            check_row_kinds(kinds)
            progress.pause()
            source = resolve(model, revision=revision, cache_dir=cache_dir, token=token)
            progress.stage("Reading the checkpoint")
            checkpoint = load_checkpoint(source, task=task)
            longest = checkpoint.encoder.embeddings.max_length
            if max(sequence_lengths) > longest:
                raise UsageError(
                    f"--sequence-length {max(sequence_lengths)}: '{source.name}' takes {longest} tokens at most"
                )
            made = checkpoint_rows(checkpoint, kinds, Path(folder), provider=provider, dtype=dtype, progress=progress)
        return run_rows(
            [*made, *exported],
            shapes,
            provider=provider,
            dtype=dtype,
            threads=threads,
            padding=padding,
            cuda_graphs=cuda_graphs,
            rounds=rounds,
            seconds=seconds,
            quick=quick,
            progress=progress,
        )
