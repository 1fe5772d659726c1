"""The public functions, one per module of its name."""
