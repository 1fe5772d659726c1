"""Dropout as the recipe wants it, whatever the checkpoint's configuration says."""

from __future__ import annotations

from torch import nn


def set_dropout(model: nn.Module, probability: float) -> None:
    """Sets every dropout of `model`, a transformers model or a slim one, to `probability`.

    Attention that is one operation keeps its probability as a number (`dropout_prob`: transformers 4's name, and ours).
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability
        if isinstance(getattr(module, "dropout_prob", None), float):
            module.dropout_prob = probability  # type: ignore[assignment]
