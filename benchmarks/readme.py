#!/usr/bin/env python3
"""Puts the measured tables and the picture where the README and docs/ show them, from benchmarks/results/.

The text between two comments such as `<!-- speed -->` and `<!-- /speed -->` is replaced; the rest of the page stays:

    README.md       speed      from training-qa.json: the short table
    docs/speed.md   speed      from speed-*.json: a table per network, and the picture
    docs/speed.md   families   from speed-FAMILY.json: dense networks of base size
    docs/speed.md   cost       from export_cost.json
    docs/verify.md  damages    from proof-damage.json

    python -m benchmarks.readme
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.cost_table import cost_section
from benchmarks.damage_table import damage_section
from benchmarks.families import NETWORKS as FAMILIES
from benchmarks.measuring import RESULTS
from benchmarks.short_table import short_section
from benchmarks.speed import DENSE_ONNX, NETWORKS, OURS
from prune_export.benchmark.markdown import number
from prune_export.benchmark.picture import Panel, SpeedUpBar, draw

README = RESULTS.parent.parent / "README.md"
DOCS = README.parent / "docs"
PICTURE = "speed.svg"

Content = tuple[Path, str, str]  # the page, the name of the comments, the text between them


def read_results(folder: Path, networks: Iterable[str] = NETWORKS) -> list[dict[str, Any]]:
    """The results that are there, in the order of `networks`."""
    paths = [folder / f"speed-{network}.json" for network in networks]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]


def section(results: Sequence[dict[str, Any]], picture: str) -> str:
    """Return the text of docs/speed.md: the picture, a table per network, and the conditions of the figures."""
    parts = [f"![Speed-up over dense PyTorch, by network, batch and length]({picture})"]
    parts += [table(found) for found in results]
    parts.append(conditions(results))
    return "\n\n".join(parts)


def table(found: dict[str, Any]) -> str:
    """Return one network's table: per shape the speed-up over the first row and milliseconds; size, load time, memory."""
    shapes = found["shapes"]
    headings = [f"{shape['batch_size']} × {shape['sequence_length']}" for shape in shapes]
    lines = [
        f"| {found['network']} | {' | '.join(headings)} | MiB | loads in | memory |",
        f"|---|{'---|' * (len(shapes) + 3)}",
    ]
    for index, row in enumerate(found["rows"]):
        cells = [cell(shape["rows"][index]) for shape in shapes]
        facts = [f"{row['size_mib']:,.0f}", f"{row['load_seconds']:.2f} s", f"{row['peak_mib']:,.0f} MiB"]
        lines.append(f"| {' | '.join([row['name'], *cells, *facts])} |")
    by_flops = [max((row["flops_speed_up"] or 0 for row in shape["rows"]), default=0) for shape in shapes]
    if max(by_flops) > 1:
        cells = [f"{ratio:.2f}" for ratio in by_flops]
        lines.append(f"| *the ratio of FLOPs* | {' | '.join(f'*{words}*' for words in cells)} | | | |")
    alone = [pruning_alone(shape["rows"]) for shape in shapes]
    if None not in alone:
        cells = [f"**{ratio:.2f}×**" for ratio in alone]
        lines.append(f"| **pruning alone: {OURS.format('fp32')} over {DENSE_ONNX}** | {' | '.join(cells)} | | | |")
    return "\n".join(lines)


def pruning_alone(rows: Sequence[dict[str, Any]]) -> float | None:
    """Return the median over rounds of the dense ONNX model's time divided by the slim one's, both fp32.

    None: one of the two was not measured.
    """
    rounds = {row["row"]: row["milliseconds"]["rounds"] for row in rows}
    dense, slim = rounds.get(DENSE_ONNX), rounds.get(OURS.format("fp32"))
    if dense is None or slim is None:
        return None
    return median(before / after for before, after in zip(dense, slim, strict=True))


def cell(row: dict[str, Any]) -> str:
    return f"{row['speed_up']['median']:.2f}× ({number(row['milliseconds']['median'])} ms)"


