"""The range of every linear map's input over calibration data, for static quantization."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from exporters import runtime
from exporters.encoder import Encoder
from exporters.onnx.context import Target
from exporters.onnx.precision import FP32
from exporters.onnx.writer import quantizable_maps
from prune_export.parity.inputs import Batch
from prune_export.quantization.trials import trial_session


def observe_ranges(
    encoder: Encoder, target: Target, batches: Sequence[Batch], *, advance: Callable[[], None] = lambda: None
) -> dict[str, tuple[float, float]]:
    """Returns the least and largest value of each linear map's input on `batches`, padding included, in float32."""
    maps = quantizable_maps(encoder)
    ranges = dict.fromkeys(maps, (float("inf"), float("-inf")))
    with trial_session(encoder, target, FP32, observe=True) as session:
        for batch in batches:
            outputs = runtime.run(session, batch)
            for name in maps:
                low, high = ranges[name]
                ranges[name] = (min(low, float(outputs[f"{name}:min"])), max(high, float(outputs[f"{name}:max"])))
            advance()
    return ranges
