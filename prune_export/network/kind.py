"""The names of kinds of networks in tables."""

from __future__ import annotations

_KINDS = {
    "onnx": "ONNX",
    "pytorch": "PyTorch",
    "compile": "torch.compile",
    "slim": "slim PyTorch",
    "dense": "PyTorch, random weights",
    "dense-onnx": "ONNX, random weights",
    "optimum": "ONNX of optimum",
}
_FORMS = {"plain": "", "slim": "", "hub": "hub format"}


def network_kind(kind: str, form: str | None = None) -> str:
    """Says what a network of `kind` is: "ONNX, int8", "PyTorch, masked", "slim PyTorch".

    `form` is a checkpoint's form (`prune_export.checkpoint.load.Form`), or an exported model's dtype; None: not known.
    """
    name, more = _KINDS.get(kind, kind), _FORMS.get(form or "", form)
    return f"{name}, {more}" if more else name
