"""Parity: whether an exported model answers like the original."""
