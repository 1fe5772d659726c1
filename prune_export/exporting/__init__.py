"""The export of a checkpoint that has been read."""
