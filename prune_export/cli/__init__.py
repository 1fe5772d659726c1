"""The command line, one file a verb. Nothing heavy is imported before a verb runs: `--help` is instant."""

import sys

try:
    import exporters.errors  # noqa: F401
except ImportError:
    from prune_export.distributions import foreign_exporters

    sys.exit(f"prune-export: error: {foreign_exporters()}")
