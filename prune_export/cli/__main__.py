"""Runs `prune-export` as `python -m prune_export.cli`, the name that launchers (torchrun, accelerate launch -m) take."""

from prune_export.cli.main import entry

entry()
