"""Parity: whether an exported model gives the answers of the original."""
