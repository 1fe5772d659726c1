"""A thin layer over onnx_ir's tape: names, weights that are converted only when written, constants stored once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from exporters.errors import WriteError
from exporters.onnx.precision import TORCH_DTYPES

Attribute = int | float | str | Sequence[int] | ir.Attr
Transform = Callable[[Tensor], Tensor]

CONTRIB = "com.microsoft"


def _identity(tensor: Tensor) -> Tensor:
    return tensor


def transposed(tensor: Tensor) -> Tensor:
    """Transposes `[out_features, in_features]` to `[in_features, out_features]`, which MatMul takes."""
    return tensor.t()


class GraphBuilder:
    """Collects the nodes and initializers of one graph."""

    def __init__(self) -> None:
        self.graph_inputs: list[ir.Value] = []
        self.graph_outputs: list[ir.Value] = []
        self.domains: set[str] = {""}
        self._tape = ir.tape.Tape()  # of the graph, or of a branch while that is made
        self._whole = self._tape
        self._scopes: list[str] = []
        self._counts: dict[str, int] = {}
        self._weights: dict[tuple[object, ...], ir.Value] = {}
        self._constants: dict[tuple[str, bytes, tuple[int, ...]], ir.Value] = {}
        self._kept: list[Tensor] = []  # weights are identified by their memory, which must not be used again

    @property
    def nodes(self) -> Sequence[ir.Node]:
        return self._tape.nodes

    @property
    def initializers(self) -> Sequence[ir.Value]:
        return self._whole.initializers

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Puts `name/` before the names of the nodes and values that are made inside."""
        self._scopes.append(name)
        yield
        self._scopes.pop()

    def path(self, label: str) -> str:
        """Returns `label` after the names of the current scopes."""
        return "/".join((*self._scopes, label))

    def _name(self, label: str) -> str:
        path = self.path(label)
        count = self._counts.get(path, 0)
        self._counts[path] = count + 1
        return path if count == 0 else f"{path}_{count}"

    def input(self, name: str, dtype: ir.DataType, shape: Sequence[str | int]) -> ir.Value:
        value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
        self.graph_inputs.append(value)
        return value

    def output(self, value: ir.Value, name: str, dtype: ir.DataType, shape: Sequence[str | int]) -> None:
        """Makes `value` a graph output under `name`."""
        value.name, value.type, value.shape = name, ir.TensorType(dtype), ir.Shape(shape)
        self.graph_outputs.append(value)

    def op(self, op_type: str, *inputs: ir.Value | None, domain: str = "", **attributes: Attribute) -> ir.Value:
        """Adds a node with one output, and returns that."""
        return self.op_outputs(op_type, *inputs, count=1, domain=domain, **attributes)[0]

    def contrib(self, op_type: str, *inputs: ir.Value | None, dtype: ir.DataType, **attributes: Attribute) -> ir.Value:
        """Adds one of ONNX Runtime's own operations, with one output of type `dtype`.

        The type is written into the file, because ONNX's shape inference and the tools that use it do not know them.
        """
        output = self.op(op_type, *inputs, domain=CONTRIB, **attributes)
        output.type = ir.TensorType(dtype)
        return output

    def op_outputs(
        self, op_type: str, *inputs: ir.Value | None, count: int, domain: str = "", **attributes: Attribute
    ) -> Sequence[ir.Value]:
        """Adds a node with `count` outputs, and returns them."""
        self.domains.add(domain)
        name = self._name(op_type)
        names = [f"{name}:{index}" for index in range(count)]
        outputs = [ir.Value(name=value) for value in names]
        return self._tape.op_multi_out(op_type, inputs, attributes, domain=domain, name=name, outputs=outputs)

    def conditional(
        self,
        condition: ir.Value,
        then: Callable[[], ir.Value],
        otherwise: Callable[[], ir.Value],
        dtype: ir.DataType,
    ) -> ir.Value:
        """Adds an If, whose branches are what `then` and `otherwise` add; each returns its branch's output, of type `dtype`.

        Weights and constants that a branch makes belong to the whole graph.
        """
        branches = {"then_branch": then, "else_branch": otherwise}
        graphs: dict[str, Any] = {
            name: ir.AttrGraph(name, self._branch(name, make, dtype)) for name, make in branches.items()
        }
        output = self.op("If", condition, **graphs)
        output.type = ir.TensorType(dtype)
        return output

    def _branch(self, name: str, make: Callable[[], ir.Value], dtype: ir.DataType) -> ir.Graph:
        outer, self._tape = self._tape, ir.tape.Tape()
        with self.scope(name):
            output = make()
            output.type = ir.TensorType(dtype)
            graph = ir.Graph([], [output], nodes=self._tape.nodes, name=self.path("graph"))
        self._tape = outer
        return graph

    def weight(
        self,
        tensor: Tensor,
        label: str,
        dtype: ir.DataType,
        transform: Transform = _identity,
        *,
        constant_scale: float = 1.0,
    ) -> ir.Value:
        """Returns an initializer of `transform(tensor) * constant_scale`, which is computed when the file is written.

        The same memory in the same form is the same initializer: shared and tied weights are stored once.
        """
        shape = transform(tensor.new_empty(tensor.shape, device="meta")).shape
        evaluate = partial(_evaluate, tensor, transform, constant_scale)
        return self.computed_weight([tensor], label, dtype, shape, evaluate, transform, constant_scale)

    def joined_weight(
        self, parts: Sequence[tuple[Tensor, float]], label: str, dtype: ir.DataType, transform: Transform = _identity
    ) -> ir.Value:
        """Returns an initializer of several `[out_features, …]` tensors below each other, each multiplied by its factor.

        They are joined when the file is written, not before: nothing is held twice.
        """
        tensors, factors = [tensor for tensor, _ in parts], tuple(factor for _, factor in parts)
        rows = sum(tensor.shape[0] for tensor in tensors)
        shape = transform(tensors[0].new_empty((rows, *tensors[0].shape[1:]), device="meta")).shape
        return self.computed_weight(
            tensors, label, dtype, shape, partial(_evaluate_joined, parts, transform), transform, factors
        )

    def computed_weight(
        self,
        tensors: Sequence[Tensor],
        label: str,
        dtype: ir.DataType,
        shape: Sequence[int],
        evaluate: Callable[[], Tensor],
        *form: object,
    ) -> ir.Value:
        """Returns the initializer of `shape` that `evaluate` makes of `tensors` when the file is written.

        The same memory and `form` give the same one.
        """
        memory = tuple((tensor.data_ptr(), tuple(tensor.shape), tensor.stride()) for tensor in tensors)
        key = (memory, dtype, *form)
        if key not in self._weights:
            target = TORCH_DTYPES[dtype]
            name = self._name(label)

            def converted() -> ir.TensorProtocol:
                values = evaluate()
                if target != values.dtype:
                    values = _converted(values, target, name)
                return ir.Tensor(values.contiguous().numpy(), name=name)

            lazy = ir.LazyTensor(converted, dtype=dtype, shape=ir.Shape(shape), name=name)
            self._weights[key] = self._whole.initializer(lazy)
            self._kept.extend(tensors)
        return self._weights[key]

    def constant(self, values: object, dtype: type[np.generic]) -> ir.Value:
        """Returns a small constant; equal constants are stored once."""
        array = np.asarray(values, dtype=dtype)
        key = (array.dtype.str, array.tobytes(), array.shape)
        if key not in self._constants:
            name = f"constants/{len(self._constants)}"
            self._constants[key] = self._whole.initializer(ir.Tensor(array, name=name))
        return self._constants[key]

    def integers(self, *values: int) -> ir.Value:
        """Returns a constant int64 vector."""
        return self.constant(values, np.int64)

    def shape_of(self, *parts: int | ir.Value) -> ir.Value:
        """Returns an int64 vector for Reshape from numbers and int64 vectors of one element."""
        if all(isinstance(part, int) for part in parts):
            return self.integers(*(part for part in parts if isinstance(part, int)))
        values = [self.integers(part) if isinstance(part, int) else part for part in parts]
        return self.op("Concat", *values, axis=0)

    def cast(self, value: ir.Value, source: ir.DataType, target: ir.DataType) -> ir.Value:
        """Casts `value` from `source` to `target`; no node if they are the same."""
        return value if source == target else self.op("Cast", value, to=int(target))


def _evaluate(tensor: Tensor, transform: Transform, factor: float) -> Tensor:
    values = transform(tensor)
    return values if factor == 1.0 else values * factor


def _evaluate_joined(parts: Sequence[tuple[Tensor, float]], transform: Transform) -> Tensor:
    return transform(torch.cat([_evaluate(tensor, _identity, factor) for tensor, factor in parts]))


def _converted(values: Tensor, target: torch.dtype, name: str) -> Tensor:
    result = values.to(target)
    if not torch.isfinite(result).all():
        largest = values.abs().max().item()
        raise WriteError(
            f"fp16 cannot hold the weight '{name}': its largest value is {largest:.6g}, fp16 ends at 65504. "
            "Export with --dtype fp32."
        )
    return result
