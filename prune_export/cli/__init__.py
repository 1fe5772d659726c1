"""The command line, one file per verb. No large library is imported before a verb runs, so that `--help` is instant."""

import sys

try:
    import exporters.errors  # noqa: F401
except ImportError:
    from prune_export.distributions import foreign_exporters

    sys.exit(f"prune-export: error: {foreign_exporters()}")
