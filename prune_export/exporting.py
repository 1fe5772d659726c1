"""The main job: a pruned checkpoint to a slim ONNX model, proven."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from exporters import runtime
from exporters.errors import MissingDependencyError, ParityError, ProviderError, UsageError
from exporters.onnx import serialize
from exporters.onnx.context import Target
from exporters.onnx.precision import PRECISIONS, Precision
from exporters.onnx.targets import TARGETS
from exporters.onnx.writer import build, check_opset, check_precision
from exporters.providers import CPU
from exporters.session import Session, SessionSettings
from prune_export.arguments import checked
from prune_export.checkpoint.beside import check_beside, copy_beside, files_beside, why_no_tokenizer
from prune_export.checkpoint.load import load_checkpoint
from prune_export.checkpoint.sentence import left_behind
from prune_export.checkpoint.source import TOKENIZER_FILES, resolve
from prune_export.checkpoint.weights import sha256
from prune_export.data.examples import Data
from prune_export.files.transaction import transaction
from prune_export.inspection import Inspection, operate_on, source_to_json
from prune_export.outputs.destination import check_space, model_destination
from prune_export.outputs.kinds import RECORD
from prune_export.parity.inputs import check_samples, why_no_text
from prune_export.parity.quality import check_without_data, read_goal
from prune_export.parity.tolerance import Tolerance, tolerance_for
from prune_export.parity.verdict import ParityReport
from prune_export.parity.workers import workers
from prune_export.plan import Plan, plan_to_json
from prune_export.progress import SILENT, Progress
from prune_export.quantization.attempts import Attempt, QuantizationOptions, attempts
from prune_export.record import versions, write_record
from prune_export.report.summary import Summary
from prune_export.slim_model.api import module_of
from prune_export.verification import (
    ONNX_COMPARISON,
    SEED,
    SLIM_COMPARISON,
    Reference,
    load_reference,
    random_batches,
    run_parity,
    slim_candidate,
)

_log = logging.getLogger("prune_export")


@dataclass(frozen=True, slots=True)
class ExportResult:
    """A finished export. `parity` is None if it was not asked for; `notes` are things the user should know."""

    folder: Path
    model: Path
    files: tuple[str, ...]
    record: dict[str, Any]
    summary: Summary
    parity: ParityReport | None
    notes: tuple[str, ...]


@checked
def export(
    model: str | Path,
    output: str | Path,
    *,
    task: str | None = None,
    target: str = "auto",
    dtype: str = "fp32",
    opset: int | None = None,
    plan: str | Path | Plan | None = None,
    atol: float | None = None,
    verify: bool = True,
    thorough: bool = False,
    samples: int | None = None,
    seed: int = SEED,
    data: str | Path | Data | None = None,
    dataset: str | None = None,
    max_loss: float | None = None,
    limit: int | None = None,
    calibration: str | Path | Data | None = None,
    keep_float: Sequence[str] = (),
    quantize_embeddings: bool = False,
    overwrite: bool = False,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | None = None,
    progress: Progress = SILENT,
) -> ExportResult:
    """Exports the checkpoint `model` (a folder or a hub id) to `output` (`….onnx`, or a folder for `model.onnx`).

    Beside the model go config.json, the tokenizer's files and prune_export.json, the record. Everything is prepared
    aside, compared with the Hugging Face model, and only then moved into place.

    `target` is "portable", "cpu", "cuda", or "auto": cuda where ONNX Runtime's CUDA provider starts, else cpu. `dtype` is
    "fp32", "fp16" or "int8". `plan` prunes by an explicit plan instead of what the checkpoint says. `verify=False` skips the
    comparison, and the record says so. The comparison spends a budget of tokens (parity/budget.py); with `thorough`, or a
    number of `samples`, it is that of `verify`. `atol`, `samples`, `seed`, `data`, `dataset`, `max_loss`, `limit` as for
    `verify`.

    For int8: activations are quantized as they come, or from the ranges that they take on `calibration` (as `data`; at most
    `limit` examples). `keep_float` names linear maps, blocks or layers (`layer_3/feed_forward`) that stay in fp32; where the
    result fails, the blocks that lose most, found by measuring, stay in fp32 as well. `quantize_embeddings` stores word
    embeddings in 8 bits.

    Raises:
        ParityError: the model does not answer like the original; nothing was written.
        PruneExportError: anything else that is the user's to mend (exporters/errors.py has the tree).
    """
    if dtype not in PRECISIONS:
        raise UsageError(f"--dtype {dtype}: expected one of {', '.join(PRECISIONS)}")
    precision = PRECISIONS[dtype]
    check_without_data(data, calibration, dataset=dataset, limit=limit, max_loss=max_loss)
    options = QuantizationOptions(calibration, tuple(keep_float), quantize_embeddings, dataset, limit, seed)
    options.check(precision)
    tolerance = tolerance_for(dtype, atol, metric_judged=data is not None)
    wanted = random_batches(samples, thorough=thorough)
    check_samples(wanted, seed)
    if opset is not None:
        check_opset(opset)
    chosen = TARGETS[resolve_target(target, precision, needs_runtime=verify)]
    check_precision(chosen, precision)
    if verify and chosen.cuda_only and _cuda_or_cpu() == "cpu":
        raise ProviderError(
            f"graphs for the target {chosen.name} run on ONNX Runtime's CUDA provider only, which does not start here: "
            "export where it does, or give --no-verify here and run prune-export verify there"
        )
    place = model_destination(output, overwrite=overwrite)
    progress.pause()
    source = resolve(model, revision=revision, cache_dir=cache_dir, token=token)
    progress.stage("Reading the checkpoint")
    checkpoint = load_checkpoint(source, task=task, plan=plan)
    place.refuse_source(source.folder)
    copied = files_beside(source.folder)
    has_tokenizer = any(name in TOKENIZER_FILES for name in copied)
    check_beside(source.folder, copied)
    place.check(copied)
    goal = None
    if data is not None:
        goal = read_goal(data, task=checkpoint.task, dataset=dataset, max_loss=max_loss, limit=limit, seed=seed)
    with workers(1) as hashing, workers(1) as pool:
        digest = hashing.submit(sha256, checkpoint.weights_files)  # takes as long as surgery and writing together
        found = operate_on(checkpoint, progress=progress)
        settings = chosen.settings(precision, found.slim.embeddings.max_length)
        reference = None
        if verify:
            reference = load_reference(checkpoint, pool, samples=wanted, seed=seed, goal=goal, progress=progress)
        with transaction(place.target) as folder:
            parity = None
            for attempt in attempts(found, chosen, precision, options, progress=progress):
                graph = build(found.slim, chosen, precision, opset=opset, quantization=attempt.quantization)
                size = serialize.weights_size(graph)
                check_space(place, size)
                progress.stage("Writing ONNX", size)
                written = serialize.save(graph, folder / place.kind.last, progress=progress.advance)
                if reference is None:
                    break
                parity = _compare(found, reference, folder / place.kind.last, chosen, settings, tolerance, progress)
                if parity.passed or not parity.first_alone_failed:
                    break
            if parity is not None and not parity.passed:
                raise ParityError(
                    f"the ONNX model does not answer like the original; nothing was written.\n  {parity.explain()}"
                )
            copy_beside(source.folder, folder, copied)
            summary = replace(found.summary, bytes_after=sum(path.stat().st_size for path in written))
            progress.stage("Moving into place")
            files = (*(path.name for path in written), *copied)
            record = {
                "source": source_to_json(checkpoint) | {"weights_sha256": digest.result()},
                "task": found.slim.task,
                "target": chosen.name,
                "dtype": dtype,
                "opset": graph.opset_imports[""],
                "model": place.kind.last,
                "files": list(files),
                "session": settings.to_json(),
                "quantization": attempt.to_json() if precision.quantized else None,
                "plan_given": checkpoint.given_plan is not None,
                "plan": plan_to_json(found.plan),
                "summary": summary.to_json(),
                "parity": parity.to_json() if parity is not None else None,
                "versions": versions(),
            }
            write_record(record, folder)
    notes = (*checkpoint.notes, *_notes(found, chosen, parity, attempt, has_tokenizer=has_tokenizer))
    for note in notes:
        _log.info("%s", note)
    return ExportResult(place.folder, place.path, (*files, RECORD), record, summary, parity, notes)


def _compare(
    found: Inspection,
    reference: Reference,
    path: Path,
    target: Target,
    settings: SessionSettings,
    tolerance: Tolerance,
    progress: Progress,
) -> ParityReport:
    """Compares the model at `path` and the slim PyTorch network with the Hugging Face model."""
    provider = CPU.name if target.provider is CPU else _cuda_or_cpu()
    # PyTorch may still be at work: threads that wait for their next operation must not keep a core busy.
    entries = {**settings.entries, "session.intra_op.allow_spinning": "0"}
    session = Session(path, provider=provider, settings=replace(settings, entries=entries))
    return run_parity(
        reference,
        {
            ONNX_COMPARISON: (session.run, tolerance),
            SLIM_COMPARISON: slim_candidate(module_of(found.checkpoint, found.slim), found.slim),
        },
        provider=provider,
        padding=target.layout != "packed",
        progress=progress,
    )


def resolve_target(target: str, precision: Precision, *, needs_runtime: bool) -> str:
    """The target's name, "auto" decided.

    Raises:
        UsageError: there is no such target.
        MissingDependencyError: ONNX Runtime is needed and not installed.
    """
    if target != "auto" and target not in TARGETS:
        raise UsageError(f"--target {target}: expected auto or one of {', '.join(TARGETS)}")
    if needs_runtime:
        runtime.onnxruntime()
    if target != "auto":
        return target
    return "cpu" if precision.quantized else _cuda_or_cpu()


def _cuda_or_cpu() -> str:
    try:
        runtime.check_provider("cuda")
    except (ProviderError, MissingDependencyError):
        return "cpu"
    return "cuda"


def _notes(
    found: Inspection, target: Target, parity: ParityReport | None, attempt: Attempt, *, has_tokenizer: bool
) -> Iterator[str]:
    """What the user should know."""
    if found.summary.is_dense:
        yield f"nothing is pruned in '{found.checkpoint.source.name}': it was exported as it is"
    folder = found.checkpoint.source.folder
    if names := left_behind(folder):
        yield (
            f"{', '.join(names)} of modules.json did not go along, because nothing is known of such modules: "
            "sentence-transformers does not load the output without them"
        )
    if not has_tokenizer:
        yield (
            f"no tokenizer of '{found.checkpoint.source.name}' was copied, and parity saw no real text: "
            f"{why_no_tokenizer(folder)}. Save one beside the checkpoint, or into the output, for pipelines"
        )
    elif parity is not None and (reason := why_no_text(folder, found.checkpoint.encoder)):
        yield f"parity saw no real text: {reason}"
    if attempt.worst:
        yield "in 8 bits these blocks lose most, and stay in fp32: " + ", ".join(loss.block for loss in attempt.worst)
    if attempt.maps and parity is not None and parity.quality is None:
        yield (
            "8 bits change some answers. Give --data, a set of the task with its answers, to have the task's metric judged "
            "before anything is written"
        )
    if parity is not None and parity.longest < parity.max_length:
        yield (
            f"parity saw inputs of up to {parity.longest:,} tokens, and the model takes {parity.max_length:,}; --thorough, "
            "or prune-export verify, goes to the end"
        )
    if parity is not None and parity.provider != target.provider.onnxruntime:
        yield (
            f"parity ran on {parity.provider}, because {target.provider.onnxruntime} does not start here. Run prune-export "
            "verify --provider cuda where it does"
        )
