"""`python -m prune_export.cli` is `prune-export`; launchers (torchrun, accelerate launch -m) take it by this name."""

from prune_export.cli.main import entry

entry()
