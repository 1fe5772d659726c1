"""The options of `evaluate`."""

from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from exporters.providers import PROVIDERS, ProviderName
from prune_export.options.checkpoint import HubAccess
from prune_export.options.listening import Listening
from prune_export.options.option import Option, Options
from prune_export.options.ranges import ANY, COUNT, COUNT_OR_NONE, SEEDS, THREADS

if TYPE_CHECKING:
    from prune_export.data.examples import Data

DOC_STRIDE = 128


class Models(Options, title="models"):
    models: Annotated[
        str | Path | Sequence[str | Path],
        Option(
            "a checkpoint (folder or hub id, slim or not), an exported folder or .onnx file; several give a table",
            "M",
            flag="--model",
            nargs="+",
            action="extend",
        ),
    ] = field(kw_only=False)


class EvaluationData(Options, title="data"):
    """Which examples are evaluated."""

    data: Annotated[
        "str | Path | Data",
        Option(
            "SQuAD .json, MRQA .jsonl.gz or a folder of them, a GLUE .tsv or folder, texts with labels (.csv, .tsv, .jsonl, "
            ".json), a folder of save_to_disk, or a name for datasets (squad, glue:sst2:validation)",
            "DATA",
        ),
    ] = field(kw_only=False)
    task: Annotated[str | None, Option("question-answering or text-classification", "TASK", default="the data's")] = (
        None
    )
    dataset: Annotated[
        str | None,
        Option(
            "the GLUE task, where the data cannot tell: cola, sst2, mnli-mm, …; own: labels are the model's classes",
            "NAME",
        ),
    ] = None
    split: Annotated[
        str | None,
        Option("the part of the data", "NAME", default="validation or test, however they are called"),
    ] = None
    only_answerable: Annotated[
        bool, Option("only questions with an answer, judged as SQuAD 1.1", flag="--answerable")
    ] = False
    limit: Annotated[int | None, Option("only N examples, drawn by --seed", "N", COUNT, default="all")] = None
    seed: Annotated[int, Option("seed of --limit", "N", SEEDS)] = 0


class EvaluationSettings(Options, title="sequences"):
    """How examples become batches and logits become answers."""

    max_seq_length: Annotated[int | None, Option("tokens", "N", COUNT, default="384 for questions, 128 for texts")] = (
        None
    )
    doc_stride: Annotated[int, Option("tokens that neighbouring windows share", "N", COUNT_OR_NONE)] = DOC_STRIDE
    batch_tokens: Annotated[int | None, Option("tokens in a batch", "N", COUNT, default="2048; cuda: 16384")] = None
    null_threshold: Annotated[
        float, Option("SQuAD 2.0: no answer where that beats the best span by more than X logits", "X", ANY)
    ] = 0.0
    labels: Annotated[
        Sequence[str] | None,
        Option("the model's classes in order, where its config.json does not say", "LABEL", nargs="+", group="data"),
    ] = None


class MetricLimits(Options, title="results"):
    fail_below: Annotated[
        Mapping[str, float] | None,
        Option("exit 4 below this, e.g. f1=69.5; repeatable", "METRIC=X", action="append"),
    ] = None


class RuntimeOptions(Options, title="models"):
    provider: Annotated[
        ProviderName | None,
        Option("where to run", choices=tuple(PROVIDERS), default="an export's target, else cpu"),
    ] = None
    threads: Annotated[int | None, Option("threads inside an operation", "N", THREADS, default="the runtime's")] = None


class EvaluateOptions(Listening, HubAccess, RuntimeOptions, MetricLimits, EvaluationSettings, EvaluationData, Models):
    """All that `evaluate` takes."""
