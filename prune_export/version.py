"""The version of this distribution, the only place that says it."""

__version__ = "0.1.0"
