"""The graph surgeon: removes exactly what a plan does not keep, by pure functions on the parts of an Encoder."""

from prune_export.surgeon.operation import operate

__all__ = ["operate"]
