#!/usr/bin/env python3
"""What batches without waste are worth: `prune_export.Pipeline` beside what people use.

The same exported folder answers the same questions three ways: optimum's question-answering pipeline with `batch_size=8`,
our session in batches of 8 in the order given, and `Pipeline`. The questions are drawn and shuffled with a seed, as
traffic comes; in the file's order neighbours share a context, and padding is little. Each row is a process of its own,
rounds alternate; loading is left out, tokenizing and decoding are not. Needs optimum (transformers 4).

    python -m benchmarks.pipeline --onnx FOLDER --data xquad-en.json [--questions 300] [--rounds 4]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measuring import spread, write_results

ROWS = ("optimum, batches of 8", "ours, batches of 8", "Pipeline")
BASELINE = ROWS[0]
BATCH_SIZE = 8


def optimum(folder: Path, pairs: list[tuple[str, str]], threads: int) -> dict[str, Any]:
    """optimum's pipeline as its documentation has it, but with our longest answer (its own is 15 tokens)."""
    from onnxruntime import SessionOptions
    from optimum.onnxruntime import ORTModelForQuestionAnswering, pipeline

    from prune_export.tasks.question_answering import MAX_ANSWER_TOKENS

    options = SessionOptions()
    options.intra_op_num_threads = threads
    model = ORTModelForQuestionAnswering.from_pretrained(folder, session_options=options)
    ask = pipeline("question-answering", model=model, tokenizer=str(folder), batch_size=BATCH_SIZE)
    inputs = [{"question": question, "context": context} for question, context in pairs]
    ask(inputs[:BATCH_SIZE], max_answer_len=MAX_ANSWER_TOKENS)
    start = time.perf_counter()
    answers = ask(inputs, max_answer_len=MAX_ANSWER_TOKENS)
    return {"seconds": time.perf_counter() - start, "answers": [answer["answer"] for answer in answers]}


def fixed(folder: Path, pairs: list[tuple[str, str]], threads: int) -> dict[str, Any]:
    """Our session and our decoding, in batches of 8 as the questions come."""
    import prune_export
    from prune_export.data.batches import collate
    from prune_export.data.features import question_features
    from prune_export.evaluation.spans import best_answer

    pipeline = prune_export.Pipeline(folder, threads=threads)
    tokenizer = pipeline.tokenizer
    pipeline(pairs[:BATCH_SIZE])
    start = time.perf_counter()
    features = question_features(pairs, tokenizer)
    windows: list[list[Any]] = [[] for _ in pairs]
    run = 0
    for first in range(0, len(features), BATCH_SIZE):
        batch = features[first : first + BATCH_SIZE]
        inputs = collate(batch, tokenizer)
        outputs = pipeline.network.run(inputs)
        run += inputs["input_ids"].size
        for row, feature in enumerate(batch):
            last = len(feature.input_ids)
            logits = (outputs["start_logits"][row, :last], outputs["end_logits"][row, :last])
            windows[feature.example].append((feature, *logits))
    answers = [best_answer(context, found).text for (_, context), found in zip(pairs, windows, strict=True)]
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "answers": answers, "tokens": _tokens(features), "tokens_with_padding": run}


def sorted_by_length(folder: Path, pairs: list[tuple[str, str]], threads: int) -> dict[str, Any]:
    """`prune_export.Pipeline`."""
    import prune_export
    from prune_export.data.batches import plan_batches
    from prune_export.data.features import question_features
    from prune_export.tasks.question_answering import MAX_ANSWER_TOKENS

    pipeline = prune_export.Pipeline(folder, threads=threads, max_answer_length=MAX_ANSWER_TOKENS)
    pipeline(pairs[:BATCH_SIZE])
    start = time.perf_counter()
    answers = [answer["answer"] for answer in pipeline(pairs)]
    seconds = time.perf_counter() - start
    features = question_features(pairs, pipeline.tokenizer)
    lengths = [len(feature.input_ids) for feature in features]
    batches = plan_batches(lengths, max_tokens=pipeline.batch_tokens)
    run = sum(len(batch) * lengths[batch[0]] for batch in batches)
    return {"seconds": seconds, "answers": answers, "tokens": _tokens(features), "tokens_with_padding": run}


def _tokens(features: Any) -> int:
    return sum(len(feature.input_ids) for feature in features)


def work(row: str, options: argparse.Namespace) -> dict[str, Any]:
    """One row, in this process."""
    from prune_export.data.examples import QuestionData, sample
    from prune_export.data.read import read_examples

    data = read_examples(options.data, task="question-answering")
    assert isinstance(data, QuestionData)
    pairs = [(found.question, found.context) for found in sample(data, options.questions, seed=0).examples]
    function = dict(zip(ROWS, (optimum, fixed, sorted_by_length), strict=True))[row]
    return function(options.onnx, pairs, options.threads)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--onnx", type=Path, required=True, help="an exported question-answering folder")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--name", default="pipeline", help="name of the results file")
    parser.add_argument("--row", choices=ROWS, help="run this row alone and print it (what the rounds do)")
    options = parser.parse_args()
    if options.row is not None:
        print(json.dumps(work(options.row, options)))
        return
    found: dict[str, list[dict[str, Any]]] = {row: [] for row in ROWS}
    for _ in range(options.rounds):
        for row in ROWS:
            command = [sys.executable, "-m", "benchmarks.pipeline", *sys.argv[1:], "--row", row]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[row].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"{row}: {found[row][-1]['seconds']:.1f} s", flush=True)
    base = found[BASELINE]
    rows = {}
    for row, runs in found.items():
        ratios = [first["seconds"] / own["seconds"] for first, own in zip(base, runs, strict=True)]
        same = sum(a == b for a, b in zip(base[0]["answers"], runs[0]["answers"], strict=True))
        rows[row] = {
            "seconds": spread([run["seconds"] for run in runs]),
            f"speed_over_{BASELINE}": {"median": median(ratios), "min": min(ratios), "max": max(ratios)},
            "answers_as_baseline": same / len(runs[0]["answers"]),
        } | {key: runs[0][key] for key in ("tokens", "tokens_with_padding") if key in runs[0]}
        print(row, json.dumps(rows[row]), flush=True)
    about = {"model": options.onnx.name, "data": options.data.name, "questions": options.questions}
    print(write_results(options.name, {**about, "threads": options.threads, "rounds": options.rounds, "rows": rows}))


if __name__ == "__main__":
    main()
