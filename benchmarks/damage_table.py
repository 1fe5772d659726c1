"""The table of docs/verify.md: which damages the proof notices, from benchmarks/results/proof-damage.json."""

from __future__ import annotations

from typing import Any


def damage_section(found: dict[str, Any]) -> str:
    """Return a row per kind of damage: per network how many were noticed of how many, and errors as shares of the limit."""
    networks: dict[str, list[dict[str, Any]]] = found["networks"]
    rows = {name: {row["damage"]: row for row in own} for name, own in networks.items()}
    kinds = dict.fromkeys(kind for own in rows.values() for kind in own if kind != "none")
    lines = [f"| damage | {' | '.join(f'{name}: noticed | error over allowed' for name in rows)} |"]
    lines.append("|---|" + "---|---|" * len(rows))
    for kind in kinds:
        cells = []
        for own in rows.values():
            row = own.get(kind)
            cells += ["–", "–"] if row is None else [f"{row['noticed']} of {row['tried']}", _range(row)]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _range(row: dict[str, Any]) -> str:
    share = row["error_over_allowed"]
    return f"{share['min']:,.2g} to {share['max']:,.2g}"
