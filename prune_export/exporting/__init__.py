"""The export of a loaded checkpoint."""
