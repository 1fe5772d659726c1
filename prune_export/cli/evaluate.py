"""Measures models on real data with the official metrics: SQuAD 1.1 and 2.0, MRQA, GLUE."""

from __future__ import annotations

import argparse
from pathlib import Path

from exporters.providers import PROVIDERS
from prune_export import numbers
from prune_export.cli.options import add_output_options, number
from prune_export.cli.printing import reporting, say

_EPILOG = """\
Exit code 4 if a model scores below --fail-below, after printing and writing everything.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    group = parser.add_argument_group("models")
    group.add_argument(
        "--model",
        required=True,
        nargs="+",
        action="extend",
        metavar="M",
        help="a checkpoint (folder or hub id, slim or not), an exported folder or .onnx file; several give a table",
    )
    group.add_argument(
        "--provider", choices=tuple(PROVIDERS), help="where to run (default: an export's target, else cpu)"
    )
    group.add_argument(
        "--threads",
        type=number(numbers.THREADS),
        metavar="N",
        help="threads inside an operation (default: the runtime's)",
    )
    group.add_argument("--revision", metavar="R", help="a branch, tag or commit of the hub's repository")
    group.add_argument("--cache-dir", type=Path, metavar="DIR", help="huggingface_hub's cache (default: its own)")
    group.add_argument("--token", metavar="T", help="access token for the hub (default: huggingface_hub's own)")
    group = parser.add_argument_group("data")
    group.add_argument(
        "--data",
        required=True,
        metavar="DATA",
        help="SQuAD .json, MRQA .jsonl.gz, a GLUE .tsv or folder, texts with labels (.csv, .tsv, .jsonl, .json), a folder "
        "of save_to_disk, or a name for datasets (squad, glue:sst2:validation)",
    )
    group.add_argument("--task", metavar="TASK", help="question-answering or text-classification (default: the data's)")
    group.add_argument(
        "--dataset",
        metavar="NAME",
        help="the GLUE task, where the data cannot tell: cola, sst2, mnli-mm, …; own: labels are the model's classes",
    )
    group.add_argument(
        "--split",
        metavar="NAME",
        help="the part of the data (default: validation or test, however they are called)",
    )
    group.add_argument(
        "--limit", type=number(numbers.COUNT), metavar="N", help="only N examples, drawn by --seed (default: all)"
    )
    group.add_argument(
        "--seed", type=number(numbers.SEEDS), default=0, metavar="N", help="seed of --limit (default: 0)"
    )
    group.add_argument("--answerable", action="store_true", help="only questions with an answer, judged as SQuAD 1.1")
    group.add_argument(
        "--labels", nargs="+", metavar="LABEL", help="the model's classes in order, where its config.json does not say"
    )
    group = parser.add_argument_group("sequences")
    group.add_argument(
        "--max-seq-length",
        type=number(numbers.COUNT),
        metavar="N",
        help="tokens (default: 384 for questions, 128 for texts)",
    )
    group.add_argument(
        "--doc-stride",
        type=number(numbers.COUNT_OR_NONE),
        default=128,
        metavar="N",
        help="tokens that neighbouring windows share (default: 128)",
    )
    group.add_argument(
        "--batch-tokens", type=number(numbers.COUNT), metavar="N", help="tokens in a batch (default: 2048; cuda: 16384)"
    )
    group.add_argument(
        "--null-threshold",
        type=number(numbers.ANY),
        default=0.0,
        metavar="X",
        help="SQuAD 2.0: no answer where that beats the best span by more than X logits (default: 0)",
    )
    group = parser.add_argument_group("results")
    group.add_argument(
        "--predictions", type=Path, metavar="FILE", help="also write the answers, as the official scripts"
    )
    group.add_argument("--overwrite", action="store_true", help="replace predictions that are there already")
    group.add_argument(
        "--fail-below",
        action="append",
        default=[],
        metavar="METRIC=X",
        help="exit 4 below this, e.g. f1=69.5; repeatable",
    )
    add_output_options(parser)


def run(options: argparse.Namespace) -> int:
    from exporters.errors import QualityError
    from prune_export.cli.console import print_evaluation, progress
    from prune_export.evaluation.prediction_files import check_predictions, write_predictions
    from prune_export.verbs.evaluate import evaluate

    limits = parse_limits(options.fail_below)
    if options.predictions is not None:
        check_predictions(options.model, options.data, options.predictions, overwrite=options.overwrite)
    with progress(quiet=options.quiet) as listener:
        found = evaluate(
            options.model,
            options.data,
            task=options.task,
            dataset=options.dataset,
            split=options.split,
            only_answerable=options.answerable,
            limit=options.limit,
            seed=options.seed,
            max_seq_length=options.max_seq_length,
            doc_stride=options.doc_stride,
            batch_tokens=options.batch_tokens,
            null_threshold=options.null_threshold,
            labels=options.labels,
            fail_below=limits,
            provider=options.provider,
            threads=options.threads,
            revision=options.revision,
            cache_dir=options.cache_dir,
            token=options.token,
            progress=listener,
        )
    written: tuple[Path, ...] = ()
    if options.predictions is not None:
        written = write_predictions(found, options.predictions, overwrite=options.overwrite)
    failures = found.below(limits)
    with reporting(options, optional=bool(written or limits)):
        print_evaluation(found, written, failures, json_output=options.json, quiet=options.quiet)
    if not failures:
        return 0
    say(f"prune-export: error: {'; '.join(failures)}")
    return QualityError.exit_code


def parse_limits(words: list[str]) -> dict[str, float]:
    """`METRIC=X` by metric.

    Raises:
        UsageError: a word has another form, or X is not a finite number.
    """
    from math import isfinite

    from exporters.errors import UsageError

    limits: dict[str, float] = {}
    for word in words:
        name, _, value = word.partition("=")
        try:
            limits[name.strip()] = float(value)
        except ValueError:
            limits[name.strip()] = float("nan")
        if not isfinite(limits[name.strip()]):
            raise UsageError(f"--fail-below {word}: expected METRIC=X with a number, such as f1=69.5")
    return limits
