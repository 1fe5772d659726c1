#!/usr/bin/env python3
"""Asks an exported model something, through optimum.

A question-answering model gets a question and a context; a feature-extraction model (MiniLM) finds the sentence that
comes nearest in meaning to a query.

    python examples/ask.py demo/onnx
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from optimum.onnxruntime import ORTModelForFeatureExtraction, pipeline
from transformers import AutoTokenizer

QUESTION = "Where does the old bridge stand?"
CONTEXT = (
    "The town of Merrow has two bridges. The old one stands below the market and is closed to cars; the new one, "
    "a kilometre upstream, carries the road to the coast."
)
QUERY = "How do I get a refund?"
SENTENCES = (
    "Our office is closed on public holidays.",
    "You can return an unused ticket and get your money back within 30 days.",
    "The river rises in the northern hills.",
    "Please keep your luggage with you at all times.",
)


def nearest(folder: Path) -> None:
    """Mean-pooled sentence embeddings, compared by cosine."""
    model = ORTModelForFeatureExtraction.from_pretrained(folder)
    inputs = AutoTokenizer.from_pretrained(folder)([QUERY, *SENTENCES], padding=True, return_tensors="pt")
    states = model(**inputs).last_hidden_state  # [batch, sequence, hidden]
    mask = inputs["attention_mask"][:, :, None]
    embeddings = torch.nn.functional.normalize((states * mask).sum(dim=1) / mask.sum(dim=1), dim=1)
    print(f"Query: {QUERY}")
    scores = (embeddings[1:] @ embeddings[0]).tolist()
    for score, sentence in sorted(zip(scores, SENTENCES, strict=True), reverse=True):
        print(f"  {score:.2f}  {sentence}")


def answer(folder: Path) -> None:
    """The question-answering pipeline."""
    found = pipeline("question-answering", model=str(folder))(question=QUESTION, context=CONTEXT)
    print(f"{QUESTION}\n  {found['answer']}  (score {found['score']:.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder that prune-export wrote")
    folder = parser.parse_args().folder
    task = json.loads((folder / "prune_export.json").read_text(encoding="utf-8"))["task"]
    ask = {"feature-extraction": nearest, "question-answering": answer}.get(task)
    if ask is None:
        raise SystemExit(f"this example asks feature-extraction and question-answering models; {folder} is for {task}")
    ask(folder)


if __name__ == "__main__":
    main()
