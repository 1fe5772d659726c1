"""Fuzzing of every reader of foreign files: `make fuzz`, and a few cases of it as a test."""
