"""The options of `load_slim`, `load_session` and `Pipeline`, which the command line does not have."""

from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from exporters.providers import ProviderName
from prune_export.options.evaluate import DOC_STRIDE
from prune_export.options.option import ApiOnly, Options
from prune_export.options.ranges import COUNT, COUNT_OR_NONE

if TYPE_CHECKING:
    from exporters.tasks import Task

_REASON = "what it loads lives in the calling program"
MAX_ANSWER_LENGTH = 15


class SlimFolder(Options):
    folder: Annotated[str | Path, ApiOnly("what `SlimModel.save_pretrained` wrote", _REASON)] = field(kw_only=False)


class SessionOptions(Options):
    onnx: Annotated[str | Path, ApiOnly("an exported folder or an .onnx file", _REASON)] = field(kw_only=False)
    provider: Annotated[
        ProviderName | None, ApiOnly('"cpu" or "cuda"', _REASON, default="that of the target it was exported for")
    ] = None
    threads: Annotated[int | None, ApiOnly("threads inside an operation", _REASON, default="ONNX Runtime's choice")] = (
        None
    )
    cuda_graphs: Annotated[bool, ApiOnly("batches of `bind` are captured and replayed", _REASON)] = False


class PipelineOptions(Options):
    model: Annotated[
        str | Path, ApiOnly("an exported folder, a `.onnx` file, a checkpoint's folder or a hub id", _REASON)
    ] = field(kw_only=False)
    task: Annotated["Task | None", ApiOnly("one of the four", _REASON, default="that of the model")] = None
    provider: Annotated[
        ProviderName | None, ApiOnly('"cpu" or "cuda"', _REASON, default="the model's own, or the CPU")
    ] = None
    threads: Annotated[
        int | None, ApiOnly("threads inside an operation of ONNX Runtime", _REASON, default="its choice")
    ] = None
    batch_tokens: Annotated[
        int | None,
        ApiOnly("tokens of a batch with its padding", _REASON, COUNT, default="2048, on CUDA 16384"),
    ] = None
    max_seq_length: Annotated[
        int | None,
        ApiOnly(
            "in tokens: where contexts are cut into windows, and where other texts end",
            _REASON,
            default="384, and the model's maximum",
        ),
    ] = None
    doc_stride: Annotated[int, ApiOnly("tokens that windows share", _REASON, COUNT_OR_NONE)] = DOC_STRIDE
    max_answer_length: Annotated[int, ApiOnly("tokens of an answer at most", _REASON, COUNT)] = MAX_ANSWER_LENGTH
    handle_impossible_answer: Annotated[bool, ApiOnly('the answer may be "" (models of SQuAD 2.0)', _REASON)] = False
    top_k: Annotated[int | None, ApiOnly("how many classes of a text are told (None: all)", _REASON, COUNT)] = 1
