#!/usr/bin/env python3
"""Writes labelled English texts that every Python has: is a paragraph of the library's docstrings about talking to others?

"positive" are paragraphs from modules for networks, mail, the web, and other processes (`TALKING`), "negative" all others;
the form is that of GLUE's SST-2. Every fourth file is held out, so that no text is judged whose neighbours were
learnt. Real texts with real labels, but an easy task: it shows that a recipe works, not what a method is worth.

    python examples/library_topics.py build/topics      # writes train.tsv and dev.tsv there
    prune-export train examples/recipes/minilm-topics.toml --model "$(python examples/minilm.py)"
"""

from __future__ import annotations

import argparse
import sysconfig
from pathlib import Path

from library_texts import paragraphs

_TALKING = """
    asyncio asyncore asynchat cgi concurrent email ftplib html http imaplib mailbox multiprocessing nntplib poplib select
    selectors signal smtpd smtplib socket socketserver ssl subprocess telnetlib threading urllib uuid webbrowser wsgiref
    xmlrpc
"""
TALKING = frozenset(_TALKING.split())
_LEFT_OUT = {"test", "idlelib", "lib2to3", "site-packages", "dist-packages", "ensurepip", "turtledemo"}


def topics(folder: Path) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return (text, label) for training and for judging; each text once."""
    train: list[tuple[str, str]] = []
    held_out: list[tuple[str, str]] = []
    seen: set[str] = set()
    files = [path for path in sorted(folder.rglob("*.py")) if not _LEFT_OUT & set(path.relative_to(folder).parts)]
    for number, path in enumerate(files):
        module = path.relative_to(folder).parts[0].removesuffix(".py")
        label = "positive" if module in TALKING else "negative"
        for text in paragraphs([path]):
            if text not in seen:
                seen.add(text)
                (held_out if number % 4 == 3 else train).append((text, label))
    return train, held_out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="a folder")
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    for name, texts in zip(("train.tsv", "dev.tsv"), topics(Path(sysconfig.get_paths()["stdlib"])), strict=True):
        lines = "".join(f"{text}\t{label}\n" for text, label in texts)
        (output / name).write_text(f"sentence\tlabel\n{lines}", encoding="utf-8")
        positive = sum(label == "positive" for _, label in texts)
        print(f"{output / name}: {len(texts):,} texts, {positive:,} of them positive")


if __name__ == "__main__":
    main()
