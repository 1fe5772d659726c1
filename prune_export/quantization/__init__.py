"""Preparation of int8: ranges of activations, and the linear maps that lose too much accuracy."""
