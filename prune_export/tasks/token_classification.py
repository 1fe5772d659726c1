"""Token classification: a class for each token of a text."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters.encoder import TokenHead
from prune_export.tasks.classes import drawn_losses, same_classes, softmax, token_divergence, token_loss
from prune_export.tasks.spec import Classes, Outputs, TaskSpec


def _decode(outputs: Outputs, text: str, offsets: NDArray[np.int64] | None, classes: Classes) -> list[dict[str, Any]]:
    """Returns the best class of each token, special ones left out."""
    assert offsets is not None
    entities = []
    for (start, end), logits in zip(offsets.tolist(), outputs["logits"], strict=True):
        if start >= 0:
            best = int(np.argmax(logits))
            word = {"word": text[start:end], "start": start, "end": end}
            entities.append({"entity": classes.labels[best], "score": float(softmax(logits)[best]), **word})
    return entities


TOKEN_CLASSIFICATION = TaskSpec(
    name="token-classification",
    head=TokenHead,
    suffix="ForTokenClassification",
    output_class="TokenClassifierOutput",
    loss=token_loss,
    sample_losses=drawn_losses,
    divergence=token_divergence,
    agree=same_classes,
    decode=_decode,
    needs_offsets=True,
    has_classes=True,
)
