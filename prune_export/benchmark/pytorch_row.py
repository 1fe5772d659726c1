"""Loads a PyTorch row: the untouched Hugging Face model, the same compiled, or our slim network."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from exporters.cost import LayerShape, layer_shape
from exporters.errors import ProviderError
from prune_export.benchmark.cost import cost_of_layers
from prune_export.benchmark.rows import Conditions, Cost, Row
from prune_export.benchmark.timing import by_wall_clock
from prune_export.benchmark.worker import Loaded, read_through
from prune_export.checkpoint.load import Checkpoint, load_checkpoint
from prune_export.checkpoint.oracle import load_oracle, transformers_can_load
from prune_export.inspection import operate_on
from prune_export.slim_model.api import module_of

DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


def load(row: Row, conditions: Conditions) -> Loaded:
    """`row.model` is a checkpoint's folder, `row.kind` "slim", "compile", or anything else for the model as it is.

    `row.options["task"]` is the task. The load time of a slim network includes the surgery, unless the checkpoint is slim.
    """
    torch.set_num_threads(conditions.threads)
    if conditions.provider == "cuda" and not torch.cuda.is_available():
        raise ProviderError("PyTorch finds no CUDA device here; use --provider cpu")
    checkpoint = load_checkpoint(row.model, task=row.options["task"])
    _ = getattr(transformers, checkpoint.family.class_name(checkpoint.task))  # the import is not what is timed
    size = read_through(checkpoint.weights_files)
    start = time.perf_counter()
    if row.kind == "slim":
        encoder = checkpoint.encoder if checkpoint.form == "slim" else operate_on(checkpoint).slim
        cost = cost_of_layers(tuple(map(layer_shape, encoder.layers)), encoder.hidden_size)
        module: Any = module_of(checkpoint, encoder)
        size = sum(tensor.numel() * tensor.element_size() for tensor in module.parameters())
    else:
        cost = cost_of_model(checkpoint)
        module = load_oracle(checkpoint)
    module = module.to(conditions.provider, DTYPES[conditions.dtype])
    seconds = time.perf_counter() - start
    if row.kind == "compile":
        mode = "reduce-overhead" if conditions.cuda_graphs else None  # PyTorch's name for CUDA graphs
        module = torch.compile(module, mode=mode)
    inputs = checkpoint.encoder.inputs

    def prepare(batch: Mapping[str, NDArray[np.int64]]) -> Callable[[], float]:
        fed = {name: torch.from_numpy(batch[name]).to(conditions.provider) for name in inputs}

        def step() -> None:
            with torch.inference_mode():
                module(**fed)

        return by_events(step) if conditions.provider == "cuda" else by_wall_clock(step)

    return Loaded(prepare, seconds, size, cost)


def cost_of_model(checkpoint: Checkpoint) -> Cost:
    """The cost of the untouched model: what is zero counts, what is not there does not."""
    sizes = checkpoint.family.dimensions(checkpoint.config)
    shapes = tuple(map(layer_shape, checkpoint.encoder.layers))
    if not transformers_can_load(checkpoint):
        shapes = (LayerShape(sizes.heads, sizes.head_size, sizes.head_size, sizes.intermediate),) * len(shapes)
    return cost_of_layers(shapes, sizes.hidden)


def by_events(step: Callable[[], object]) -> Callable[[], float]:
    """Runs `step` on the GPU and returns the milliseconds from its start to the end of its last kernel."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def timed() -> float:
        start.record()
        step()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end))

    return timed
