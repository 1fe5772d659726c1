"""The loader of PyTorch rows: the untouched Hugging Face model, the same compiled, or our slim network."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from exporters.cost import layer_shape
from exporters.providers import find_provider
from prune_export.benchmark.cost import cost_of_layers
from prune_export.benchmark.rows import Conditions, Cost, Row
from prune_export.benchmark.worker import Loaded, read_through
from prune_export.checkpoint.inspection import operate_on
from prune_export.checkpoint.load import Checkpoint, load_checkpoint
from prune_export.checkpoint.reference_model import load_reference_model, transformers_can_load
from prune_export.slim_model.model import slim_module
from prune_export.timing import timed

DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


def load(row: Row, conditions: Conditions) -> Loaded:
    """Loads the checkpoint in the folder `row.model`, for the task `row.options["task"]`.

    `row.kind` is "slim", "compile", or anything else for the model as it is. The load time of a slim network includes
    the surgery, unless the checkpoint is slim.
    """
    torch.set_num_threads(conditions.threads)
    provider = find_provider(conditions.provider)
    provider.check_torch()
    checkpoint = load_checkpoint(row.model, task=row.options["task"])
    _ = getattr(transformers, checkpoint.family.class_name(checkpoint.task))  # the import is not what is timed
    size = read_through(checkpoint.weights_files)
    start = time.perf_counter()
    if row.kind == "slim":
        encoder = checkpoint.encoder if checkpoint.form == "slim" else operate_on(checkpoint).slim
        cost = cost_of_layers(tuple(map(layer_shape, encoder.layers)), encoder.hidden_size)
        module: Any = slim_module(checkpoint, encoder)
        size = sum(tensor.numel() * tensor.element_size() for tensor in module.parameters())
    else:
        cost = cost_of_model(checkpoint)
        module = load_reference_model(checkpoint)
    module = module.to(provider.device, DTYPES[conditions.dtype])
    seconds = time.perf_counter() - start
    if row.kind == "compile":
        mode = "reduce-overhead" if conditions.cuda_graphs else None  # PyTorch's name for CUDA graphs
        module = torch.compile(module, mode=mode)
    return Loaded(prepare_for(module, checkpoint.encoder.inputs, conditions.provider), seconds, size, cost)


def prepare_for(
    module: Any, inputs: Sequence[str], provider: str
) -> Callable[[Mapping[str, NDArray[np.int64]]], Callable[[], float]]:
    """Returns `Loaded.prepare` for a module on `provider` ("cpu" or "cuda") that takes `inputs`.

    A run on a GPU ends when the device is done, as for ONNX rows.
    """

    chosen = find_provider(provider)

    def prepare(batch: Mapping[str, NDArray[np.int64]]) -> Callable[[], float]:
        fed = {name: torch.from_numpy(batch[name]).to(chosen.device) for name in inputs}

        def step() -> None:
            with torch.inference_mode():
                module(**fed)
            chosen.synchronize()

        return timed(step)

    return prepare


def cost_of_model(checkpoint: Checkpoint) -> Cost:
    """Returns the cost of the untouched model: zeros count, and what was removed does not."""
    sizes = checkpoint.family.dimensions(checkpoint.config)
    shapes = tuple(map(layer_shape, checkpoint.encoder.layers))
    if not transformers_can_load(checkpoint):
        shapes = (checkpoint.family.layer_shape(checkpoint.config),) * len(shapes)
    return cost_of_layers(shapes, sizes.hidden)
