"""Exports a loaded checkpoint: writes it as ONNX, and compares it with the original."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from exporters.errors import ParityError
from exporters.onnx import serialize
from exporters.onnx.context import Target
from exporters.onnx.precision import Precision
from exporters.onnx.targets.choice import available_provider
from exporters.onnx.writer import build
from exporters.session import Session, SessionSettings
from prune_export.checkpoint.beside import check_beside, copy_beside, files_beside, why_no_tokenizer
from prune_export.checkpoint.inspection import Inspection, operate_on
from prune_export.checkpoint.load import Checkpoint
from prune_export.checkpoint.sentence import left_behind
from prune_export.checkpoint.weights import sha256
from prune_export.facts.file_names import RECORD, TOKENIZER_FILES
from prune_export.facts.plan import plan_to_json
from prune_export.facts.record import versions, write_record
from prune_export.facts.summary import Summary
from prune_export.files.transaction import transaction
from prune_export.options.export import QuantizationOptions
from prune_export.outputs.destination import Destination, check_space
from prune_export.parity.inputs import LONGEST
from prune_export.parity.padding import compares_padding
from prune_export.parity.quality import QualityGoal
from prune_export.parity.reference import Reference, load_reference
from prune_export.parity.run import ONNX_COMPARISON, SLIM_COMPARISON, run_parity, slim_candidate
from prune_export.parity.tolerance import Tolerance
from prune_export.parity.verdict import ParityReport
from prune_export.parity.workers import workers
from prune_export.progress import SILENT, Progress
from prune_export.quantization.attempts import Attempt, attempts
from prune_export.slim_model.model import slim_module

_log = logging.getLogger("prune_export")


@dataclass(frozen=True, slots=True)
class ExportResult:
    """A finished export. `parity` is None if it was not checked; `notes` are for the user to read."""

    folder: Path
    model: Path
    files: tuple[str, ...]
    record: dict[str, Any]
    summary: Summary
    parity: ParityReport | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Proof:
    """The conditions of the parity check before a model is put in place; `samples` and `seed` as for `load_reference`."""

    tolerance: Tolerance
    samples: int | None
    seed: int
    goal: QualityGoal | None


def copied_files(checkpoint: Checkpoint, destination: Destination) -> tuple[str, ...]:
    """Names the files that are copied with the weights, and checks that `destination` can take them.

    Raises:
        CheckpointError: one of them is a link that leads out of the checkpoint's folder.
        OutputError: `destination` is the checkpoint's own folder, or holds files that must not be replaced.
    """
    folder = checkpoint.source.folder
    destination.refuse_source(folder)
    copied = files_beside(folder)
    check_beside(folder, copied)
    destination.check(copied)
    return copied


def export_checkpoint(
    checkpoint: Checkpoint,
    destination: Destination,
    copied: tuple[str, ...],
    target: Target,
    precision: Precision,
    *,
    quantization: QuantizationOptions,
    proof: Proof | None,
    opset: int | None = None,
    progress: Progress = SILENT,
) -> ExportResult:
    """Writes the slim network of `checkpoint` as ONNX to `destination`, with the files `copied` and the record.

    All files are prepared in a folder aside, compared with the Hugging Face model under the conditions of `proof` (None: not
    compared), and then moved into place.

    Raises:
        ParityError: the model does not answer like the original; nothing was written.
    """
    with workers(1) as hashing, workers(1) as pool:
        digest = hashing.submit(sha256, checkpoint.weights_files)  # takes as long as surgery and writing together
        inspection = operate_on(checkpoint, progress=progress)
        settings = target.settings(precision, inspection.slim.embeddings.max_length)
        reference = None
        if proof is not None:
            reference = load_reference(
                checkpoint, pool, samples=proof.samples, seed=proof.seed, goal=proof.goal, progress=progress
            )
        with transaction(destination.placement) as folder:
            parity = None
            for attempt in attempts(inspection, target, precision, quantization, progress=progress):
                graph = build(inspection.slim, target, precision, opset=opset, quantization=attempt.quantization)
                size = serialize.weights_size(graph)
                check_space(destination, size)
                progress.stage("Writing ONNX", size)
                written = serialize.save(graph, folder / destination.kind.last, progress=progress.advance)
                if proof is None or reference is None:
                    break
                parity = _compare(
                    inspection, reference, folder / destination.kind.last, target, settings, proof.tolerance, progress
                )
                if parity.passed or not parity.first_alone_failed:
                    break
            if parity is not None and not parity.passed:
                raise ParityError(
                    f"the ONNX model does not answer like the original; nothing was written.\n  {parity.explain()}"
                )
            copy_beside(checkpoint.source.folder, folder, copied)
            summary = replace(inspection.summary, bytes_after=sum(path.stat().st_size for path in written))
            progress.stage("Moving into place")
            files = (*(path.name for path in written), *copied)
            record = {
                "source": checkpoint.source_to_json() | {"weights_sha256": digest.result()},
                "task": inspection.slim.task,
                "sliced": list(inspection.slim.widths) if inspection.slim.is_sliced else None,
                "target": target.name,
                "dtype": precision.name,
                "opset": graph.opset_imports[""],
                "model": destination.kind.last,
                "files": list(files),
                "session": settings.to_json(),
                "quantization": attempt.to_json() if precision.quantized else None,
                "plan_given": checkpoint.given_plan is not None,
                "plan": plan_to_json(inspection.plan),
                "summary": summary.to_json(),
                "parity": parity.to_json() if parity is not None else None,
                "versions": versions(),
            }
            write_record(record, folder)
    has_tokenizer = any(name in TOKENIZER_FILES for name in copied)
    why_no_text = reference.why_no_text if reference is not None else None
    notes = (
        *checkpoint.notes,
        *_notes(inspection, target, parity, attempt, has_tokenizer=has_tokenizer, why_no_text=why_no_text),
    )
    for note in notes:
        _log.info("%s", note)
    return ExportResult(destination.folder, destination.path, (*files, RECORD), record, summary, parity, notes)


def _compare(
    inspection: Inspection,
    reference: Reference,
    path: Path,
    target: Target,
    settings: SessionSettings,
    tolerance: Tolerance,
    progress: Progress,
) -> ParityReport:
    """Compares the model at `path` and the slim PyTorch network with the reference model."""
    provider = available_provider().name if target.provider.is_gpu else target.provider.name
    # PyTorch may still be at work: threads that wait for their next operation must not keep a core busy.
    entries = {**settings.entries, "session.intra_op.allow_spinning": "0"}
    session = Session(path, provider=provider, settings=replace(settings, entries=entries))
    return run_parity(
        reference,
        {
            ONNX_COMPARISON: (session.run, tolerance),
            SLIM_COMPARISON: slim_candidate(slim_module(inspection.checkpoint, inspection.slim), inspection.slim),
        },
        provider=provider,
        padding=compares_padding(inspection.slim, target, settings),
        progress=progress,
    )


def _notes(
    inspection: Inspection,
    target: Target,
    parity: ParityReport | None,
    attempt: Attempt,
    *,
    has_tokenizer: bool,
    why_no_text: str | None,
) -> Iterator[str]:
    """Yields the notes for the user."""
    if inspection.summary.is_dense:
        yield f"nothing is pruned in '{inspection.checkpoint.source.name}': it was exported as it is"
    if inspection.slim.is_sliced:
        yield (
            f"the residual stream of '{inspection.checkpoint.source.name}' is sliced: the model was compared with the slim "
            "PyTorch network, not with the original, whose answers differ; prune-export evaluate on both tells what slicing "
            "lost"
        )
    folder = inspection.checkpoint.source.folder
    if names := left_behind(folder):
        yield (
            f"{', '.join(names)} of modules.json did not go along, because nothing is known of such modules: "
            "sentence-transformers does not load the output without them"
        )
    if not has_tokenizer:
        yield (
            f"no tokenizer of '{inspection.checkpoint.source.name}' was copied, and parity saw no real text: "
            f"{why_no_tokenizer(folder)}. Save one beside the checkpoint, or into the output, for pipelines"
        )
    elif why_no_text is not None:
        yield f"parity saw no real text: {why_no_text}"
    if attempt.worst:
        yield "in 8 bits these blocks lose most, and stay in fp32: " + ", ".join(loss.block for loss in attempt.worst)
    if attempt.maps and parity is not None and parity.quality is None:
        yield (
            "8 bits change some answers. Give --data, a set of the task with its answers, to have the task's metric judged "
            "before anything is written"
        )
    if parity is not None and parity.longest < min(parity.max_length, LONGEST):
        end = "goes to the end" if parity.max_length <= LONGEST else f"goes to {LONGEST:,}"
        yield (
            f"parity saw inputs of up to {parity.longest:,} tokens, and the model takes {parity.max_length:,}; --thorough, "
            f"or prune-export verify, {end}"
        )
    if parity is not None and parity.provider != target.provider.onnxruntime:
        yield (
            f"parity ran on {parity.provider}, because {target.provider.onnxruntime} does not start here. Run prune-export "
            "verify --provider cuda where it does"
        )
