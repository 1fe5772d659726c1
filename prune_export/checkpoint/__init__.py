"""Checkpoints: found in a folder or on the hub, read safely, written masked or slim."""
