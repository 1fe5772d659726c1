"""Measurements, each a script that writes benchmarks/results/*.json; never run as tests."""
