"""`prune_export.export` writes a pruned checkpoint as a slim ONNX model, after comparing their answers."""

from __future__ import annotations

from exporters.errors import ProviderError
from exporters.onnx.precision import PRECISIONS
from exporters.onnx.targets.choice import available_provider, resolve_target
from exporters.onnx.writer import check_opset, check_precision
from prune_export.checkpoint.load import load_checkpoint
from prune_export.checkpoint.source import resolve
from prune_export.data.examples import Data
from prune_export.exporting.checkpoint_export import ExportResult, Proof, copied_files, export_checkpoint
from prune_export.facts.plan import Plan
from prune_export.options.export import ExportOptions
from prune_export.options.keywords import from_keywords
from prune_export.outputs.destination import model_destination
from prune_export.parity.quality import check_without_data, read_goal
from prune_export.parity.tolerance import tolerance_for
from prune_export.quantization.attempts import check_options


@from_keywords(ExportOptions, Data=Data, Plan=Plan)
def export(options: ExportOptions) -> ExportResult:
    """Exports the checkpoint `model` to `output`.

    The output has the model, config.json, the tokenizer's files and the record, prune_export.json. All files are prepared in
    a folder aside, compared with the Hugging Face model, and only then moved into place.

    The comparison spends a budget of tokens (parity/budget.py); with `thorough`, or a number of `samples`, it is that of
    `verify`. With `verify=False` it is left out, and the record says so. Where an int8 model fails, the blocks with the
    largest measured losses stay in fp32, beside those of `keep_float`.

    Raises:
        ParityError: the model does not answer like the original; nothing was written.
        PruneExportError: another error that the user can mend (exporters/errors.py has the tree).
    """
    precision = PRECISIONS[options.dtype]
    check_without_data(options)
    check_options(options, precision)
    if options.opset is not None:
        check_opset(options.opset)
    target = resolve_target(options.target, precision, needs_runtime=options.verify)
    check_precision(target, precision)
    if options.verify and target.cuda_only and not available_provider().is_gpu:
        raise ProviderError(
            f"graphs for the target {target.name} run on ONNX Runtime's CUDA provider only, which does not start here: "
            "export where it does, or give --no-verify here and run prune-export verify there"
        )
    destination = model_destination(options.output, overwrite=options.overwrite)
    source = resolve(options.model, options, progress=options.progress)
    options.progress.stage("Reading the checkpoint")
    checkpoint = load_checkpoint(source, task=options.task, plan=options.plan)
    copied = copied_files(checkpoint, destination)
    goal = read_goal(options, checkpoint.task)
    tolerance = tolerance_for(options.dtype, options.atol, metric_judged=goal is not None)
    return export_checkpoint(
        checkpoint,
        destination,
        copied,
        target,
        precision,
        opset=options.opset,
        quantization=options,
        proof=Proof(tolerance, options.random_batches, options.seed, goal) if options.verify else None,
        progress=options.progress,
    )