def conditions(results: Sequence[dict[str, Any]], command: str = "make bench") -> str:
    """Return the conditions of the figures, and the warnings of the measurement; `command` measures again."""
    first = results[0]
    machine, how = first["machine"], first["conditions"]
    wanted = ("torch", "transformers", "onnxruntime")
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in wanted if name in machine["versions"])
    rounds = " or ".join(str(count) for count in sorted({found["conditions"]["rounds"] for found in results}))
    noise = max(shape["noise"] for found in results for shape in found["shapes"])
    text = (
        f"Batch × length, no padding, {how['threads']} threads on {machine['cores']} cores of an {machine['processor']}, "
        f"{how['provider']}, {rounds} alternating rounds of {how['seconds']:g} s, each row in a process of its own; "
        f"medians. Speed-up is the median over rounds of the ratio within a round, which was off by {100 * noise:.0f} % at "
        f"most: do not trust smaller differences. {machine['date']}, {versions}. `{command}` measures again."
    )
    if any("openvino" in row["kind"] for found in results for row in found["rows"]):
        text += " The rows of OpenVINO are for reference: `python -m benchmarks.speed --openvino`."
    # What the machine's noise is worth has been said; anything else has not.
    others = {
        f"Warning: {found['network']}: {warning}."
        for found in results
        for warning in found["warnings"]
        if not warning.startswith("noisy machine")
    }
    return "\n\n".join([text, *sorted(others)])


def panels(results: Sequence[dict[str, Any]]) -> list[Panel]:
    """Return a panel per network and shape."""
    return [
        Panel(
            f"{found['network']}\n{shape['batch_size']} × {shape['sequence_length']}",
            tuple(
                SpeedUpBar(
                    row["row"],
                    row["speed_up"]["median"],
                    row["speed_up"]["min"],
                    row["speed_up"]["max"],
                    row["flops_speed_up"],
                )
                for row in shape["rows"]
            ),
        )
        for found in results
        for shape in found["shapes"]
    ]


def replace_between(text: str, name: str, content: str) -> str:
    """`text` with `content` between the comments `<!-- name -->` and `<!-- /name -->`.

    Raises:
        ValueError: they are not there, or more than once.
    """
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    replaced, count = pattern.subn(lambda found: f"{found[1]}\n{content}\n\n{found[2]}", text)
    if count != 1:
        raise ValueError(f"expected <!-- {name} --> and <!-- /{name} --> once; found {count}")
    return replaced


def put(contents: Sequence[Content]) -> None:
    """Write each text between its comments."""
    for path, name, content in contents:
        try:
            path.write_text(replace_between(path.read_text(encoding="utf-8"), name, content), encoding="utf-8")
        except ValueError as error:
            raise SystemExit(f"{path.name}: {error}") from error


def contents() -> list[Content]:
    """Return the texts that are made of the results that are there."""
    pages: list[Content] = []
    if results := read_results(RESULTS):
        picture = f"../{(RESULTS / PICTURE).relative_to(README.parent).as_posix()}"
        pages.append((DOCS / "speed.md", "speed", section(results, picture)))
    if results := read_results(RESULTS, FAMILIES):
        text = [*map(table, results), conditions(results, "python -m benchmarks.families")]
        pages.append((DOCS / "speed.md", "families", "\n\n".join(text)))
    for path, name, section_of, file in (
        (README, "speed", short_section, "training-qa.json"),
        (DOCS / "speed.md", "cost", cost_section, "export_cost.json"),
        (DOCS / "verify.md", "damages", damage_section, "proof-damage.json"),
    ):
        if (RESULTS / file).is_file():
            pages.append((path, name, section_of(json.loads((RESULTS / file).read_text(encoding="utf-8")))))
    return pages


def main() -> None:
    results = read_results(RESULTS)
    if not results:
        raise SystemExit("no results: run python -m benchmarks.speed first")
    first = results[0]
    draw(panels(results), RESULTS / PICTURE, baseline=first["rows"][0]["name"], columns=len(first["shapes"]))
    put(contents())
    print(f"{PICTURE}: {', '.join(found['network'] for found in results)}")


if __name__ == "__main__":
    main()
