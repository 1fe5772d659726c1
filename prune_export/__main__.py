"""`python -m prune_export` is `prune-export`."""

from prune_export.cli.main import entry

entry()
