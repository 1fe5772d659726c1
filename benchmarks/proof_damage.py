#!/usr/bin/env python3
"""What the proof of an export notices: one damage at a time, then the same comparison that `prune-export` makes.

Each damaged network (benchmarks/damages.py) is written for the target cpu in fp32 and compared, over the budget's cases,
with the untouched Hugging Face model. The results say per damage whether the proof fails and how large the error is
as a share of what is allowed; "none" is the network as it is, whose share is noise.

    python -m benchmarks.proof_damage --model CHECKPOINT [CHECKPOINT …]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.damages import Damage, all_damages
from benchmarks.measuring import write_results
from exporters.encoder import Encoder
from exporters.onnx.precision import FP32
from exporters.onnx.serialize import save
from exporters.onnx.targets import TARGETS
from exporters.onnx.writer import build
from exporters.session import Session
from prune_export.checkpoint.reference_model import load_reference_model
from prune_export.network.opening import torch_runner
from prune_export.parity.budget import budget_cases
from prune_export.parity.check import Answered, compare
from prune_export.parity.inputs import text_tokenizer
from prune_export.parity.tolerance import TOLERANCES
from prune_export.tasks import SPECS
from prune_export.verbs.inspect import inspect


def judge_damages(model: str | Path, *, kind: str | None = None, seed: int = 0) -> Iterator[tuple[Damage, bool, float]]:
    """Per damage: itself, whether the proof fails, and the largest error as a share of what is allowed; first "none".

    `kind` leaves all other kinds out.
    """
    found = inspect(model)
    encoder, source = found.checkpoint.encoder, found.checkpoint.source.folder
    run = torch_runner(load_reference_model(found.checkpoint), encoder.inputs, encoder.outputs)
    cases = budget_cases(encoder, text_tokenizer(source, encoder)[0], seed=seed)
    answered = [(case, run(case.inputs)) for case in cases]
    wanted = [damage for damage in all_damages(found.slim, seed=seed) if kind in (None, damage.kind)]
    for damage in (Damage("none", ""), *wanted):
        yield damage, *_judge(found.slim, damage, answered)


def _judge(encoder: Encoder, damage: Damage, answered: Sequence[Answered]) -> tuple[bool, float]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        save(build(damage.damage(encoder), TARGETS["cpu"], FP32), path)
        session = Session(path)
        candidates = {"ONNX": (lambda batch: session.run(damage.inputs(batch)), TOLERANCES["fp32"])}
        results = compare(answered, candidates, spec=SPECS[encoder.task])
    share = max(output.max_absolute / output.allowed for result in results for output in result.outputs)
    return not all(result.passed for result in results), share


def table(found: Sequence[tuple[Damage, bool, float]]) -> list[dict[str, Any]]:
    """A row a kind: how many were noticed of how many, the smallest and the largest share, and which were not noticed."""
    kinds = dict.fromkeys(damage.kind for damage, _, _ in found)
    rows = []
    for kind in kinds:
        own = [(damage, failed, share) for damage, failed, share in found if damage.kind == kind]
        shares = [share for _, _, share in own]
        rows.append(
            {
                "damage": kind,
                "tried": len(own),
                "noticed": sum(failed for _, failed, _ in own),
                "error_over_allowed": {"min": min(shares), "max": max(shares)},
                "missed": {damage.place: share for damage, failed, share in own if not failed},
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, nargs="+", required=True)
    parser.add_argument("--name", default="proof-damage", help="name of the results file")
    options = parser.parse_args()
    networks = {}
    for model in options.model:
        found = []
        for damage, failed, share in judge_damages(model):
            found.append((damage, failed, share))
            print(
                f"{model.name}: {damage.kind} {damage.place}: {'noticed' if failed else 'missed'} ({share:.3g})",
                flush=True,
            )
        networks[model.name] = table(found)
    print(write_results(options.name, {"networks": networks}))
    for name, rows in networks.items():
        for row in rows:
            print(f"{name}: {row['damage']}: {row['noticed']} of {row['tried']}")


if __name__ == "__main__":
    main()
