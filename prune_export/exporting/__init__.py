"""Exports of checkpoints that have been read."""
