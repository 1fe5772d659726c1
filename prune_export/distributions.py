"""Who owns the top-level package `exporters`, a name that other distributions use as well."""

from __future__ import annotations

from importlib.metadata import distributions
from importlib.util import find_spec

_OURS = "prune-export"
_ADVICE = "Install prune-export again in an environment of its own"


def others_with_exporters() -> tuple[str, ...]:
    """Returns the names of other installed distributions that put files into a top-level package `exporters`."""
    names = set()
    for distribution in distributions():
        files = distribution.read_text("RECORD") or ""
        packages = distribution.read_text("top_level.txt") or ""
        if "exporters" in packages.split() or files.startswith("exporters/") or "\nexporters/" in files:
            names.add(distribution.metadata["Name"] or "a distribution without a name")
    return tuple(sorted(names - {_OURS}))


def shared_exporters() -> str | None:
    """Returns the warning for an environment where another distribution writes into `exporters`; None otherwise."""
    if not (others := others_with_exporters()):
        return None
    return (
        f"{' and '.join(others)} installs a top-level package 'exporters', as prune-export does, and each overwrites files "
        f"of the other. {_ADVICE}"
    )


def foreign_exporters() -> str:
    """Returns the error for an `exporters` that is not ours, or is incomplete."""
    spec = find_spec("exporters")
    places = ", ".join((spec.submodule_search_locations or ()) if spec else ()) or "nowhere"
    owners = " and ".join(others_with_exporters()) or "no other installed distribution"
    return f"prune-export needs its own package 'exporters'; found {places}, which {owners} claims. {_ADVICE}"
