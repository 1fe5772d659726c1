#!/usr/bin/env python3
"""Mutation testing: changes the code a little, one place at a time, and counts the changes that no test notices (mutmut 3).

    python -m benchmarks.mutants parity
    python -m benchmarks.mutants training --sample 100 --seed 0

Each package is tested by the files that PACKAGES names, without the slow tests. What mutmut made lies in
build/mutants/PACKAGE. The figures go to benchmarks/results/mutants.json, the survivors' diffs to standard output.

Left out mechanically: the texts of strings, whatever stands in a `raise`, and `strict` of `zip`. mutmut itself leaves out
what stands outside functions, and functions under a decorator (properties, `torch.no_grad`, context managers).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import sys
from collections import Counter
from pathlib import Path
from statistics import NormalDist
from typing import Any

# Nothing of the repository is imported here: the tests must find the changed code.
ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks/results/mutants.json"

# The files of a package, and the test files that are to notice its mutants.
PACKAGES: dict[str, tuple[str, str]] = {
    "parity": ("prune_export/parity/*", "parity formulas_parity"),
    "surgeon": ("prune_export/surgeon/*", "surgeon formulas_surgeon axes"),
    "axes": ("exporters/axes.py", "axes surgeon formulas_surgeon made_up_family"),
    "families": ("prune_export/families/*", "axes families made_up_family surgeon"),
    "tasks": ("prune_export/tasks/*", "tasks metrics formulas_parity formulas_pruning pipeline"),
    "options": ("prune_export/options/*", "options numbers public_api"),
    "evaluation": ("prune_export/evaluation/*", "metrics evaluate formulas_evaluation"),
    "quantization": ("prune_export/quantization/*", "quantized formulas_quantization"),
    "exporters": ("exporters/onnx/*", "writer packed quantized formulas_exporters"),
    "sessions": ("exporters/[!o]*", "session secrets surgeon formulas_surgeon pruning"),  # all but exporters/onnx
    "data": ("prune_export/data/*", "data data_cases formulas_data train_features hostile_data"),
    "pruning": ("prune_export/pruning/*", "pruning formulas_pruning latency_tables budgets"),
    "training": (
        "prune_export/training/*",
        "training train_features train_l0 train_movement train_recipes train_distillation train_gradual train_run "
        "train_reports formulas_training",
    ),
}
NOTICED = ("killed", "timeout")
NOISE = re.compile(r",\s*strict=(True|False|None)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", choices=PACKAGES)
    parser.add_argument("--sample", type=int, help="so many mutants, drawn by --seed (otherwise all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--label", default="after", help="the name of this run in the results")
    parser.add_argument("--without-formulas", action="store_true", help="without tests/test_formulas_*.py")
    parser.add_argument(
        "--only",
        choices=("new", "unnoticed"),
        help="only mutants that were never tried, or that no test noticed so far; the rest count as before",
    )
    arguments = parser.parse_args()
    pattern, tests = PACKAGES[arguments.package]
    names = [name for name in tests.split() if not (arguments.without_formulas and name.startswith("formulas"))]
    files = [f"tests/test_{name}.py" for name in names if (ROOT / f"tests/test_{name}.py").is_file()]
    place = workspace(ROOT / "build/mutants" / arguments.package)
    os.chdir(place)
    os.environ["PRUNE_EXPORT_DATA"] = os.environ.get("PRUNE_EXPORT_DATA", str(ROOT.parent / "shared"))
    os.environ["PYTHONPATH"] = str(place / "mutants")
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != ROOT]
    verdicts, diffs = run(pattern, files, arguments)
    report(arguments, verdicts, diffs)


def workspace(place: Path) -> Path:
    """A folder with links to what mutmut copies."""
    place.mkdir(parents=True, exist_ok=True)
    for name in ("prune_export", "exporters", "tests", "benchmarks", "examples", "docs", "pyproject.toml", "README.md"):
        if not (place / name).is_symlink():
            (place / name).symlink_to(ROOT / name)
    shutil.rmtree(place / "mutants/tests", ignore_errors=True)  # tests that are gone must go
    return place


def run(pattern: str, tests: list[str], arguments: argparse.Namespace) -> tuple[dict[str, str], dict[str, str]]:
    """Each mutant's verdict and each survivor's diff, by the mutant's name."""
    from mutmut import __main__ as mutmut
    from mutmut.configuration import config
    from mutmut.mutation import mutators
    from mutmut.stats import status_by_exit_code

    mutators.mutation_operators[:] = [
        (kind, change) for kind, change in mutators.mutation_operators if change is not mutators.operator_string
    ]
    settings = config()
    settings.only_mutate = [pattern]
    settings.pytest_add_cli_args_test_selection = tests
    mutmut.copy_src_dir()
    mutmut.copy_also_copy_files()
    mutmut.create_mutants(1)
    found, _ = mutmut.collect_source_file_mutation_data(mutant_names=())
    paths = {name: data.path for data, name, _ in found}
    memory = Path("verdicts.json")  # mutmut forgets all verdicts where the list of test files changes
    last: dict[str, str] = json.loads(memory.read_text(encoding="utf-8")) if memory.is_file() else {}

    def diff(name: str) -> str:
        text: str = mutmut.get_diff_for_mutant(name, path=paths[name])
        return "\n".join(line for line in text.splitlines()[3:] if line[:1] in "+-")

    chosen = draw(sorted(paths), diff, arguments)
    known = {None: {}, "new": last, "unnoticed": {name: v for name, v in last.items() if v in NOTICED}}[arguments.only]
    wanted = [name for name in chosen if name not in known]
    if wanted:
        mutmut._run(tuple(wanted), 1)
    found, _ = mutmut.collect_source_file_mutation_data(mutant_names=())
    last |= {name: status_by_exit_code[code] for _, name, code in found if name in set(wanted)}
    memory.write_text(json.dumps(last), encoding="utf-8")
    verdicts = {name: last[name] for name in chosen}
    return verdicts, {name: diff(name) for name, verdict in verdicts.items() if verdict not in NOTICED}


