"""`prune_export.export`: the main job, a pruned checkpoint to a slim ONNX model, proven."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from exporters.errors import ProviderError, UsageError
from exporters.onnx.precision import PRECISIONS
from exporters.onnx.targets.choice import available_provider, resolve_target
from exporters.onnx.writer import check_opset, check_precision
from prune_export.arguments import checked
from prune_export.checkpoint.load import load_checkpoint
from prune_export.checkpoint.source import resolve
from prune_export.data.examples import Data
from prune_export.exporting.checkpoint_export import ExportResult, Proof, copied_files, export_checkpoint
from prune_export.facts.plan import Plan
from prune_export.outputs.destination import model_destination
from prune_export.parity.inputs import check_samples
from prune_export.parity.quality import check_without_data, read_goal
from prune_export.parity.reference import SEED, random_batches
from prune_export.parity.tolerance import tolerance_for
from prune_export.progress import SILENT, Progress
from prune_export.quantization.attempts import QuantizationOptions


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
    chosen = resolve_target(target, precision, needs_runtime=verify)
    check_precision(chosen, precision)
    if verify and chosen.cuda_only and not available_provider().is_gpu:
        raise ProviderError(
            f"graphs for the target {chosen.name} run on ONNX Runtime's CUDA provider only, which does not start here: "
            "export where it does, or give --no-verify here and run prune-export verify there"
        )
    place = model_destination(output, overwrite=overwrite)
    progress.pause()
    source = resolve(model, revision=revision, cache_dir=cache_dir, token=token)
    progress.stage("Reading the checkpoint")
    checkpoint = load_checkpoint(source, task=task, plan=plan)
    copied = copied_files(checkpoint, place)
    goal = None
    if data is not None:
        goal = read_goal(data, task=checkpoint.task, dataset=dataset, max_loss=max_loss, limit=limit, seed=seed)
    proof = Proof(tolerance, wanted, seed, goal) if verify else None
    return export_checkpoint(
        checkpoint, place, copied, chosen, precision, opset=opset, quantization=options, proof=proof, progress=progress
    )
