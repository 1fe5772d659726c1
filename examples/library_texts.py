#!/usr/bin/env python3
"""Writes English texts that every Python has: paragraphs of the standard library's docstrings.

They calibrate the demo, which prunes a sentence embedding model and must work in a clean clone. A model is best calibrated
with what it will read; for real work take your own texts. Feature extraction needs no labels, so those written here (the
form is that of GLUE's SST-2) mean nothing.

    python examples/library_texts.py demo/texts.tsv
"""

from __future__ import annotations

import argparse
import ast
import re
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

# Prose: a capital, then words and plain punctuation, then a full stop. Leaves out signatures, tables and examples of code.
_PROSE = re.compile(r"[A-Z][A-Za-z0-9 ,.;:()'\"-]{60,600}\.")


def docstrings(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            yield ast.get_docstring(node) or ""


def paragraphs(files: Iterable[Path]) -> list[str]:
    """Each once, in the order of the files."""
    found = (
        " ".join(paragraph.split()) for path in files for text in docstrings(path) for paragraph in text.split("\n\n")
    )
    return list(dict.fromkeys(text for text in found if _PROSE.fullmatch(text)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="a .tsv file")
    output = parser.parse_args().output
    texts = paragraphs(sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text("sentence\tlabel\n" + "".join(f"{text}\t0\n" for text in texts), encoding="utf-8")
    print(f"{output}: {len(texts):,} paragraphs")


if __name__ == "__main__":
    main()
