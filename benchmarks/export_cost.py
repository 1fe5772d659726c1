#!/usr/bin/env python3
"""How long an export takes and how much memory, beside optimum's of the same checkpoint.

Whole processes, imports included, rounds alternating:

    prune-export              the default command, its proof included
    prune-export --no-verify  without
    optimum-cli               optimum-cli export onnx, as users run it (it always compares at the end, and only warns)
    imports                   a process that only imports what prune-export imports

Networks are BERT of published structures, as on the model hub, with random weights and a real tokenizer, and one of 4
million parameters with 8,194 positions, which is ours only. optimum needs transformers 4.

    python -m benchmarks.export_cost [--data ../shared] [--rounds 3]
    python -m benchmarks.export_cost --families mpnet modernbert deberta-v2 --name export-cost-families

With --families they are dense base-size networks of those families instead (benchmarks/families.py), without the proof.
Checkpoints are made in `--work` (and stay there).
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.families import NETWORKS as FAMILIES
from benchmarks.measuring import Run, as_json, run_process, write_results
from benchmarks.speed import NETWORKS, make_checkpoint
from prune_export.tasks import SPECS

IMPORTS = "import prune_export; prune_export.export; from transformers import AutoConfig"
COMMAND = "import sys; from prune_export.cli.main import main; sys.exit(main())"
PUBLISHED = ("squadv1-readme-07", "bert-large-x2.15")
LONG = "8194-positions"
ROWS = ("prune-export", "prune-export --no-verify", "optimum-cli", "imports")


def command(row: str, model: Path, folder: Path, task_name: str) -> list[str]:
    """The command of one row; its output goes into `folder`."""
    task = ["--model", str(model), "--task", task_name]
    ours = [sys.executable, "-c", COMMAND, *task, "--output", str(folder), "--target", "cpu", "--quiet"]
    return {
        "prune-export": ours,
        "prune-export --no-verify": [*ours, "--no-verify"],
        "optimum-cli": [str(Path(sys.executable).parent / "optimum-cli"), "export", "onnx", *task, str(folder)],
        "imports": [sys.executable, "-c", IMPORTS],
    }[row]


def make_long(folder: Path) -> None:
    """A RoBERTa with thousands of positions, as Longformer's relatives have them, with random weights; made once."""
    from transformers import RobertaConfig, RobertaForQuestionAnswering

    if (folder / "model.safetensors").is_file():
        return
    config = RobertaConfig(
        vocab_size=8000,
        hidden_size=192,
        num_hidden_layers=2,
        num_attention_heads=6,
        intermediate_size=768,
        max_position_embeddings=8194,
        type_vocab_size=1,
    )
    RobertaForQuestionAnswering(config).save_pretrained(folder)


def add_tokenizer(data: Path, folder: Path) -> None:
    """A real one of the same vocabulary: proof reads text where there is one."""
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(data / "models" / "minilm-qa-dense" / name, folder / name)


def measure(
    model: Path, rows: tuple[str, ...], rounds: int, *, task_name: str = "question-answering"
) -> dict[str, Any]:
    """All rows on one checkpoint, in alternating rounds; the first one is compared with optimum's."""
    runs: dict[str, list[Run]] = {row: [] for row in rows}
    sizes: dict[str, float] = {}
    for turn in range(rounds):
        for row in rows:
            with tempfile.TemporaryDirectory(dir=model.parent) as folder:
                output = Path(folder) / "out"
                runs[row].append(run_process(command(row, model, output, task_name)))
                sizes[row] = sum(path.stat().st_size for path in output.glob("*.onnx*")) / 2**20
            print(f"{model.name}: round {turn}: {row}: {runs[row][-1]}", flush=True)
    found: dict[str, Any] = {
        "mib": sum(path.stat().st_size for path in model.glob("*.safetensors")) / 2**20,
        "onnx_mib": {row: size for row, size in sizes.items() if size},
        "rows": {row: as_json(own) for row, own in runs.items()},
    }
    if "optimum-cli" in rows:
        ours, theirs = runs[rows[0]], runs["optimum-cli"]
        found["time_of_optimum_cli"] = median(a.seconds / b.seconds for a, b in zip(ours, theirs, strict=True))
        found["memory_of_optimum_cli"] = median(a.peak_mib / b.peak_mib for a, b in zip(ours, theirs, strict=True))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared"), help="where tools/ and models/ lie")
    parser.add_argument("--work", type=Path, default=Path("build/bench"), help="where checkpoints are made")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--name", default="export_cost", help="name of the results file")
    parser.add_argument(
        "--families", nargs="+", choices=FAMILIES, help="networks of families instead, in build/families"
    )
    options = parser.parse_args()
    networks: dict[str, Any] = {}
    for name in options.families or ():
        model = Path("build/families") / name
        # A process begins with the peak of the one that starts it: nothing large is made in this one.
        make = f"from benchmarks.families import *; make_checkpoint({name!r}, Path({str(model)!r}))"
        subprocess.run([sys.executable, "-c", make], check=True)
        task_name = next(task for task, spec in SPECS.items() if FAMILIES[name].architecture.endswith(spec.suffix))
        networks[name] = measure(model, ROWS[1:], options.rounds, task_name=task_name)
    for name in () if options.families else PUBLISHED:
        model = options.work / name
        make_checkpoint(NETWORKS[name].structure, options.data, model)
        with tempfile.TemporaryDirectory(dir=options.work) as folder:
            # benchmarks.speed has these checkpoints without a tokenizer.
            copy = Path(shutil.copytree(model, Path(folder) / name))
            add_tokenizer(options.data, copy)
            networks[name] = measure(copy, ROWS, options.rounds)
    if not options.families:
        make_long(options.work / LONG)
        networks[LONG] = measure(options.work / LONG, ROWS[:2], options.rounds)
    print(write_results(options.name, {"rounds": options.rounds, "networks": networks}))
    for name, found in networks.items():
        for row, own in found["rows"].items():
            print(f"{name}: {row}: {own['seconds']['median']:.1f} s, {own['peak_mib']['median']:,.0f} MiB")
        for key in ("time_of_optimum_cli", "memory_of_optimum_cli"):
            if key in found:
                print(f"{name}: {key}: {found[key]:.2f}")


if __name__ == "__main__":
    main()
