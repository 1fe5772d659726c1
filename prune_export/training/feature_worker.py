"""Makes labelled features of a part of a data set, in a process of its own: few imports, so that it starts quickly."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from prune_export.data.examples import Data
from prune_export.data.features import Feature, make_features
from prune_export.data.tokenizer import load_tokenizer


def labelled_features(part: Data, options: dict[str, Any], tokenizer: Any) -> tuple[Feature, ...]:
    """Return `make_features` with labels and without character offsets; `options` are its lengths and classes."""
    features = make_features(part, tokenizer, labelled=True, **options)
    return tuple(replace(feature, offsets=None) for feature in features)


def labelled_features_of(part: Data, folder: Path, options: dict[str, Any]) -> tuple[Feature, ...]:
    """Return the same with the tokenizer in `folder`, in one thread: other processors have processes of their own."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    return labelled_features(part, options, load_tokenizer(folder))
