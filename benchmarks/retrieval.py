#!/usr/bin/env python3
"""Retrieval with pruned sentence embeddings: nDCG@10 of xquad-en's questions against its paragraphs.

Exports a checkpoint of sentence-transformers as it is and pruned, and looks for each question's own paragraph by cosine
similarity of mean-pooled states. Calibrated with questions and paragraphs of SQuADShifts, without labels. Rows that are
there are not measured again.

    python -m benchmarks.retrieval --model all-mpnet-base-v2 --data ../shared --flops 0.7 0.5

Results go to benchmarks/results/retrieval.json.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measuring import RESULTS, machine
from exporters.session import Session
from prune_export.checkpoint.tokenizer import load_tokenizer
from prune_export.cli.console import progress
from prune_export.verbs.export import export
from prune_export.verbs.load_session import load_session
from prune_export.verbs.prune import prune

PATH = RESULTS / "retrieval.json"
EVALUATION = "data/qa/xquad-en.json"
CALIBRATION = tuple(f"data/qa/squadshifts-{name}.json" for name in ("new_wiki", "reddit", "amazon"))
LENGTH, BATCH, RANKS = 384, 16, 10
Floats = NDArray[np.float32]


def paragraphs_of(path: Path) -> list[tuple[str, list[str]]]:
    """Returns each paragraph with its questions."""
    articles = json.loads(path.read_text(encoding="utf-8"))["data"]
    return [
        (paragraph["context"], [question["question"] for question in paragraph["qas"]])
        for article in articles
        for paragraph in article["paragraphs"]
    ]


def write_texts(data: Path, path: Path) -> None:
    """Writes the questions and paragraphs of the calibration data as a column of texts, and labels that do not count."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sentence", "label"])
        for name in CALIBRATION:
            for context, questions in paragraphs_of(data / name):
                writer.writerows((text, 0) for text in (context, *questions))


def embeddings(session: Session, tokenizer: Any, texts: Sequence[str]) -> Floats:
    """Returns the normalized means of the real tokens' states, `[texts, hidden]`."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    rows: list[Any] = [None] * len(texts)
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        encoded = tokenizer(
            [texts[index] for index in chosen], padding=True, truncation=True, max_length=LENGTH, return_tensors="np"
        )
        inputs = {name: np.asarray(encoded[name], dtype=np.int64) for name in session.inputs}
        states = session.run(inputs)["last_hidden_state"]
        mask = inputs["attention_mask"][:, :, None]
        means = (states * mask).sum(axis=1) / mask.sum(axis=1)
        for index, mean in zip(chosen, means / np.linalg.norm(means, axis=1, keepdims=True), strict=True):
            rows[index] = mean
    return np.stack(rows).astype(np.float32)


def ndcg(similarities: Floats, own: NDArray[np.int64]) -> float:
    """Returns nDCG@10 in per cent where each row has one relevant column, `own`: the mean of 1 / log2(1 + rank)."""
    scores = np.take_along_axis(similarities, own[:, None], axis=1)
    ranks = 1 + (similarities > scores).sum(axis=1)
    return 100 * float(np.where(ranks <= RANKS, 1 / np.log2(1 + ranks), 0.0).mean())


def measure(folder: Path, data: Path) -> dict[str, Any]:
    """Returns the quality and the size of an exported model."""
    session, tokenizer = load_session(folder), load_tokenizer(folder)
    paragraphs = paragraphs_of(data / EVALUATION)
    contexts = embeddings(session, tokenizer, [context for context, _ in paragraphs])
    questions = embeddings(session, tokenizer, [question for _, asked in paragraphs for question in asked])
    own = np.repeat(np.arange(len(paragraphs)), [len(asked) for _, asked in paragraphs])
    mib = (folder / "model.onnx").stat().st_size / 2**20
    return {"ndcg_at_10": ndcg(questions @ contexts.T, own), "questions": len(own), "mib": round(mib, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a folder of sentence-transformers")
    parser.add_argument("--data", type=Path, default=Path("../shared"))
    parser.add_argument("--work", type=Path, default=Path("build/retrieval"))
    parser.add_argument("--flops", type=float, nargs="*", default=[0.7, 0.5])
    parser.add_argument("--samples", type=int, default=512)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    found = json.loads(PATH.read_text(encoding="utf-8")) if PATH.is_file() else {"rows": []}
    texts = options.work / "calibration.csv"
    write_texts(options.data, texts)

    def row(flops: float | None, make: Callable[[], Path]) -> None:
        key = {"model": options.model.name, "flops": flops, "samples": None if flops is None else options.samples}
        if any(all(other[name] == value for name, value in key.items()) for other in found["rows"]):
            return
        start = time.perf_counter()
        checkpoint = make()
        seconds = time.perf_counter() - start
        folder = options.work / f"{options.model.name}-{flops or 1:g}"
        with progress(quiet=False) as listener:
            report = export(
                checkpoint, folder, task="feature-extraction", target="cpu", overwrite=True, progress=listener
            ).parity
        assert report is not None
        worst = {name: report.worst(name) for name in report.comparisons()}
        figures = measure(folder, options.data) | {"prune_seconds": round(seconds, 1), "parity": worst}
        print(key, figures, flush=True)
        found["rows"].append(key | figures)
        PATH.write_text(json.dumps({"machine": machine()} | {"rows": found["rows"]}, indent=1) + "\n", encoding="utf-8")

    def pruned(flops: float) -> Path:
        masked = options.work / f"{options.model.name}-masked-{flops:g}"
        with progress(quiet=False) as listener:
            prune(
                *(options.model, texts, masked),
                task="feature-extraction",
                flops=flops,
                samples=options.samples,
                overwrite=True,
                progress=listener,
            )
        return masked

    row(None, lambda: options.model)
    for flops in options.flops:
        row(flops, lambda flops=flops: pruned(flops))


if __name__ == "__main__":
    main()