def draw(names: list[str], diff: Any, arguments: argparse.Namespace) -> list[str]:
    """The mutants to try, without those that change nothing but `strict`."""
    random.Random(arguments.seed).shuffle(names)
    chosen: list[str] = []
    for name in names:
        if len(chosen) == arguments.sample:
            break
        sides = Counter(NOISE.sub("", line[1:]).rstrip(",") for line in diff(name).splitlines())
        if not all(count % 2 == 0 for count in sides.values()):
            chosen.append(name)
    return chosen


def report(arguments: argparse.Namespace, verdicts: dict[str, str], diffs: dict[str, str]) -> None:
    """Prints the survivors and notes the figures."""
    for name, text in sorted(diffs.items()):
        print(f"\n{verdicts[name]}: {name}\n{text}")
    counts = Counter(verdicts.values())
    killed = sum(counts[verdict] for verdict in NOTICED)
    low, high = interval(killed, len(verdicts))
    row = {
        "mutants": len(verdicts),
        "sampled": arguments.sample is not None,
        "seed": arguments.seed,
        "verdicts": dict(sorted(counts.items())),
        "score": round(killed / len(verdicts), 4),
        "interval_95": [round(low, 4), round(high, 4)] if arguments.sample is not None else None,
    }
    found = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {}
    found.setdefault(arguments.package, {})[arguments.label] = row
    RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"\n{arguments.package}: {killed} of {len(verdicts)} mutants noticed ({killed / len(verdicts):.1%})")


def interval(hits: int, trials: int) -> tuple[float, float]:
    """Wilson's 95 % confidence interval of a share."""
    z = NormalDist().inv_cdf(0.975)
    share, scale = hits / trials, 1 + z * z / trials
    middle = (share + z * z / (2 * trials)) / scale
    half = z / scale * (share * (1 - share) / trials + z * z / (4 * trials * trials)) ** 0.5
    return middle - half, middle + half


if __name__ == "__main__":
    main()
