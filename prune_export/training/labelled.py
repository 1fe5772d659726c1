"""Labelled features of a part of a data set, made in a process of its own: imports are few, so that it starts quickly."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from prune_export.checkpoint.tokenizer import load_tokenizer
from prune_export.data.examples import Data
from prune_export.data.features import Feature, make_features


def labelled_features(part: Data, options: dict[str, Any], tokenizer: Any) -> tuple[Feature, ...]:
    """What training needs of `make_features`: labels, and no character offsets. `options` are its lengths and classes."""
    features = make_features(part, tokenizer, labelled=True, **options)
    return tuple(replace(feature, offsets=None) for feature in features)


def labelled_features_of(part: Data, folder: Path, options: dict[str, Any]) -> tuple[Feature, ...]:
    """The same with the tokenizer in `folder`, in one thread: the other processors have processes of their own."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    return labelled_features(part, options, load_tokenizer(folder))
