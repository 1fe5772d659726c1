"""The writer of ONNX files: one tensor in memory at a time, and the same bytes for the same model.

protobuf would hold every weight twice more (once in the message, once in its encoded form). Here it encodes everything
but the weights' bytes, which go from the tensor straight into the file, where the encoding
(https://protobuf.dev/programming-guides/encoding) has them: tag, length, bytes. The result is an ordinary ONNX file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import onnx
import onnx_ir as ir

# A protobuf message ends at 2 GiB; what is left is for the graph itself.
SINGLE_FILE_LIMIT = 2**31 - 2**24

_LENGTH_DELIMITED = 2
_INLINE_BELOW = 1024  # with external data, bytes under which a tensor stays in the model file (shapes must)


def weights_size(model: ir.Model) -> int:
    """Returns the bytes of all weights."""
    return sum(_tensor(value).nbytes for value in model.graph.initializers.values())


def save(
    model: ir.Model,
    path: Path,
    *,
    progress: Callable[[int], None] | None = None,
    single_file_limit: int = SINGLE_FILE_LIMIT,
) -> tuple[Path, ...]:
    """Writes `model` to `path`, and above `single_file_limit` bytes its weights to `<path>_data` beside it.

    `progress` is called with the bytes written since its last call. `model` gives up its weights.

    Returns:
        The files written.
    """
    if weights_size(model) > single_file_limit:
        return _save_external(model, path, progress)
    _save_single(model, path, progress)
    return (path,)


def _tensor(value: ir.Value) -> ir.TensorProtocol:
    assert value.const_value is not None, value.name
    return value.const_value


def _save_external(model: ir.Model, path: Path, progress: Callable[[int], None] | None) -> tuple[Path, ...]:
    data = path.with_name(f"{path.name}_data")

    def report(tensor: ir.TensorProtocol, _: object) -> None:
        if progress is not None:
            progress(tensor.nbytes)

    ir.save(model, path, external_data=data.name, size_threshold_bytes=_INLINE_BELOW, callback=report)
    return (path, data)


def _save_single(model: ir.Model, path: Path, progress: Callable[[int], None] | None) -> None:
    tensors = [_tensor(value) for value in model.graph.initializers.values()]
    model.graph.initializers.clear()
    message = ir.serde.serialize_model(model)
    graph = message.graph.SerializeToString(deterministic=True)
    message.ClearField("graph")
    headers = [_header(tensor) for tensor in tensors]
    size = len(graph) + sum(len(header) + tensor.nbytes for header, tensor in zip(headers, tensors, strict=True))
    with path.open("wb") as file:
        file.write(message.SerializeToString(deterministic=True))
        file.write(_prefix(onnx.ModelProto, "graph", size))
        file.write(graph)
        for header, tensor in zip(headers, tensors, strict=True):
            file.write(header)
            _write_values(tensor, file)
            if progress is not None:
                progress(tensor.nbytes)


def _header(tensor: ir.TensorProtocol) -> bytes:
    """Encodes a GraphProto.initializer up to the tensor's raw bytes."""
    fields = onnx.TensorProto(name=tensor.name, data_type=int(tensor.dtype), dims=tensor.shape.numpy())
    encoded = fields.SerializeToString(deterministic=True) + _prefix(onnx.TensorProto, "raw_data", tensor.nbytes)
    header: bytes = _prefix(onnx.GraphProto, "initializer", len(encoded) + tensor.nbytes) + encoded
    return header


def _write_values(tensor: ir.TensorProtocol, file: BinaryIO) -> None:
    array = tensor.numpy()
    file.write(array.astype(array.dtype.newbyteorder("<"), order="C", copy=False).data.cast("B") if array.size else b"")


def _prefix(message: type, field: str, length: int) -> bytes:
    """Encodes the tag and the length of a length-delimited field."""
    number = message.DESCRIPTOR.fields_by_name[field].number  # type: ignore[attr-defined]
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(length)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
