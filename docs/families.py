#!/usr/bin/env python3
"""Writes docs/families.md: what is supported of each model family, out of the families and targets themselves.

python -m docs.families
"""

from __future__ import annotations

from pathlib import Path

from exporters.errors import WriteError
from exporters.onnx.precision import PRECISIONS
from exporters.onnx.targets import TARGETS
from exporters.onnx.writer import check_precision
from exporters.tasks import TASKS
from prune_export.families import FAMILIES
from prune_export.families.names import Family

PAGE = Path(__file__).with_name("families.md")

_BEGINNING = """\
# Model families

<!-- Made by `python -m docs.families` from prune_export/families and exporters/onnx/targets: change the text there. -->

All families are read, pruned, trained, exported and compared in the same way. Every cell of this table is a test
(`tests/test_families.py`), on transformers 4.57 and on 5.x, where they have it: a tiny network per family, task, target and
dtype against the untouched Hugging Face model. `cuda-packed` has no kernels on CPUs; its graphs are tested by shape, and
run on a GPU.
"""
_NOTES = """\
## What is particular

- **MPNet**: scores have a bias by distance, one table for all layers. A head without query or key attends by that bias.
- **DeBERTa** (v1, v2, v3, mDeBERTa): scores have terms by distance. The tables that they read are computed when the graph is
  written, and shrink with heads and query/key dimensions. With a term from position to content the key bias matters, and
  stays. Padding attends to all tokens alike, as in transformers; what it answers in a sliced network is left open.
  DeBERTa-v2-xlarge and -xxlarge, which have a convolution, are refused, and so is fill-mask with `legacy: false` below
  transformers 5.
- **ModernBERT**: queries and keys are rotated by position, so that their dimensions go in pairs, and a key bias stays. Two
  of three layers see 64 positions to either side; on the CPU sequences of more than 320 tokens attend in blocks there, in
  time that grows with the length, and in the other layers tile by tile: memory grows with the length alone: 8,192 tokens
  of a base-size network of 12 layers take 1.4 GiB and 21 s, the portable file 8.1 GiB and 59 s (one thread of an AMD EPYC,
  `python -m benchmarks.long_inputs`). What a padded query gives is left open: its window may hold no token.
  Blocks have gates: a column goes if its product is the same for every input. Norms stand before the blocks, so that a
  block that loses everything leaves nothing. A configuration that transformers 4 and 5 would read as two networks is
  refused.
- **NomicBERT, GTE, Jina v3**: queries and keys are rotated as in ModernBERT's layers without windows, and norms follow
  the blocks. transformers has them in 5.x alone, the first two without a class for question answering. Their files name
  modules differently from the classes, and fuse some: both forms are read, and written checkpoints have the classes'
  names. Configurations with the names of the code that came with NomicBERT (`n_layer`, `n_embd`) are refused where
  transformers would read another network out of them. Jina v3 is read without its adapters, as transformers reads it.
- **EuroBERT** (transformers 5.x): queries and keys are rotated, blocks have gates, RMSNorm stands before every block, and
  the embeddings have no norm of their own. Text classification reads the first token, or a mean over tokens before or after
  the activation ("bos", "mean", "late"). The decoder of fill-mask is a matrix alone. Networks whose heads share keys and
  values (`num_key_value_heads`) are refused, and so is `clf_pooling`, the name of its own code, where it differs from
  `classifier_pooling`.
- **ALBERT**: layers share their weights, also when they are pruned.

Refused by name: other architectures. MobileBERT, remote-code types (`new`, jina-bert-v2, NeoBERT), nomic-embed v2
(mixture of experts) and EuroBERT's larger sizes, whose heads share keys, are not supported; code that comes with a model
is never run.
"""


def _dtypes(family: Family, target_name: str) -> str:
    target = TARGETS[target_name]
    if not issubclass(family.scores_kind, target.scores):
        return "–"
    names = []
    for name, precision in PRECISIONS.items():
        try:
            check_precision(target, precision)
        except WriteError:
            continue
        names.append(name)
    return ", ".join(names)


def _searches(family: Family) -> str:
    """What `search` may change."""
    shares_layers = family.model_type == "albert"
    return "heads and columns" if shares_layers else "heads and columns, `--widths`, `--uniform`"


def page() -> str:
    """The whole page."""
    targets = [f"`{name}`" for name in TARGETS]
    rows = [["`model_type`", "tasks", *targets, "`search`"], ["---"] * (len(targets) + 3)]
    for model_type, family in FAMILIES.items():
        missing = [task for task in TASKS if task not in family.heads]
        tasks = "all five" if not missing else f"all but {', '.join(missing)}"
        rows.append(
            [f"`{model_type}`", tasks, *(_dtypes(family, name) for name in TARGETS), _searches(family)],
        )
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{_BEGINNING}\n{table}\n\nThe tasks are {', '.join(TASKS)}.\n\n{_NOTES}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
