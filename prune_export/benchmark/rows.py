"""The definition of a benchmark: rows (one network each), shapes, and the conditions that all rows share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from exporters.providers import CPU


@dataclass(frozen=True, slots=True)
class Shape:
    """The shape of a batch in sequences and tokens, padding included."""

    batch_size: int
    sequence_length: int

    def __str__(self) -> str:
        return f"{self.batch_size}x{self.sequence_length}"


@dataclass(frozen=True, slots=True)
class Cost:
    """FLOPs of the encoder layers for one token: `constant + per_length * sequence_length` (exporters/cost.py)."""

    constant: int
    per_length: int

    def flops_per_token(self, sequence_length: int) -> int:
        return self.constant + self.per_length * sequence_length


@dataclass(frozen=True, slots=True)
class Row:
    """One network to measure.

    `loader` is the `module:function` that loads it in its process (see worker.py); `model` is what it loads, `options` what
    else it needs to know. `cost` is None if only the loader can tell, or it is not known. `note` is for the reader.
    `form` is the checkpoint's form, or the exported model's dtype (None: not known).
    """

    name: str
    kind: str
    loader: str
    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    cost: Cost | None = None
    note: str | None = None
    form: str | None = None


@dataclass(frozen=True, slots=True)
class Conditions:
    """The conditions of all rows.

    `threads` are the threads inside an operation and `cpus` the logical processors that a process may run on. `padding`
    is the fraction of tokens that are padding. Token ids are below `vocabulary`. `dtype` is that of PyTorch rows.
    `cuda_graphs`: ONNX and compiled rows replay a captured graph.
    """

    threads: int
    cpus: tuple[int, ...] = ()
    provider: str = CPU.name
    dtype: str = "fp32"
    padding: float = 0.0
    vocabulary: int = 100
    pad_token_id: int = 0
    cuda_graphs: bool = False
